"""The synthetic chest: patients that prove the machinery, and say nothing about clinical accuracy."""

from pipeline.phantom.chest import Phantom, chest
from pipeline.phantom.cohort import CohortPlan, write_cohort
from pipeline.phantom.writer import write_archive

__all__ = ["CohortPlan", "Phantom", "chest", "write_archive", "write_cohort"]
