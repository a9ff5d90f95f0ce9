"""The laboratory: runs that can be interrupted, what they leave on disk, and what is made of it."""
