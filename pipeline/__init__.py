"""Bulk screening of chest-CT archives with DRE-Net on MPI ranks. Research use only, not a medical device."""

__version__ = "0.1.0"
