"""Config -> objects. The only reader of configuration fields, together with ``gala.config.validate``."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from gala.config.schema import Config
from gala.gossip.flat import still_flat
from gala.gossip.graphs.by_name import choose_topology
from gala.gossip.graphs.topology import Topology
from gala.models.actor_critic import ActorCritic, build_actor_critic, num_parameters
from gala.optim.rmsprop_tf import RMSpropTF
from gala.optim.schedules import SCHEDULES, scaled_lr
from gala.optim.slowmo import SlowMo
from gala.processes.resources import available_cores, keep_freed_memory
from gala.rl.normalise import ObsNormalizer, ReturnScaler

OPTIMIZERS: dict[str, Callable[[list[torch.Tensor], Config], torch.optim.Optimizer]] = {
    "rmsprop_tf": lambda p, c: RMSpropTF(p, c.optim.lr, c.optim.rmsprop_alpha, c.optim.eps),
    "rmsprop": lambda p, c: torch.optim.RMSprop(p, c.optim.lr, c.optim.rmsprop_alpha, c.optim.eps),
    "adam": lambda p, c: torch.optim.Adam(p, c.optim.lr, (c.optim.adam_beta1, c.optim.adam_beta2), c.optim.eps),
}


@dataclass(frozen=True)
class Spaces:
    """One simulator's spaces and its action repeat: what a policy is built from."""

    obs: gym.Space
    action: gym.Space
    frames_per_step: int


def make_env(config: Config, num_envs: int, **overrides: Any) -> Any:
    """``num_envs`` simulators of ``config.env``; ``overrides`` replace fields of EnvConfig."""
    from gala_envs.registry import make

    options = dataclasses.asdict(dataclasses.replace(config.env, **overrides))
    env_id, backend = options.pop("id"), options.pop("backend")
    options["threads"] = options["threads"] or threads_per_learner(config)
    return make(env_id, num_envs, backend=backend, **options)


