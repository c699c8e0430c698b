"""Every setting of a training with its default, bounds and meaning. Nothing here imports beyond the standard library.

A preset (configs/**.yaml) overrides a default; the command line overrides both. ``gala.config.validate`` says what
cannot work.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal

from gala.config.bounds import (
    AT_LEAST_ONE,
    BELOW_ONE,
    LOG_STD,
    MILESTONES,
    NOT_NEGATIVE,
    POSITIVE,
    STEPS,
    UNIT,
    Bound,
    bounded,
    is_number_or_empty,
)
from gala.config.learning import A2CConfig, EkfacConfig, NormalizeConfig, OptimConfig
from gala.config.several_learners import ClusterConfig, DelayConfig, GossipConfig, SlowMoConfig

Algo = Literal["a2c", "gala", "independent", "allreduce"]
PLACE = ("run", "overwrite")
"""Settings that say where a run is written, and nothing of what it is."""


@dataclass(frozen=True)
class EnvConfig:
    """The simulators of one learner."""

    id: str = bounded("CartPole-v1", Bound(bool, "the name of an environment; see `gala envs`"))
    """ALE/Pong-v5, HalfCheetah-v5, MinAtar/Breakout-v1, any registered Gymnasium id (module:Id-v0 imports the module
    first), or module:attribute, a class or function of your own that makes one gymnasium.Env."""
    backend: Literal["auto", "atari", "mujoco", "minatar", "classic", "gymnasium", "envpool", "contexts"] = "auto"
    """auto: ALE/* -> atari, the ten MuJoCo v5 tasks -> mujoco, MinAtar/* -> minatar, families of contextual MDPs ->
    contexts, Gymnasium's classic control -> classic (batched, equal to the last bit), anything else -> gymnasium."""
    threads: int = bounded(0, NOT_NEGATIVE)
    """Simulator threads per learner; 0 shares the available cores among the learners."""
    autoreset: Literal["auto", "same-step", "next-step"] = "auto"
    """A simulator starts anew in the step that ends its episode, or in the next one, which then plays nothing. auto:
    the backend's own choice; no loss and no count ever takes a row that plays nothing."""
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
    action_masks: Literal["auto", "on", "off"] = "auto"
    """Gymnasium backend, discrete actions: only what info["action_mask"], or env.action_masks(), allows is chosen.
    auto: where the environment gives masks."""


@dataclass(frozen=True)
class ModelConfig:
    """Policy and value network."""

    encoder: Literal["auto", "mlp", "nature_cnn", "a3c_cnn", "minatar_cnn", "impala", "bagnet", "parts"] | str = "auto"
    """auto: nature_cnn for images, minatar_cnn for those of fewer than 36 pixels a side, mlp for the rest; parts where
    images are among other things (Dict, Tuple): each image through its own, all else through one mlp. An encoder of
    images that is named reads all images then; mlp reads all as one vector. Or module:attribute, an encoder of your
    own: see ``gala.models.encoders.Encoder``."""
    hidden: tuple[int, ...] = bounded(
        (64, 64), Bound(lambda widths: all(w >= 1 for w in widths), "widths of at least 1")
    )
    """MLP layer widths."""
    activation: Literal["tanh", "relu"] = "tanh"
    """After each hidden layer of an MLP."""
    width: int = bounded(1, AT_LEAST_ONE)
    """Images: multiplies the channels of all convolutions."""
    pooling: Literal["flatten", "mean", "max", "logsumexp", "attention", "top_k"] = "flatten"
    """Images: how the last maps become a vector; see ``gala.models.pooling``."""
    pool_temperature: float = bounded(1.0, POSITIVE)
    """logsumexp: towards 0 the mean, towards infinity the maximum."""
    pool_top_k: int = bounded(4, AT_LEAST_ONE)
    """top_k: how many of the largest values of each map."""
    receptive_field: int = bounded(33, Bound(lambda v: v in (3, 5, 9, 17, 33), "3, 5, 9, 17 or 33"))
    """bagnet: side in pixels of the square that one location sees, at equal numbers of parameters."""
    blocks: int = bounded(2, NOT_NEGATIVE)
    """impala: residual blocks in each of the three stages."""
    shared_blocks: bool = False
    """impala: the blocks of a stage share their convolutions. With more than two, set block_norm or block_scale too."""
    block_norm: Literal["none", "group"] = "none"
    """impala: normalisation before the convolutions of a block, each use's own also where blocks are shared."""
    block_scale: float = bounded(0.0, NOT_NEGATIVE)
    """impala: what each block's output is multiplied by at the start, learned, each use's own; 0 leaves it out."""
    separate_critic: bool = True
    """MLP without a GRU: policy and value do not share layers. With gru_size, and with any other encoder, they share
    them whatever this says."""
    log_std_init: float = bounded(0.0, LOG_STD)
    """Continuous actions: logarithm of their standard deviation at the start, which is learned."""
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
class LogConfig:
    """What is written down of a run, and how often."""

    interval_s: float = bounded(2.0, POSITIVE)
    """Seconds between metric records, at most: in the first minute they are closer, so that short runs have curves."""
    tensorboard: bool = True
    """Write event files for TensorBoard too; metrics.jsonl holds the same numbers."""
    max_records: int = bounded(20_000, Bound(lambda v: v == 0 or v >= 100, "0 or at least 100"))
    """When metrics.jsonl has so many records (those of 11 hours at 2 s), half of them are kept: the newest all, older
    ones evenly over the run. TensorBoard gets ever fewer from then on. 0 keeps all, about 120 MB a day."""
    checkpoint_interval_s: float = bounded(120.0, POSITIVE)
    """Seconds between checkpoints; `gala resume` goes on from the last one."""
    keep_milestones: int = bounded(4, MILESTONES)
    """Evenly spaced checkpoints that are kept for good; latest and best are kept besides."""
    video_every: int = bounded(0, NOT_NEGATIVE)
    """About every so many env_steps, a film of the greedy policy in RUN/films, of the next checkpoint; 0 makes none."""
    panel: Literal["auto", "on", "off"] = "auto"
    """auto: a live panel on a terminal, plain lines in a log."""


@dataclass(frozen=True)
class DiagnoseConfig:
    """What learners measure on their own rollouts while they train; the training itself stays the same to the last bit.
    `gala diagnose` measures more, of a checkpoint."""

    curvature: int = bounded(0, NOT_NEGATIVE)
    """Every so many updates: the largest eigenvalues and the trace of the Hessian of the total loss. 0 is off. One
    measurement, of some 30 products with the Hessian, takes as long as 5 to 30 updates: 500 costs 1 to 6 % of speed."""
    eigenvalues: int = bounded(1, AT_LEAST_ONE)
    """How many of the largest; each more costs a little."""
    noise: int = bounded(0, NOT_NEGATIVE)
    """Every so many updates: the noise scale, the number of simulators at which the gradient is as much noise as
    signal. 0 is off. One measurement, a backward pass for each simulator, takes as long as 1 to 20 updates: 100 costs
    1 to 20 % of speed. Advantages count unnormalised."""
    dead_units: int = bounded(0, NOT_NEGATIVE)
    """Every so many updates: the share of ReLU units that no observation of the rollout wakes; a forward pass each. The
    network must have ReLUs (model.activation=relu, or convolutions)."""


@dataclass(frozen=True)
class Config:
    """One training run."""

    env: EnvConfig = field(default_factory=EnvConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    a2c: A2CConfig = field(default_factory=A2CConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    ekfac: EkfacConfig = field(default_factory=EkfacConfig)
    normalize: NormalizeConfig = field(default_factory=NormalizeConfig)
    gossip: GossipConfig = field(default_factory=GossipConfig)
    slowmo: SlowMoConfig = field(default_factory=SlowMoConfig)
    log: LogConfig = field(default_factory=LogConfig)
    diagnose: DiagnoseConfig = field(default_factory=DiagnoseConfig)
    delay: DelayConfig = field(default_factory=DelayConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    algo: Algo = "gala"
    """gala: gossip. a2c: one learner. independent: no gossip. allreduce: synchronous data-parallel. With learners=1 all
    four are plain A2C."""
    learners: int = bounded(1, AT_LEAST_ONE)
    """Actor-learner processes."""
    envs_per_learner: int = bounded(16, AT_LEAST_ONE)
    """Simulators of each learner, stepped as one batch."""
    env_groups: int = bounded(1, AT_LEAST_ONE)
    """Groups of a learner's simulators: with 2, one half steps while the network acts for the other."""
    steps: int = bounded(500_000, STEPS)
    """env_steps (agent decisions) over all learners."""
    schedule_from: int = bounded(0, NOT_NEGATIVE)
    """env_steps at which schedules begin; see ``gala resume`` with schedule=restart."""
    schedule_to: int = bounded(0, NOT_NEGATIVE)
    """env_steps at which schedules end, and hold their last value; 0 is the end of the run."""
    seed: int = bounded(1, NOT_NEGATIVE)
    """Draws parameters, actions and simulators. What it makes repeatable is in docs/reproducibility.md."""
    device: str = bounded("auto", Bound(lambda v: v in ("auto", "cpu", "cuda"), "auto, cpu or cuda"))
    """auto, cpu, or cuda (learners are placed round-robin on the GPUs there are)."""
    torch_threads: int = bounded(0, NOT_NEGATIVE)
    """Network threads per learner; 0 shares the available cores among the learners."""
    keep_freed_memory: bool = True
    """Learners keep what they free instead of giving it back to the kernel (Linux); faster passes over images."""
    track: Literal["none", "wandb", "trackio"] = "none"
    """Send every record to an experiment tracker too (WANDB_MODE=offline keeps them in RUN/wandb)."""
    run: str = ""
    """Run directory; empty makes runs/<environment>-<algo>-s<seed>-<time>."""
    on_failure: Literal["auto", "continue", "stop", "restart"] = "auto"
    """When a learner dies. continue: the others go on (auto, for asynchronous gossip). stop: the run ends (auto, for
    the rest). restart: it starts again from a live learner's state."""
    max_restarts: int = bounded(10, NOT_NEGATIVE)
    """on_failure=restart: after so many failures since the start or a resume, who dies stays away."""
    max_learners: int = bounded(0, NOT_NEGATIVE)
    """Places for learners that join later, see `gala scale`; 0 is twice the learners."""
    overwrite: bool = False
    """Replace an existing run directory."""
    solved_return: str = bounded("", Bound(is_number_or_empty, "a number, or empty where none is known"))
    """The mean return at which the task counts as solved, for `gala compare`; training does not look at it."""
    preset: str = ""
    """Set by preset=NAME; kept for the record."""


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted name -> value, for every leaf of a dataclass."""
    out: dict[str, Any] = {}
    for f in fields(config):
        value = getattr(config, f.name)
        out |= flatten(value, f"{prefix}{f.name}.") if is_dataclass(value) else {prefix + f.name: value}
    return out
