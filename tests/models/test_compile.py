"""Compiled encoders: the same numbers under the same names, on a CPU and, replayed as CUDA graphs, on a GPU."""

import shutil

import gymnasium as gym
import numpy as np
import pytest
import torch

from gala.build.envs import Spaces
from gala.build.policy import make_training_policy
from gala.config import derived
from gala.config.parse import parse_config
from gala.config.validate import validate
from gala.gossip.flat import flatten_gradients, flatten_parameters

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no CUDA GPU")
SPACES = Spaces(gym.spaces.Box(-1, 1, (5,), np.float32), gym.spaces.Discrete(3), 1)


def _gradient(mode: str, device: str) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """(gradient of a loss of an unroll, parameters of three acting passes of other sizes, names)."""
    words = ["preset=classic/cartpole", f"model.compile={mode}", f"device={device}"]
    policy = make_training_policy(parse_config(words), SPACES, 0)
    flat = flatten_parameters(policy.parameters())
    flatten_gradients(flat, policy)
    make = torch.Generator().manual_seed(0)
    obs = torch.randn(8, 6, 5, generator=make).to(device)
    first = torch.zeros(8, 6, dtype=torch.bool, device=device)
    with torch.no_grad():
        acts = [policy(obs[0, :n], policy.initial_state(n, device), first[0, :n]).params for n in (6, 6, 2)]
    for _ in range(2):
        flat.grad.zero_()
        out = policy.unroll(obs, policy.initial_state(6, device), first)
        (out.value.square().sum() + out.params.square().sum()).backward()
    return flat.grad.cpu(), torch.cat(acts).cpu(), list(policy.state_dict())


@pytest.mark.long
@needs_compiler
def test_a_compiled_encoder_computes_the_same():
    plain, compiled = _gradient("none", "cpu"), _gradient("default", "cpu")
    for a, b in zip(plain[:2], compiled[:2], strict=True):
        assert a.norm() > 1e-3 and torch.allclose(a, b, rtol=1e-4, atol=1e-6)
    assert plain[2] == compiled[2]


@needs_gpu
@pytest.mark.parametrize("mode", ["default", "cuda-graphs"])
def test_on_a_gpu_too(mode):
    plain, compiled = _gradient("none", "cuda"), _gradient(mode, "cuda")
    for a, b in zip(plain[:2], compiled[:2], strict=True):
        assert a.norm() > 1e-3 and torch.allclose(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("words", [[], ["device=cpu"], ["device=cuda", "a2c.passes=1"]])
def test_cuda_graphs_are_refused_where_there_can_be_none(words):
    config = parse_config(["preset=atari/pong", "model.compile=cuda-graphs", *words])
    with pytest.raises(ValueError, match=r"^model.compile=cuda-graphs needs device=cuda and a2c.passes=2"):
        validate(config)
    assert not derived.is_one_pass(config)
