"""What networks are worth: scores and labels -> metrics with intervals, curves, localisation. Research use only."""
