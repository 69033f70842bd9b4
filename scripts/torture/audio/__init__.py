"""What ``hours.py`` is made of: a room, its microphone, the daemon that listens, and what it should have heard."""
