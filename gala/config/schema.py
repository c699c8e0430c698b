"""Every setting of a training with its default, bounds and meaning. Nothing here imports beyond the standard library.

A preset (configs/**.yaml) overrides a default; the command line overrides both. ``gala.config.validate`` says what
cannot work.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal

from gala.config.bounds import AT_LEAST_ONE, BELOW_ONE, NOT_NEGATIVE, POSITIVE, UNIT, Bound, bounded

Algo = Literal["a2c", "gala", "independent", "allreduce"]


@dataclass(frozen=True)
class EnvConfig:
    """The simulators of one learner."""

    id: str = bounded("CartPole-v1", Bound(bool, "the name of an environment; see `gala envs`"))
    """ALE/Pong-v5, HalfCheetah-v5, MinAtar/Breakout-v1, any registered Gymnasium id (module:Id-v0 imports the module
    first), or module:attribute, a class or function of your own that makes one gymnasium.Env."""
    backend: Literal["auto", "atari", "mujoco", "minatar", "gymnasium", "envpool", "contexts"] = "auto"
    """auto: ALE/* -> atari, the ten MuJoCo v5 tasks -> mujoco, MinAtar/* -> minatar, families of contextual MDPs ->
    contexts, anything else -> gymnasium."""
    threads: int = bounded(0, NOT_NEGATIVE)
    """Simulator threads per learner; 0 shares the available cores among the learners."""
    autoreset: Literal["auto", "same-step", "next-step"] = "auto"
    vectorization: Literal["sync", "async"] = "sync"
    """Gymnasium backend only: step in this process, or one process per simulator."""
    max_episode_steps: int = bounded(0, NOT_NEGATIVE)
    """Agent decisions before truncation; 0 keeps the task's own limit."""
    watchdog_s: float = bounded(60.0, POSITIVE)
    """A learner whose batched step takes longer is named and ended, and then ``on_failure`` says what becomes of the
    run."""
    sticky_actions: float = bounded(0.0, UNIT)
    """Atari, MinAtar, families: probability that the previous action is repeated."""
    full_action_space: bool = False
    """Atari: all 18 actions instead of the game's minimal set."""
    frame_skip: int = bounded(4, AT_LEAST_ONE)
    """Atari: frames per decision."""
    frame_stack: int = bounded(4, AT_LEAST_ONE)
    """Atari: frames per observation."""
    image_size: int = bounded(84, AT_LEAST_ONE)
    """Atari: height and width of an observation in pixels."""
    noop_max: int = bounded(30, NOT_NEGATIVE)
    """Atari: up to this many no-ops after a reset."""
    life_loss_ends_episode: bool = True
    """Atari: a lost life is a termination for learning; the game and its reported return go on."""
    contexts: str = ""
    """Families (maze, seeds:CartPole-v1, ...): the file of the training MDPs, written by `gala overfit split`."""
    order: Literal["uniform", "round-robin"] = "uniform"
    """Families: draw each episode's MDP anew, or deal them out in turn."""
    expose: bool = False
    """Families: the policy is told its MDP's parameters."""
    obs_noise: float = bounded(0.0, NOT_NEGATIVE)
    """Families: standard deviation of Gaussian noise on observations."""


@dataclass(frozen=True)
class ModelConfig:
    """Policy and value network."""

    encoder: Literal["auto", "mlp", "nature_cnn", "a3c_cnn", "minatar_cnn"] | str = "auto"
    """auto: nature_cnn for images, minatar_cnn for those of fewer than 36 pixels a side, mlp for the rest. Or
    module:attribute, an encoder of your own: see ``gala.models.encoders.Encoder``."""
    hidden: tuple[int, ...] = bounded(
        (64, 64), Bound(lambda widths: all(w >= 1 for w in widths), "widths of at least 1")
    )
    """MLP layer widths."""
    activation: Literal["tanh", "relu"] = "tanh"
    separate_critic: bool = True
    """MLP: policy and value do not share layers."""
    gru_size: int = bounded(0, NOT_NEGATIVE)
    """Width of a GRU between encoder and heads; 0 means a feed-forward policy."""
    dropout: float = bounded(0.0, BELOW_ONE)
    """Share of the encoder's features that is left out in training; evaluation uses all."""
    augment: Literal["none", "shift", "cutout"] = "none"
    """Images in training. shift: moved by up to a twentieth of their side; cutout: a random square is blacked out."""
    dynamics_coef: float = bounded(0.0, NOT_NEGATIVE)
    """Weight of predicting the next observation and the reward from the features: implicitly model-based."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: the encoder computes in bfloat16 (faster on CPUs with AVX512-BF16 or AMX, and on GPUs)."""
    compile: Literal["none", "default", "cuda-graphs"] = "none"
    """torch.compile of the encoder (a minute at the start, needs a C++ compiler; no faster on the CPUs where it was
    measured). cuda-graphs: its kernels are then launched as one, which small batches on a GPU gain from."""


@dataclass(frozen=True)
class A2CConfig:
    """The loss and the rollout."""

    num_steps: int = bounded(5, AT_LEAST_ONE)
    """T, decisions per simulator in one rollout."""
    gamma: float = bounded(0.99, UNIT)
    gae_lambda: float = bounded(1.0, UNIT)
    """1 gives n-step returns."""
    value_coef: float = bounded(0.5, NOT_NEGATIVE)
    entropy_coef: float = bounded(0.01, NOT_NEGATIVE)
    entropy_schedule: Literal["constant", "linear"] = "constant"
    """linear decays the coefficient to 0 over the run."""
    max_grad_norm: float = bounded(0.5, NOT_NEGATIVE)
    normalize_advantages: bool = False
    l2: float = bounded(0.0, NOT_NEGATIVE)
    """Pulls all parameters to 0: this times the parameters is added to the gradient."""
    passes: Literal["auto", "1", "2"] = "auto"
    """1 differentiates the acting passes; 2 runs the network again, as published. Equal gradients; auto: the faster."""


@dataclass(frozen=True)
class OptimConfig:
    """The local optimiser; its state is never gossiped."""

    name: Literal["rmsprop_tf", "rmsprop", "adam"] | str = "rmsprop_tf"
    """rmsprop_tf keeps epsilon inside the root, as the published A2C results do. Or module:attribute, as in
    torch.optim:AdamW: what makes an optimiser of (parameters, lr=...)."""
    lr: float = bounded(7e-4, NOT_NEGATIVE)
    schedule: Literal["constant", "linear"] = "constant"
    lr_scaling: Literal["none", "sqrt"] = "none"
    """sqrt multiplies lr by sqrt(all simulators / lr_reference_envs)."""
    lr_reference_envs: int = bounded(16, AT_LEAST_ONE)
    eps: float = bounded(1e-5, POSITIVE)
    rmsprop_alpha: float = bounded(0.99, BELOW_ONE)
    adam_beta1: float = bounded(0.9, BELOW_ONE)
    adam_beta2: float = bounded(0.999, BELOW_ONE)


@dataclass(frozen=True)
class NormalizeConfig:
    """Running statistics, checkpointed with the policy and frozen in evaluation."""

    obs: bool = False
    obs_clip: float = bounded(10.0, POSITIVE)
    reward: Literal["auto", "none", "sign", "scale"] = "auto"
    """auto: sign for Atari, none for the rest. sign: -1, 0, 1. scale: divide by the running std of the discounted
    return."""
    reward_clip: float = bounded(10.0, POSITIVE)


@dataclass(frozen=True)
class GossipConfig:
    """What the learners exchange, with whom and how (algo=gala)."""

    mixing: Literal["pushsum", "copy-average", "allreduce", "none"] = "pushsum"
    """copy-average: GALA's Algorithm 1. allreduce: the exact average of the parameters, in lock-step."""
    topology: str = "ring"
    """A name from `gala topologies`, the path of an edge list (.txt) or of a .yaml file with edges or a matrix, or
    module:attribute, a ``gala.gossip.Topology`` of your own."""
    peers: int = bounded(0, NOT_NEGATIVE)
    """Out-peers in a round, for graphs that take a number (ring, one-peer-exponential, ...); 0 is the graph's own."""
    peers_schedule: str = ""
    """The same from given exchanges on: 0:2,3000:1 is two peers for the first 3000 exchanges, then one."""
    every: int = bounded(1, AT_LEAST_ONE)
    """Exchange once in this many updates."""
    shards: int = bounded(1, AT_LEAST_ONE)
    """Exchange a K-th of the parameters at a time, in turn; messages are K times smaller."""
    codec: Literal["none", "fp16", "int8"] = "none"
    """Encoding of messages, with error feedback."""
    overlap: bool = False
    """Exchange in a thread of its own while the next rollout is collected; what arrives is absorbed an update later."""
    w_min: float = bounded(0.1, BELOW_ONE)
    """A learner whose PushSum weight would fall under this share of the mean keeps it for the round."""
    max_unread_weight: float = bounded(0.5, POSITIVE)
    """A learner for which more than this share of the mean weight waits unread is full, as is one that has not read our
    last message: the graph is stitched around it until it reads. PushSum without tau=0 only."""
    tau: int = bounded(-1, Bound(lambda v: v >= -1, "-1 (no bound), 0 (synchronous) or more"))
    """Staleness bound in own updates without a message; -1 is no bound, 0 is synchronous gossip."""
    at_bound: Literal["proceed", "wait", "drop-peer"] = "proceed"
    wait_timeout_s: float = bounded(60.0, POSITIVE)
    silent_after_s: float = bounded(30.0, POSITIVE)
    """A learner that finished no update for so long is left out of the graph until it does; longer than any update."""
    certify: bool = False
    """Log all exchanges, and from them a bound on the distance between the learners that cannot be exceeded."""


@dataclass(frozen=True)
class SlowMoConfig:
    """Slow momentum on top of any algorithm, local to each learner (SlowMo's no-average variant)."""

    every: int = bounded(0, NOT_NEGATIVE)
    """Updates between slow steps; 0 is off. The paper takes 48 on top of gossip."""
    lr: float = bounded(1.0, POSITIVE)
    momentum: float = bounded(0.6, BELOW_ONE)


@dataclass(frozen=True)
class DelayConfig:
    """Simulators made slower than they are, for experiments with stragglers; training only."""

    mean_s: float = bounded(0.0, NOT_NEGATIVE)
    """Mean time of one simulator's decision; a batched step takes as long as its slowest row. 0 adds nothing."""
    sigma: float = bounded(0.0, NOT_NEGATIVE)
    """Sigma of the lognormal times; 0 makes them constant, 1 heavy-tailed."""
    slow_learner: float = bounded(1.0, AT_LEAST_ONE)
    """The last learner's simulators take so many times longer."""


@dataclass(frozen=True)
class ClusterConfig:
    """Learners on the machines of a Ray cluster (gala-rl[cluster])."""

    address: str = ""
    """Empty: processes of this machine, without Ray. auto: the Ray cluster that this machine is part of, or else Ray on
    this machine. local: Ray on this machine, closed to others. HOST:PORT: that cluster."""


@dataclass(frozen=True)
class LogConfig:
    interval_s: float = bounded(2.0, POSITIVE)
    """Seconds between metric records."""
    tensorboard: bool = True
    checkpoint_interval_s: float = bounded(120.0, POSITIVE)
    keep_milestones: int = bounded(4, NOT_NEGATIVE)
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
    delay: DelayConfig = field(default_factory=DelayConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    algo: Algo = "gala"
    """gala: gossip. a2c: one learner. independent: no gossip. allreduce: synchronous data-parallel. With learners=1 all
    four are plain A2C."""
    learners: int = bounded(1, AT_LEAST_ONE)
    """Actor-learner processes."""
    envs_per_learner: int = bounded(16, AT_LEAST_ONE)
    env_groups: int = bounded(1, AT_LEAST_ONE)
    """Groups of a learner's simulators: with 2, one half steps while the network acts for the other."""
    steps: int = bounded(500_000, AT_LEAST_ONE)
    """env_steps (agent decisions) over all learners."""
    schedule_from: int = bounded(0, NOT_NEGATIVE)
    """env_steps at which schedules begin; see ``gala resume`` with schedule=restart."""
    schedule_to: int = bounded(0, NOT_NEGATIVE)
    """env_steps at which schedules end, and hold their last value; 0 is the end of the run."""
    seed: int = bounded(1, NOT_NEGATIVE)
    device: str = bounded("auto", Bound(lambda v: v in ("auto", "cpu", "cuda"), "auto, cpu or cuda"))
    """auto, cpu, or cuda (learners are placed round-robin on the GPUs there are)."""
    torch_threads: int = bounded(0, NOT_NEGATIVE)
    """Network threads per learner; 0 shares the available cores among the learners."""
    keep_freed_memory: bool = True
    """Learners keep what they free instead of giving it back to the kernel (Linux); faster passes over images."""
    run: str = ""
    """Run directory; empty makes runs/<environment>-<algo>-s<seed>-<time>."""
    on_failure: Literal["auto", "continue", "stop", "restart"] = "auto"
    """When a learner dies. continue: the others go on (auto, for asynchronous gossip). stop: the run ends (auto, for
    the rest). restart: it starts again from a live learner's state."""
    max_restarts: int = bounded(10, NOT_NEGATIVE)
    max_learners: int = bounded(0, NOT_NEGATIVE)
    """Places for learners that join later, see `gala scale`; 0 is twice the learners."""
    overwrite: bool = False
    """Replace an existing run directory."""
    preset: str = ""
    """Set by preset=NAME; kept for the record."""


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted name -> value, for every leaf of a dataclass."""
    out: dict[str, Any] = {}
    for f in fields(config):
        value = getattr(config, f.name)
        out |= flatten(value, f"{prefix}{f.name}.") if is_dataclass(value) else {prefix + f.name: value}
    return out
