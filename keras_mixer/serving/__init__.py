"""Using what was trained and exported."""
