"""Who makes the runs: processes on this machine, a Ray cluster, or SLURM."""
