"""A user's own encoders, environments, topologies and optimisers. Needs the standard library alone."""
