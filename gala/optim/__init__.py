"""Optimisers and schedules. Independent of gossip."""
