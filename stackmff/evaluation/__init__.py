"""Evaluation: scores of fused pictures, and what fusing them costs."""
