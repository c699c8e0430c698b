"""One training: the supervising parent and its learners."""
