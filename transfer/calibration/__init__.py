"""How sure a network may be: its temperature, when it should not answer, and which classes an image may be of."""
