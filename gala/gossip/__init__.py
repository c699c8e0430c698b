"""Asynchronous gossip averaging of parameters. Depends on torch, numpy and the standard library only."""
