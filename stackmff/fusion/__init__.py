"""Fusion: frames to a picture, and all that is made of it."""
