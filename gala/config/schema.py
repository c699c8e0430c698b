"""Every default and every tuning number, as frozen dataclasses. Nothing here imports beyond the standard library.

A preset (configs/**.yaml) overrides a default; the command line overrides both. ``gala.config.validate`` says what
cannot work.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal

Algo = Literal["a2c", "gala", "independent", "allreduce"]


@dataclass(frozen=True)
class EnvConfig:
    """The simulators of one learner."""

    id: str = "CartPole-v1"
    """ALE/Pong-v5, HalfCheetah-v5, MinAtar/Breakout-v1, or any registered Gymnasium id."""
    backend: Literal["auto", "atari", "mujoco", "minatar", "gymnasium", "envpool", "contexts"] = "auto"
    """auto: ALE/* -> atari, the ten MuJoCo v5 tasks -> mujoco, MinAtar/* -> minatar, families of contextual MDPs ->
    contexts, anything else -> gymnasium."""
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
    """Atari, MinAtar, families: probability that the previous action is repeated."""
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
    contexts: str = ""
    """Families (maze, seeds:CartPole-v1, ...): the file of the training MDPs, written by `gala overfit split`."""
    order: Literal["uniform", "round-robin"] = "uniform"
    """Families: draw each episode's MDP anew, or deal them out in turn."""
    expose: bool = False
    """Families: the policy is told its MDP's parameters."""
    obs_noise: float = 0.0
    """Families: standard deviation of Gaussian noise on observations."""


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
    dropout: float = 0.0
    """Share of the encoder's features that is left out in training; evaluation uses all."""
    augment: Literal["none", "shift", "cutout"] = "none"
    """Images in training. shift: moved by up to a twentieth of their side; cutout: a random square is blacked out."""
    dynamics_coef: float = 0.0
    """Weight of predicting the next observation and the reward from the features: implicitly model-based."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: the encoder computes in bfloat16 (faster on CPUs with AVX512-BF16 or AMX, and on GPUs)."""
    compile: Literal["none", "default", "cuda-graphs"] = "none"
    """torch.compile of the encoder (a minute at the start, needs a C++ compiler; no faster on the CPUs where it was
    measured). cuda-graphs: its kernels are then launched as one, which small batches on a GPU gain from."""


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
    l2: float = 0.0
    """Pulls all parameters to 0: this times the parameters is added to the gradient."""
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
class DelayConfig:
    """Simulators made slower than they are, for experiments with stragglers; training only."""

    mean_s: float = 0.0
    """Mean time of one simulator's decision; a batched step takes as long as its slowest row. 0 adds nothing."""
    sigma: float = 0.0
    """Of the lognormal times; 0 makes them constant, 1 heavy-tailed."""
    slow_learner: float = 1.0
    """The last learner's simulators take so many times longer."""


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
    delay: DelayConfig = field(default_factory=DelayConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    algo: Algo = "gala"
    """gala: gossip. a2c: one learner. independent: no gossip. allreduce: synchronous data-parallel. With learners=1 all
    four are plain A2C."""
    learners: int = 1
    """Actor-learner processes."""
    envs_per_learner: int = 16
    env_groups: int = 1
    """Groups of a learner's simulators: with 2, one half steps while the network acts for the other."""
    steps: int = 500_000
    """env_steps (agent decisions) over all learners."""
    seed: int = 1
    device: str = "auto"
    """auto, cpu, or cuda (learners are placed round-robin on the GPUs there are)."""
    torch_threads: int = 0
    """Network threads per learner; 0 shares the available cores among the learners."""
    keep_freed_memory: bool = True
    """Learners keep what they free instead of giving it back to the kernel (Linux); faster passes over images."""
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


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted name -> value, for every leaf of a dataclass."""
    out: dict[str, Any] = {}
    for f in fields(config):
        value = getattr(config, f.name)
        out |= flatten(value, f"{prefix}{f.name}.") if is_dataclass(value) else {prefix + f.name: value}
    return out
