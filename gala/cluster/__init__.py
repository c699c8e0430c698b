"""Learners on the machines of a Ray cluster: the only package that knows of Ray. Imported when a run asks for it."""
