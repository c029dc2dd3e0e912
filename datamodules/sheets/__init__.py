"""One data sheet per dataset."""
