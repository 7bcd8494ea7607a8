"""The synthetic chest: patients that prove the machinery, and say nothing about clinical accuracy."""

from pipeline.phantom.chest import Phantom, chest, torso
from pipeline.phantom.cohort import CohortPlan, write_cohort
from pipeline.phantom.writer import write_archive

__all__ = ["CohortPlan", "Phantom", "chest", "torso", "write_archive", "write_cohort"]
