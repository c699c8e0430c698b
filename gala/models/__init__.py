"""Encoders, distributions and actor-critics."""
