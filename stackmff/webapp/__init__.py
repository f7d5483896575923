"""The page in the browser: its server, the work for it, and what it keeps."""
