"""Batched simulators behind one contract. Depends on NumPy, Gymnasium and the simulators only."""