def make_training_env(config: Config, rank: int) -> Any:
    """The simulators of one learner, in their groups, as slow as ``config.delay`` wants them."""
    groups = [make_env(config, config.envs_per_learner // config.env_groups) for _ in range(config.env_groups)]
    for env in groups[1:]:
        if hasattr(env, "episodes"):
            env.episodes = groups[0].episodes  # counted together
    if config.delay.mean_s:
        from gala_envs.delays import DelayedEnv

        d, seed = config.delay, seeds(config, rank, 0)[0]
        slow = d.slow_learner if rank == config.learners - 1 else 1.0
        groups = [DelayedEnv(env, d.mean_s, d.sigma, seed + i, slow) for i, env in enumerate(groups)]
    if config.env_groups == 1:
        return groups[0]
    from gala_envs.groups import GroupedEnv

    return GroupedEnv(groups)


def episodes_by_context(env: Any) -> dict[str, int]:
    """Id of each training MDP that was played -> episodes begun on it; empty for what has no contexts."""
    if not hasattr(env, "episodes"):
        return {}
    return {uid: int(n) for uid, n in zip(env.contexts.uids, env.episodes, strict=True) if n}


def add_episodes_by_context(env: Any, counts: dict[str, int]) -> None:
    """Counts of an earlier part of the run. Raises ValueError if it was trained on other MDPs than these."""
    if foreign := set(counts) - set(env.contexts.uids if counts else ()):
        raise ValueError(f"this run was trained on MDPs that env.contexts does not hold: {min(foreign)}, ...")
    for uid, n in counts.items():
        env.episodes[env.contexts.uids.index(uid)] += n


def prepare_process(config: Config) -> None:
    """Threads and memory of a learner's process, before it computes anything."""
    if config.keep_freed_memory:
        keep_freed_memory()
    torch.set_num_threads(network_threads(config))


def make_evaluation_env(config: Config, num_envs: int) -> Any:
    """As in training, but played to the end of the game: a lost life ends nothing."""
    from gala_envs.registry import BACKENDS, resolve_backend

    backend = BACKENDS[resolve_backend(config.env.id, config.env.backend)]
    whole_games = {"life_loss_ends_episode": False} if "life_loss_ends_episode" in backend.options else {}
    return make_env(config, num_envs, **whole_games)


def probe_spaces(config: Config) -> Spaces:
    """Builds one simulator and closes it again, so that an impossible environment is refused before anything starts."""
    env = make_env(config, 1, vectorization="sync")
    try:
        return Spaces(env.obs_space, env.action_space, env.frames_per_step)
    finally:
        env.close()


def make_policy(config: Config, spaces: Spaces) -> ActorCritic:
    """The network with the initial parameters of ``config.seed``: equal in every learner."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return build_actor_critic(spaces.obs, spaces.action, config.model)


_COMPILE_MODES = {"default": "default", "cuda-graphs": "reduce-overhead"}


def make_training_policy(config: Config, spaces: Spaces, rank: int) -> ActorCritic:
    """The policy of a learner, on its device, compiled if that is wanted."""
    policy = make_policy(config, spaces).to(pick_device(config, rank))
    if config.model.compile != "none":
        policy.compile_encoders(_COMPILE_MODES[config.model.compile])
    return policy


def make_optimizer(config: Config, flat: torch.Tensor) -> torch.optim.Optimizer:
    return OPTIMIZERS[config.optim.name]([flat], config)


def learning_rate(config: Config) -> Callable[[float], float]:
    """progress in [0, 1] -> learning rate."""
    base = scaled_lr(config.optim.lr, config.optim.lr_scaling, total_envs(config), config.optim.lr_reference_envs)
    schedule = SCHEDULES[config.optim.schedule]
    return lambda progress: base * schedule(progress)


def entropy_coefficient(config: Config) -> Callable[[float], float]:
    """progress in [0, 1] -> entropy coefficient."""
    schedule = SCHEDULES[config.a2c.entropy_schedule]
    return lambda progress: config.a2c.entropy_coef * schedule(progress)


def make_normalizer(config: Config, spaces: Spaces) -> ObsNormalizer | None:
    if not config.normalize.obs:
        return None
    assert spaces.obs.shape is not None
    return ObsNormalizer(spaces.obs.shape, config.normalize.obs_clip)


RewardShaper = Callable[[NDArray, NDArray, NDArray], NDArray]


def make_reward_shaper(config: Config) -> tuple[RewardShaper, ReturnScaler | None]:
    """(reward, done, valid) -> reward as learned from, and the scaler behind it if it has a state."""
    if config.normalize.reward == "scale":
        scaler = ReturnScaler(config.envs_per_learner, config.a2c.gamma, config.normalize.reward_clip)
        return scaler, scaler
    if config.normalize.reward == "sign":
        return lambda reward, done, valid: np.sign(reward), None
    return lambda reward, done, valid: reward, None


def total_envs(config: Config) -> int:
    return config.learners * config.envs_per_learner


def threads_per_learner(config: Config) -> int:
    """An equal share of the cores that this process may really use, at least 1."""
    return max(1, available_cores() // config.learners)


def with_threads(config: Config, threads: int) -> Config:
    """``config`` for a learner that has ``threads`` to itself, on a machine that others may share."""
    env = dataclasses.replace(config.env, threads=config.env.threads or threads)
    network = config.torch_threads or (1 if config.model.encoder == "mlp" else threads)
    return dataclasses.replace(config, env=env, torch_threads=network)


def network_threads(config: Config) -> int:
    """PyTorch threads of a learner. Dense layers of a few dozen units are slower on two threads than on one."""
    return config.torch_threads or (1 if config.model.encoder == "mlp" else threads_per_learner(config))


def pick_device(config: Config, rank: int) -> torch.device:
    """Round-robin over the GPUs there are. Raises ValueError if CUDA was asked for and there is none."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device=cuda, but PyTorch sees no CUDA GPU here; use device=auto or device=cpu")
    if config.device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", rank % torch.cuda.device_count())


def is_one_pass(config: Config) -> bool:
    """Whether the passes that choose the actions are differentiated, instead of a second pass over the rollout.

    With dropout or augmentation they are: a second pass would not see what the action was chosen by.
    """
    if config.model.compile == "cuda-graphs":  # each replay overwrites the outputs of the one before
        return False
    if config.a2c.passes == "auto":
        return config.model.encoder != "mlp" or config.model.dropout > 0 or config.model.augment != "none"
    return config.a2c.passes == "1"


def is_lock_step(config: Config) -> bool:
    """All learners make the same number of updates, each waiting for the others'."""
    g = config.gossip
    return config.algo == "allreduce" or (config.algo == "gala" and (g.tau == 0 or g.mixing == "allreduce"))


def silent_after_s(config: Config) -> float:
    """Time without a sign of life after which the others go on without a learner."""
    return math.inf if is_lock_step(config) else config.gossip.silent_after_s


def slots(config: Config) -> int:
    """How many learners there can be at a time."""
    elastic = exchanges_messages(config) and not is_lock_step(config) and not certifies(config)
    if not elastic or make_topology(config).problem(config.learners + 1):
        return config.learners
    return config.max_learners or 2 * config.learners


def failure_policy(config: Config) -> str:
    """continue, stop or restart."""
    if config.on_failure != "auto":
        return config.on_failure
    return "continue" if gossips(config) and not is_lock_step(config) else "stop"


def seeds(config: Config, rank: int, env_steps: int) -> tuple[int, int]:
    """(simulator seed, action seed) of a learner: own streams for every rank, and for every point of resumption."""
    tree = np.random.SeedSequence([config.seed, rank, env_steps])
    env_seed, action_seed = tree.generate_state(2, np.uint32)
    return int(env_seed) % 2**30, int(action_seed)


def count_parameters(config: Config, spaces: Spaces) -> int:
    return num_parameters(make_policy(config, spaces))


def total_updates(config: Config) -> int:
    """Updates of each learner in a lock-step run."""
    per_update = total_envs(config) * config.a2c.num_steps
    return -(-config.steps // per_update)


def num_moments(config: Config, spaces: Spaces) -> int:
    """Length of the normaliser statistics that a learner publishes."""
    _, scaler = make_reward_shaper(config)
    parts = [part for part in (make_normalizer(config, spaces), scaler) if part is not None]
    return sum(len(part.own.pack()) for part in parts)


def flatten_gradients(flat: torch.Tensor, policy: torch.nn.Module) -> None:
    """Gives ``flat`` a ``.grad`` of which each parameter's gradient is a view, as the parameters are of ``flat``."""
    params = list(policy.parameters())
    assert still_flat(flat, params), "the policy's parameters are not views of the flat vector: it would never learn"
    flat.grad = torch.zeros_like(flat)
    offset = 0
    for p in params:
        p.grad = torch.as_strided(flat.grad, p.size(), p.stride(), offset)
        offset += p.numel()


def make_slowmo(config: Config, optimizer: torch.optim.Optimizer) -> SlowMo | None:
    """Slow momentum of one learner alone: the gossip averages, so SlowMo itself does not, and nobody waits."""
    s = config.slowmo
    return SlowMo(optimizer, every=s.every, lr=s.lr, momentum=s.momentum) if s.every else None


def gossips(config: Config) -> bool:
    return config.algo == "gala" and config.learners > 1


def exchanges_messages(config: Config) -> bool:
    """Through mailboxes, that is; an all-reduce has none."""
    return gossips(config) and config.gossip.mixing in ("pushsum", "copy-average")


def certifies(config: Config) -> bool:
    return gossips(config) and config.gossip.certify


def needs_process_group(config: Config) -> bool:
    """Whether the learners all-reduce, gradients or parameters."""
    return config.learners > 1 and (
        config.algo == "allreduce" or (gossips(config) and config.gossip.mixing == "allreduce")
    )


def make_topology(config: Config) -> Topology:
    """Raises ValueError if there is no such graph of this many learners, or if its file is wrong."""
    g = config.gossip
    return choose_topology(g.topology, config.learners, g.peers, g.peers_schedule)
