"""One study: its files -> slices -> a prediction of every network. Nothing is imported here: torch is heavy."""
