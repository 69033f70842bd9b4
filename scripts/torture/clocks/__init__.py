"""Clocks that are turned, and parts of the product that live by them: see scripts/torture/clock.py."""
