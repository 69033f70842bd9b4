"""Programs changed on purpose, and whether a test notices."""
