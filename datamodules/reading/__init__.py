"""Where images and labels come from: hub, archives, tables, streams."""
