"""How images are augmented: transforms, operations, policies, and decoding no more than a crop needs."""
