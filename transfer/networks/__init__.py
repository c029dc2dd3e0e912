"""Networks: layers, scaling, families of rows, heads, and the classifier made of them."""
