"""The synthetic chest: patients that prove the machinery, and say nothing about clinical accuracy."""

from pipeline.phantom.chest import Phantom, chest
from pipeline.phantom.writer import write_archive

__all__ = ["Phantom", "chest", "write_archive"]
