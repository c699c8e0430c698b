"""Settings -> the policy on its device, and the process that runs it."""

from __future__ import annotations

import dataclasses

import gymnasium as gym
import torch
from gala_envs.parts import without_mask

from gala.build.envs import Spaces
from gala.config.derived import is_lean, network_threads
from gala.config.schema import Config
from gala.models.actor_critic import ActorCritic, build_actor_critic, num_parameters
from gala.models.by_parts import PartsEncoder
from gala.models.distributions import policy_range
from gala.models.encoders import ImageEncoder
from gala.models.receptive_field import receptive_field
from gala.processes.resources import keep_freed_memory
from gala.rl.lean import LeanPolicy


def prepare_process(config: Config) -> None:
    """Threads and memory of a learner's process, before it computes anything."""
    if config.keep_freed_memory:
        keep_freed_memory()
    torch.set_num_threads(network_threads(config))


def make_policy(config: Config, spaces: Spaces) -> ActorCritic:
    """The network with the initial parameters of ``config.seed``: equal in every learner.

    Raises:
        ValueError: it does not fit into memory, or is impossible.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        try:
            return build_actor_critic(spaces.obs, spaces.action, config.model)
        except (RuntimeError, MemoryError) as error:
            if "alloc" not in str(error) and "overflow" not in str(error).lower():
                raise
            raise ValueError(
                "the network does not fit into memory; make model.hidden, width or blocks smaller"
            ) from None


_COMPILE_MODES = {"default": "default", "cuda-graphs": "reduce-overhead"}


def make_training_policy(config: Config, spaces: Spaces, rank: int) -> ActorCritic:
    """The policy of a learner, on its device, compiled if that is wanted."""
    policy = make_policy(config, spaces).to(pick_device(config, rank))
    if config.model.compile != "none":
        policy.compile_encoders(_COMPILE_MODES[config.model.compile])
    return policy


def make_lean(config: Config, policy: ActorCritic, space: gym.Space, device: torch.device) -> LeanPolicy | None:
    """What acts and learns in ``policy``'s place where that is possible; its parameters have their gradients by now."""
    if not is_lean(config) or device.type != "cpu" or isinstance(policy.encoder, PartsEncoder):
        return None
    return LeanPolicy(policy, space, policy_range(space) if isinstance(space, gym.spaces.Box) else ())


def refuse_frozen(policy: torch.nn.Module, what: str) -> None:
    """Raises ValueError if some parameters do not learn, so that ``what`` has no gradient of all."""
    if frozen := [name for name, p in policy.named_parameters() if not p.requires_grad]:
        raise ValueError(f"{what} needs the gradient of all parameters, and {frozen[0]} does not learn (requires_grad)")


class NoGpu(ValueError):
    """CUDA was asked for, and there is none."""

    says_all = True
    """See ``gala.processes.child.Failure``."""


def pick_device(config: Config, rank: int) -> torch.device:
    """Round-robin over the GPUs there are. Raises NoGpu if CUDA was asked for and there is none."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise NoGpu("device=cuda, but PyTorch sees no CUDA GPU here; use device=auto or device=cpu")
    if config.device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", rank % torch.cuda.device_count())


def pick_device_to_play(config: Config, asked: str) -> torch.device:
    """For the policy of a run that may have been trained elsewhere: ``asked``, a ``Config.device``; auto is as the run
    had it, and the CPU where a run on GPUs lies on a machine without. Raises NoGpu as ``pick_device``."""
    wanted = config.device if asked == "auto" and config.device != "cuda" else asked
    return pick_device(dataclasses.replace(config, device=wanted), 0)


def count_parameters(config: Config, spaces: Spaces) -> int:
    """Numbers that are learned, of the policy and its value function together."""
    return num_parameters(make_policy(config, spaces))


def has_relu(policy: ActorCritic) -> bool:
    """Whether an encoder has a ``torch.nn.ReLU``, at whose outputs diagnostics can look."""
    encoders = [encoder for encoder in (policy.encoder, policy.critic_encoder) if encoder is not None]
    return any(isinstance(module, torch.nn.ReLU) for encoder in encoders for module in encoder.modules())


def encoder_summary(config: Config, spaces: Spaces) -> str:
    """One line: the encoder's name, and for convolutions what one location of its last maps sees; of several, who reads
    what."""
    encoder, name = make_policy(config, spaces).encoder, config.model.encoder
    if isinstance(encoder, PartsEncoder):
        return encoder.summary()
    if not isinstance(encoder, ImageEncoder):  # of a user's own, nothing says in what order its layers follow
        return name
    seen = receptive_field(encoder)
    assert isinstance(spaces.obs, gym.spaces.Box)
    height, width = without_mask(spaces.obs).shape[-2:]
    return (
        f"{name}: receptive field {seen.size} px of {height} x {width}, stride {seen.stride} px, "
        f"pooling {config.model.pooling}, {num_parameters(encoder):,} parameters"
    )
