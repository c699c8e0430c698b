"""``gala compare``: a grid of trainings, existing runs, or rows of results, compared with statistics."""
