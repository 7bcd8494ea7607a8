"""Ranks: how they start, speak, agree, stall and end. Nothing is imported here: MPI must come before all else."""
