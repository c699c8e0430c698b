"""Every default and every tuning number, as frozen dataclasses. Nothing here imports beyond the standard library.

A preset (configs/**.yaml) overrides a default; the command line overrides both. ``validate`` refuses what cannot work,
with the fix in the message, before any process starts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal

Algo = Literal["a2c", "gala", "independent", "allreduce"]


@dataclass(frozen=True)
class EnvConfig:
    """The simulators of one learner."""

    id: str = "CartPole-v1"
    """ALE/Pong-v5, HalfCheetah-v5, MinAtar/Breakout-v1, or any registered Gymnasium id."""
    backend: Literal["auto", "atari", "mujoco", "minatar", "gymnasium", "envpool"] = "auto"
    """auto: ALE/* -> atari, the ten MuJoCo v5 tasks -> mujoco, MinAtar/* -> minatar, anything else -> gymnasium."""
    threads: int = 0
    """Simulator threads per learner; 0 shares the available cores among the learners."""
    autoreset: Literal["auto", "same-step", "next-step"] = "auto"
    vectorization: Literal["sync", "async"] = "sync"
    """Gymnasium backend only: step in this process, or one process per simulator."""
    max_episode_steps: int = 0
    """Agent decisions before truncation; 0 keeps the task's own limit."""
    watchdog_s: float = 60.0
    """A batched step that takes longer ends the run with an error instead of hanging it."""
    sticky_actions: float = 0.0
    """Atari, MinAtar: probability that the previous action is repeated."""
    full_action_space: bool = False
    """Atari: all 18 actions instead of the game's minimal set."""
    frame_skip: int = 4
    """Atari: frames per decision."""
    frame_stack: int = 4
    """Atari: frames per observation."""
    image_size: int = 84
    """Atari: height and width of an observation in pixels."""
    noop_max: int = 30
    """Atari: up to this many no-ops after a reset."""
    life_loss_ends_episode: bool = True
    """Atari: a lost life is a termination for learning; the game and its reported return go on."""


@dataclass(frozen=True)
class ModelConfig:
    """Policy and value network."""

    encoder: Literal["mlp", "nature_cnn", "a3c_cnn", "minatar_cnn"] = "mlp"
    hidden: tuple[int, ...] = (64, 64)
    """MLP layer widths."""
    activation: Literal["tanh", "relu"] = "tanh"
    separate_critic: bool = True
    """MLP: policy and value do not share layers."""
    gru_size: int = 0
    """Width of a GRU between encoder and heads; 0 means a feed-forward policy."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: the encoder computes in bfloat16 (faster on CPUs with AVX512-BF16 or AMX, and on GPUs)."""


@dataclass(frozen=True)
class A2CConfig:
    """The loss and the rollout."""

    num_steps: int = 5
    """T, decisions per simulator in one rollout."""
    gamma: float = 0.99
    gae_lambda: float = 1.0
    """1 gives n-step returns."""
    value_coef: float = 0.5
    entropy_coef: float = 0.01
    entropy_schedule: Literal["constant", "linear"] = "constant"
    """linear decays the coefficient to 0 over the run."""
    max_grad_norm: float = 0.5
    normalize_advantages: bool = False
    passes: Literal["auto", "1", "2"] = "auto"
    """1 differentiates the acting passes; 2 runs the network again, as published. Equal gradients; auto: the faster."""


@dataclass(frozen=True)
class OptimConfig:
    """The local optimiser; its state is never gossiped."""

    name: Literal["rmsprop_tf", "rmsprop", "adam"] = "rmsprop_tf"
    """rmsprop_tf keeps epsilon inside the root, as the published A2C results do."""
    lr: float = 7e-4
    schedule: Literal["constant", "linear"] = "constant"
    lr_scaling: Literal["none", "sqrt"] = "none"
    """sqrt multiplies lr by sqrt(all simulators / lr_reference_envs)."""
    lr_reference_envs: int = 16
    eps: float = 1e-5
    rmsprop_alpha: float = 0.99
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999


@dataclass(frozen=True)
class NormalizeConfig:
    """Running statistics, checkpointed with the policy and frozen in evaluation."""

    obs: bool = False
    obs_clip: float = 10.0
    reward: Literal["none", "sign", "scale"] = "none"
    """sign: -1, 0, 1 (Atari). scale: divide by the running std of the discounted return."""
    reward_clip: float = 10.0


@dataclass(frozen=True)
class GossipConfig:
    """What the learners exchange, with whom and how (algo=gala)."""

    mixing: Literal["pushsum", "copy-average", "allreduce", "none"] = "pushsum"
    """copy-average: GALA's Algorithm 1. allreduce: the exact average of the parameters, in lock-step."""
    topology: str = "ring"
    """A name from `gala topologies`, or the path of an edge list (.txt) or of a .yaml file with edges or a matrix."""
    peers: int = 0
    """Out-peers in a round, for graphs that take a number (ring, one-peer-exponential, ...); 0 is the graph's own."""
    peers_schedule: str = ""
    """The same from given exchanges on: 0:2,3000:1 is two peers for the first 3000 exchanges, then one."""
    every: int = 1
    """Exchange once in this many updates."""
    shards: int = 1
    """Exchange a K-th of the parameters at a time, in turn; messages are K times smaller."""
    codec: Literal["none", "fp16", "int8"] = "none"
    """Encoding of messages, with error feedback."""
    overlap: bool = False
    """Exchange in a thread of its own while the next rollout is collected; what arrives is absorbed an update later."""
    w_min: float = 0.25
    """A learner whose PushSum weight would fall under this keeps its share for the round."""
    tau: int = -1
    """Staleness bound in own updates without a message; -1 is no bound, 0 is synchronous gossip."""
    at_bound: Literal["proceed", "wait", "drop-peer"] = "proceed"
    wait_timeout_s: float = 30.0
    silent_after_s: float = 30.0
    """A learner that finished no update for so long is left out of the graph until it does; longer than any update."""
    certify: bool = False
    """Log all exchanges, and from them a bound on the distance between the learners that cannot be exceeded."""


@dataclass(frozen=True)
class SlowMoConfig:
    """Slow momentum on top of any algorithm, local to each learner (SlowMo's no-average variant)."""

    every: int = 0
    """Updates between slow steps; 0 is off. The paper takes 48 on top of gossip."""
    lr: float = 1.0
    momentum: float = 0.6


@dataclass(frozen=True)
class ClusterConfig:
    """Learners on the machines of a Ray cluster (gala-rl[cluster])."""

    address: str = ""
    """Empty: processes of this machine, without Ray. auto: the Ray cluster that this machine is part of, or else Ray on
    this machine. local: Ray on this machine, closed to others. HOST:PORT: that cluster."""


@dataclass(frozen=True)
class LogConfig:
    interval_s: float = 2.0
    """Seconds between metric records."""
    tensorboard: bool = True
    checkpoint_interval_s: float = 120.0
    keep_milestones: int = 4
    """Evenly spaced checkpoints that are kept for good; latest and best are kept besides."""
    panel: Literal["auto", "on", "off"] = "auto"
    """auto: a live panel on a terminal, plain lines in a log."""


@dataclass(frozen=True)
class Config:
    """One training run."""

    env: EnvConfig = field(default_factory=EnvConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    a2c: A2CConfig = field(default_factory=A2CConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    normalize: NormalizeConfig = field(default_factory=NormalizeConfig)
    gossip: GossipConfig = field(default_factory=GossipConfig)
    slowmo: SlowMoConfig = field(default_factory=SlowMoConfig)
    log: LogConfig = field(default_factory=LogConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    algo: Algo = "gala"
    """gala: gossip. a2c: one learner. independent: no gossip. allreduce: synchronous data-parallel. With learners=1 all
    four are plain A2C."""
    learners: int = 1
    """Actor-learner processes."""
    envs_per_learner: int = 16
    steps: int = 500_000
    """env_steps (agent decisions) over all learners."""
    seed: int = 1
    device: str = "auto"
    """auto, cpu, or cuda (learners are placed round-robin on the GPUs there are)."""
    torch_threads: int = 0
    """Network threads per learner; 0 shares the available cores among the learners."""
    run: str = ""
    """Run directory; empty makes runs/<environment>-<algo>-s<seed>-<time>."""
    on_failure: Literal["auto", "continue", "stop", "restart"] = "auto"
    """When a learner dies. continue: the others go on (auto, for asynchronous gossip). stop: the run ends (auto, for
    the rest). restart: it starts again from a live learner's state."""
    max_restarts: int = 10
    max_learners: int = 0
    """Places for learners that join later, see `gala scale`; 0 is twice the learners."""
    overwrite: bool = False
    """Replace an existing run directory."""
    preset: str = ""
    """Set by preset=NAME; kept for the record."""


_COUNTS = (
    *("learners", "envs_per_learner", "steps", "a2c.num_steps", "optim.lr_reference_envs", "gossip.every"),
    *("gossip.shards", "env.frame_skip", "env.frame_stack", "env.image_size"),
)
_POSITIVE = (
    *("env.watchdog_s", "optim.eps", "normalize.obs_clip", "normalize.reward_clip", "gossip.wait_timeout_s"),
    *("gossip.silent_after_s", "log.interval_s", "log.checkpoint_interval_s", "slowmo.lr"),
)
_NOT_NEGATIVE = (
    *("max_restarts", "max_learners", "log.keep_milestones"),
    *("seed", "torch_threads", "env.threads", "env.max_episode_steps", "env.noop_max", "model.gru_size"),
    *("a2c.value_coef", "a2c.entropy_coef", "a2c.max_grad_norm", "optim.lr"),
    *("gossip.peers", "slowmo.every"),
)
_UNIT = ("env.sticky_actions", "a2c.gamma", "a2c.gae_lambda")
_BELOW_ONE = ("optim.rmsprop_alpha", "optim.adam_beta1", "optim.adam_beta2", "gossip.w_min", "slowmo.momentum")


def validate(config: Config) -> None:
    """Refuse values that cannot work. Raises ValueError: one line that names the setting and what it may be."""
    values = flatten(config)
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name}={value} must be a finite number")
    _require(values, _COUNTS, lambda v: v >= 1, "at least 1")
    _require(values, _POSITIVE, lambda v: v > 0, "greater than 0")
    _require(values, _NOT_NEGATIVE, lambda v: v >= 0, "0 or more")
    _require(values, _UNIT, lambda v: 0 <= v <= 1, "between 0 and 1")
    _require(values, _BELOW_ONE, lambda v: 0 <= v < 1, "at least 0 and below 1")
    _require(values, ("gossip.tau",), lambda v: v >= -1, "-1 (no bound), 0 (synchronous) or more")
    _require(values, ("model.hidden",), lambda v: all(w >= 1 for w in v), "widths of at least 1")
    _require(values, ("env.id",), bool, "the name of an environment; see `gala envs`")
    _require(values, ("device",), lambda v: v in ("auto", "cpu", "cuda"), "auto, cpu or cuda")
    if config.algo == "a2c" and config.learners > 1:
        raise ValueError(f"algo=a2c has one learner, not {config.learners}; use algo=gala, independent or allreduce")
    if config.max_learners and config.max_learners < config.learners:
        raise ValueError(f"max_learners={config.max_learners} is less than learners={config.learners}; leave it at 0")
    synchronous = config.gossip.tau == 0 or config.gossip.mixing == "allreduce"
    lock_step = config.algo == "allreduce" or (config.algo == "gala" and synchronous)
    if config.on_failure in ("continue", "restart") and (lock_step or config.learners == 1):
        raise ValueError(f"on_failure={config.on_failure} needs learners that do not wait for each other; use stop")
    if config.on_failure == "restart" and config.algo != "gala":
        raise ValueError("on_failure=restart needs a peer to start from, which algo=gala has; use continue or stop")
    if config.on_failure == "restart" and config.gossip.mixing == "none":
        raise ValueError("on_failure=restart needs gossip to start from; with gossip.mixing=none use continue or stop")
    _validate_gossip(config.algo, config.gossip)
    per_update = config.learners * config.envs_per_learner * config.a2c.num_steps
    if config.steps < per_update:
        raise ValueError(f"steps={config.steps} is less than one update of every learner ({per_update} env_steps)")


def _validate_gossip(algo: Algo, g: GossipConfig) -> None:
    """Combinations of which one part would do nothing, or something other than it says."""
    boxes = g.mixing in ("pushsum", "copy-average")
    refused = {
        "gossip.peers and gossip.peers_schedule exclude each other; give one": g.peers and g.peers_schedule,
        f"gossip.mixing={g.mixing} sends no messages; leave out gossip.shards, codec and overlap": not boxes
        and (g.shards > 1 or g.codec != "none" or g.overlap),
        "gossip.mixing=allreduce waits for all learners anyway; leave gossip.tau at -1": g.mixing == "allreduce"
        and g.tau >= 0,
        "gossip.overlap absorbs a message one update late, so it cannot wait for one; leave out gossip.tau=0 and "
        "gossip.at_bound=wait": g.overlap and (g.tau == 0 or g.at_bound == "wait"),
        "gossip.certify follows whole, exact parameters; leave out gossip.shards, codec and mixing=allreduce": g.certify
        and (g.shards > 1 or g.codec != "none" or g.mixing == "allreduce"),
        f"gossip.certify needs algo=gala, not {algo} (gossip.mixing=none is gala without exchange)": g.certify
        and algo != "gala",
    }
    for message, applies in refused.items():
        if applies:
            raise ValueError(message)


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted name -> value, for every leaf of a dataclass."""
    out: dict[str, Any] = {}
    for f in fields(config):
        value = getattr(config, f.name)
        out |= flatten(value, f"{prefix}{f.name}.") if is_dataclass(value) else {prefix + f.name: value}
    return out


def _require(values: dict[str, Any], names: tuple[str, ...], ok: Callable[[Any], bool], rule: str) -> None:
    for name in names:
        if not ok(values[name]):
            raise ValueError(f"{name}={values[name]} must be {rule}")
