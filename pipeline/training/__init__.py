"""Training, evaluation and comparison: patients with labels -> networks and their figures. Research use only."""
