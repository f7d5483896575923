"""Training: data sets, batches, the run and its record."""
