"""What scripts/doctor.py looks for: every image is inspected once; duplicates and suspect labels are found in that."""
