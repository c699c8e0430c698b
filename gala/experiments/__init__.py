"""Several trainings and what can be said of them."""
