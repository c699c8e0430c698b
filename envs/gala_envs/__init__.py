"""Batched simulators behind one contract. Depends on NumPy, Gymnasium and the simulators only."""

from gala_envs.contract import BatchedEnv, EnvError, Step, check_batched_env
from gala_envs.for_gymnasium import as_gymnasium, as_gymnasium_vector
from gala_envs.registry import list_env_ids, make

__all__ = [
    "BatchedEnv",
    "EnvError",
    "Step",
    "as_gymnasium",
    "as_gymnasium_vector",
    "check_batched_env",
    "list_env_ids",
    "make",
]
