"""What the doctor looks for: every image is inspected once; duplicates and suspect labels are found in that."""

# Measured on CIFAR-10 (60,000 images, 28 pairs of each bin looked at): up to distance 8 with a correlation of at least
# 0.9 every pair was one picture, and 956 of 956 pairs have the same label; at distance 10 a quarter were not.
NEAR_DISTANCE = 8
