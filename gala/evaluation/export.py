"""A trained policy as one file for others: weights with a model card, or a graph for other runtimes."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from gala_envs.parts import num_mask, without_mask
from torch import Tensor, nn

from gala.build.envs import probe_spaces
from gala.config.derived import changed_settings, whose
from gala.config.extras import install
from gala.config.parse import dump_config
from gala.evaluation import weights
from gala.evaluation.card import hub_header, model_card
from gala.evaluation.load import checkpoint_hash, load_policy
from gala.evaluation.weights import CARD, Description
from gala.files.whole import write_atomically
from gala.models.actor_critic import ActorCritic, num_parameters
from gala.rl.normalise import ObsNormalizer
from gala.runs.evaluations import evaluation_text, read_evaluations
from gala.runs.run_dir import RunDir, versions

_EXAMPLE_ROWS = 2  # of one row, exporters would make a constant
Trained = tuple[ActorCritic, ObsNormalizer | None, Description]


def trained(run_dir: RunDir, checkpoint: str, learner: int | str) -> Trained:
    """The policy of a checkpoint, its frozen normaliser, and what describes them. Raises ValueError as ``load_policy``
    does."""
    config = run_dir.config
    spaces = probe_spaces(config)
    policy, normalizer = load_policy(run_dir, config, spaces, checkpoint, learner)
    assert isinstance(spaces.obs, gym.spaces.Box)
    return policy, normalizer, Description(config.model, spaces.obs, spaces.action, config.env.id)


def export_weights(run_dir: RunDir, checkpoint: str, learner: int | str, path: Path, name: str = "") -> str:
    """One safetensors file with all that ``gala.load`` wants, the settings, what `gala eval` found of this checkpoint,
    and a model card, which is returned. ``name``: by which the card loads it, if not by that of the file."""
    policy, normalizer, content = trained(run_dir, checkpoint, learner)
    told = about(run_dir, checkpoint, learner, content, num_parameters(policy), name or path.name)
    weights.write(path, policy, normalizer, content._replace(about=told), overwrite=True)
    return told[CARD]


def about(
    run_dir: RunDir, checkpoint: str, learner: int | str, content: Description, parameters: int, name: str
) -> dict[str, str]:
    """The texts beside the weights; paths of this machine are left out of them."""
    wanted, masks = checkpoint_hash(run_dir, checkpoint), num_mask(content.obs_space)
    found = [told for told in read_evaluations(run_dir.path) if told.get("checkpoint_hash") == wanted]
    found = [{key: value for key, value in told.items() if key != "video"} for told in found]
    facts = {
        "environment": content.env,
        "observations": str(without_mask(content.obs_space)),
        "actions": str(content.action_space) + (", masked: `act` wants `action_mask`" if masks else ""),
        "algorithm": f"{run_dir.config.algo}, {run_dir.config.learners} learners",
        "trained for": f"{run_dir.checkpoint_meta(checkpoint).get('env_steps', 0):,} env_steps",
        "checkpoint": f"{checkpoint} of learner {whose(run_dir.config, learner)}",
        "network": f"{content.model.encoder}, {parameters:,} parameters",
    }
    config, limit = replace(run_dir.config, run="", overwrite=False), run_dir.config.env.max_episode_steps
    own = [told for told in found if told["learner"] == str(learner) and told.get("max_episode_steps", limit) == limit]
    header, texts = hub_header(content.env, own), [evaluation_text(told) for told in found]
    return {
        CARD: model_card(header, facts, texts, changed_settings(config), name),
        "config.yaml": dump_config(config),
        "evaluations.json": json.dumps(found),
        "versions.json": json.dumps({key: value for key, value in versions().items() if value}),
    }


class Graph(nn.Module):
    """``obs -> (action, params, value)``, of recurrent policies ``(obs, state, first) -> (..., state)``; the normaliser
    and the bounds of the actions are inside. ``action`` is the most probable one. Where actions are masked, ``obs`` is
    the vector of ``gala_envs.parts.with_mask``."""

    mean: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, policy: ActorCritic, normalizer: ObsNormalizer | None, action_space: gym.Space) -> None:
        super().__init__()
        self.policy = copy.deepcopy(policy).eval()
        for parameter in self.policy.parameters():  # no views of one vector any more
            parameter.data = parameter.data.clone()
        self.policy.bf16 = False  # other runtimes have no autocast; the parameters are float32 anyway
        self.normalized = normalizer is not None
        if normalizer is not None:
            scale = 1.0 / np.sqrt(normalizer.applied.std**2 + 1e-8)
            self.register_buffer("mean", torch.from_numpy(np.asarray(normalizer.applied.mean, np.float64)))
            self.register_buffer("scale", torch.from_numpy(np.asarray(scale, np.float64)))
            self.clip = normalizer.clip
        self.bounded = isinstance(action_space, gym.spaces.Box)
        if isinstance(action_space, gym.spaces.Box):
            self.register_buffer("low", torch.from_numpy(action_space.low.astype(np.float32)))
            self.register_buffer("high", torch.from_numpy(action_space.high.astype(np.float32)))

    def forward(self, obs: Tensor, state: Tensor | None = None, first: Tensor | None = None) -> tuple[Tensor, ...]:
        if self.normalized:
            seen = self.policy.seen(obs).double()
            numbers = ((seen - self.mean) * self.scale).clamp(-self.clip, self.clip).float()
            masks = obs[:, obs.shape[1] - self.policy.num_mask :].float() if self.policy.num_mask else None
            obs = numbers if masks is None else torch.cat([numbers.flatten(1), masks], 1)
        recurrent = state is not None and first is not None
        if state is None or first is None:
            state = obs.new_zeros(obs.shape[0], 0, dtype=torch.float32)
            first = torch.zeros(obs.shape[0], dtype=torch.bool)
        out = self.policy(obs, state, first)
        action = self.policy.act(out.params, greedy=True)
        if self.bounded:
            action = torch.minimum(torch.maximum(action, self.low), self.high)
        return (action, out.params, out.value, *((out.state,) if recurrent else ()))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Inside, PyTorch's exporters keep to themselves what they miss and nobody needs, torchvision say."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _inputs(policy: ActorCritic, space: gym.spaces.Box) -> dict[str, Tensor]:
    """Example inputs by their names."""
    dtype = torch.uint8 if space.dtype == np.uint8 else torch.float32
    inputs = {"obs": torch.zeros(_EXAMPLE_ROWS, *space.shape, dtype=dtype)}
    if policy.gru_size:
        inputs["state"] = torch.zeros(_EXAMPLE_ROWS, policy.gru_size)
        inputs["first"] = torch.zeros(_EXAMPLE_ROWS, dtype=torch.bool)
    return inputs


def _outputs(policy: ActorCritic) -> list[str]:
    return ["action", "params", "value", *(["next_state"] if policy.gru_size else [])]


def onnx_bytes(made: Trained, told: Mapping[str, str]) -> bytes:
    """An ONNX model of any batch size; its metadata holds ``told``. Inputs and outputs are named as in ``Graph``, the
    state that comes out ``next_state``."""
    policy, normalizer, content = made
    inputs = _inputs(policy, content.obs_space)
    batch = torch.export.Dim("batch")
    with _quiet():
        program = torch.onnx.export(
            Graph(policy, normalizer, content.action_space).eval(),
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=_outputs(policy),
            dynamic_shapes=tuple({0: batch} for _ in inputs),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    for key, value in told.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    data: bytes = model.SerializeToString()
    return data


def torch_export_bytes(made: Trained, told: Mapping[str, str]) -> bytes:
    """A program of ``torch.export``, of any batch size, with ``told`` as extra files;
    ``torch.export.load(FILE).module()`` runs it without gala."""
    policy, normalizer, content = made
    inputs = _inputs(policy, content.obs_space)
    batch = torch.export.Dim("batch")
    file = io.BytesIO()
    with _quiet():
        program = torch.export.export(
            Graph(policy, normalizer, content.action_space).eval(),
            tuple(inputs.values()),
            dynamic_shapes=tuple({0: batch} for _ in inputs),
        )
        torch.export.save(program, file, extra_files=dict(told))
    return file.getvalue()


GRAPHS: dict[str, tuple[Callable[[Trained, Mapping[str, str]], bytes], str, tuple[str, ...]]] = {
    "onnx": (onnx_bytes, ".onnx", ("onnx", "onnxscript")),
    "torch-export": (torch_export_bytes, ".pt2", ()),
}
"""Format -> what makes it, how its files end, and the packages that it needs."""


def check_format(name: str) -> None:
    """Raises ValueError if a package is missing for it."""
    missing = [package for package in GRAPHS[name][2] if importlib.util.find_spec(package) is None]
    if missing:
        raise ValueError(f"format={name} needs {' and '.join(missing)}: {install('export')}")


def export_graph(run_dir: RunDir, checkpoint: str, learner: int | str, name: str, path: Path) -> None:
    """Write the policy as one of ``GRAPHS``."""
    made = trained(run_dir, checkpoint, learner)
    told = about(run_dir, checkpoint, learner, made[2], num_parameters(made[0]), path.name)
    write_atomically(path, GRAPHS[name][0](made, told))
