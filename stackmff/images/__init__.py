"""Files to arrays and back: formats, metadata, folders, stacks."""
