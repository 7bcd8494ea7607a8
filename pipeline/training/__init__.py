"""Training: a cohort -> a network. Research use only."""
