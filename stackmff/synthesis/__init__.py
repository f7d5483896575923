"""Synthesis: photographs and drawn scenes to stacks with exact answers."""
