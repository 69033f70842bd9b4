"""What somebody may try who has no right to: as whom, on what, and what was found of it."""
