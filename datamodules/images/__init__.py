"""From files to arrays: decoding, transforms, augmentation, cache."""
