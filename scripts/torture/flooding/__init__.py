"""The parts of ``flood.py``: who floods, whom, and who looks on."""
