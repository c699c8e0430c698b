"""Asynchronous gossip averaging of parameters. Depends on torch and the standard library only."""
