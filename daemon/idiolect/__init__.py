"""Idiolect: a voice daemon for headless smart speakers that learns its people on the device."""

__version__ = "0.1.0"
