"""A slow board, a full house, and what is measured on it: see scripts/torture/load.py."""
