"""The process that is killed, what it does, how each step is marked, and what must be left of it."""
