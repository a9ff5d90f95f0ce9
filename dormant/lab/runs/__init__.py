"""Run folders: training that resumes, checkpoints, rows of metrics, and what a folder holds."""
