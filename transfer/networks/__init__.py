"""Networks: layers, scaling, the families' tables, heads, and the classifier built from them."""
