"""A disk that fails, what runs on it, and what must be left of it."""
