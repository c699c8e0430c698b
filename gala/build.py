"""Config -> objects. The only reader of configuration fields, together with the validation in ``gala.config``."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from gala.config import Config
from gala.gossip.averager import GossipAverager
from gala.gossip.flat import flatten_parameters, still_flat
from gala.gossip.shared_memory import SharedMemoryMailboxes, open_endpoint
from gala.gossip.topology import get_topology
from gala.models.actor_critic import ActorCritic, build_actor_critic, num_parameters
from gala.optim.rmsprop_tf import RMSpropTF
from gala.optim.schedules import SCHEDULES, scaled_lr
from gala.resources import available_cores
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


def is_lock_step(config: Config) -> bool:
    """All learners make the same number of updates, each waiting for the others'."""
    return config.algo == "allreduce" or (config.algo == "gala" and config.gossip.tau == 0)


def slots(config: Config) -> int:
    """How many learners there can be at a time."""
    elastic = config.algo == "gala" and config.learners > 1 and not is_lock_step(config)
    if not elastic or get_topology(config.gossip.topology, config.learners).problem(config.learners + 1):
        return config.learners
    return config.max_learners or 2 * config.learners


def failure_policy(config: Config) -> str:
    """continue, stop or restart."""
    if config.on_failure != "auto":
        return config.on_failure
    return "continue" if config.algo == "gala" and config.learners > 1 and not is_lock_step(config) else "stop"


def open_store(config: Config) -> Any:
    """The loopback rendezvous of algo=allreduce, to be kept while the run lasts; None for the others."""
    if config.algo != "allreduce" or config.learners == 1:
        return None
    import torch.distributed as dist

    return dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


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


def make_averager(
    config: Config, policy: torch.nn.Module, rank: int, mailboxes: Any
) -> tuple[torch.Tensor, GossipAverager | None]:
    """The policy's parameters as one vector, and what exchanges it (None unless there are peers to gossip with)."""
    if mailboxes is None:
        return flatten_parameters(policy.parameters()), None
    g = config.gossip
    averager = GossipAverager(
        policy.parameters(),
        rank=rank,
        world_size=slots(config),
        mailbox=open_endpoint(mailboxes, rank),
        topology=g.topology,
        every=g.every,
        w_min=g.w_min,
        tau=None if g.tau < 0 else g.tau,
        at_bound=g.at_bound,
        wait_timeout_s=g.wait_timeout_s,
    )
    return averager.flat, averager


def make_mailboxes(config: Config, num_params: int) -> SharedMemoryMailboxes | None:
    """The parent's side of the gossip: a box for every pair, of which only those that are used cost memory."""
    if config.algo != "gala" or config.learners == 1:
        return None
    places = slots(config)
    return SharedMemoryMailboxes.create(
        places,
        num_params,
        [(i, j) for i in range(places) for j in range(places) if i != j],
        present=config.learners,
        silent_after_s=math.inf if is_lock_step(config) else config.gossip.silent_after_s,
    )


def make_gradient_reducer(config: Config, rank: int, store_port: int) -> Callable[[torch.Tensor], None] | None:
    """For algo=allreduce: joins the loopback process group; returns ``grad -> mean over learners``, in place."""
    if config.algo != "allreduce" or config.learners == 1:
        return None
    import torch.distributed as dist

    backend = "nccl" if pick_device(config, rank).type == "cuda" else "gloo"
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    store = dist.TCPStore("127.0.0.1", store_port, is_master=False)
    dist.init_process_group(backend, store=store, rank=rank, world_size=config.learners)

    def reduce(grad: torch.Tensor) -> None:
        dist.all_reduce(grad)
        grad.div_(config.learners)

    return reduce
