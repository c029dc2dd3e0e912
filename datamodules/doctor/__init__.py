"""What the doctor looks for: every image is inspected once; duplicates and suspect labels are found in that."""
