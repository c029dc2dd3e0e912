"""How a finished network computes its outputs: engines of several libraries, and the choice among them."""
