"""Pictures of runs and graphs. Needs matplotlib (extra ``plot``)."""
