"""Advantage actor-critic: rollouts, returns, the loss, the loop."""
