"""A cohort: the labelled patients of an archive, the part of each, and their slices, prepared once and kept."""
