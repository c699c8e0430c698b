"""What a learner is in the middle of: its simulators' episodes, the recurrent state, and every random stream.

With it a resumed learner goes on as if it had never stopped. It is there only if the simulators can be restored; else
episodes and streams begin anew, and the checkpoint says why.
"""

from __future__ import annotations

import random

import numpy as np
import torch
from gala_envs import snapshots
from torch import Tensor

from gala.rl.normalise import ReturnScaler
from gala.rl.rollout import Collector, Policy
from gala.rl.simulators import Playable


class InProgress:
    """Reads it from the parts of a learner, and puts it back.

    Args:
        generator: the stream that actions are drawn from.
        scaler: what scales rewards by running returns, if anything does.
    """

    def __init__(
        self,
        env: Playable,
        collector: Collector,
        policy: Policy,
        generator: torch.Generator,
        scaler: ReturnScaler | None,
    ) -> None:
        self._env, self._collector, self._policy = env, collector, policy
        self._generator, self._scaler = generator, scaler

    def begin(self, env_seed: int, action_seed: int) -> None:
        """New episodes and new streams."""
        self._generator.manual_seed(action_seed)
        torch.manual_seed(action_seed)  # for dropout and augmentation
        random.seed(action_seed)  # these two for environments that draw from them
        np.random.seed(action_seed)
        self._collector.reset(self._policy, env_seed)

    def tensors(self) -> dict[str, Tensor]:
        """Where it stands, between two updates. Raises ``snapshots.Unrestorable``."""
        streams = {"numpy": np.random.get_state(legacy=False), "python": random.getstate()}
        data = snapshots.dumps({"simulators": snapshots.get_state(self._env), **streams})
        tensors = {"simulators": torch.frombuffer(bytearray(data), dtype=torch.uint8)}
        tensors |= {"action_stream": self._generator.get_state(), "torch_stream": torch.get_rng_state()}
        if self._generator.device.type == "cuda":
            tensors["cuda_stream"] = torch.cuda.get_rng_state(self._generator.device)
        if self._scaler is not None:
            tensors["running_returns"] = torch.from_numpy(self._scaler.running_returns)
        return tensors | self._collector.standing()

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what ``tensors`` gave."""
        state = snapshots.loads(tensors["simulators"].numpy().tobytes())
        snapshots.set_state(self._env, state["simulators"])
        self._collector.go_on(self._policy, tensors)
        if self._scaler is not None:
            self._scaler.running_returns[:] = tensors["running_returns"].numpy()
        np.random.set_state(state["numpy"])  # the streams last: what came before may have drawn from them
        random.setstate(state["python"])
        torch.set_rng_state(tensors["torch_stream"])
        if tensors["action_stream"].shape == self._generator.get_state().shape:  # a GPU's stream is no CPU's
            self._generator.set_state(tensors["action_stream"])
        if "cuda_stream" in tensors and self._generator.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["cuda_stream"], self._generator.device)
