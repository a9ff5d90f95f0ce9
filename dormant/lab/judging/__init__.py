"""From run folders to verdicts: one table, a number for each run, intervals, claims."""
