"""Measures training as it is: real learners, interleaved with each other and with what the machine could do."""
