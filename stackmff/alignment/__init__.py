"""Alignment: brings the frames of a stack onto one of them, in geometry and exposure."""
