"""A checkpoint with rollouts of its policy that stay as they are: what diagnostics judge."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gala.build.envs import Spaces, make_env
from gala.build.learning import entropy_coefficient, learning_rate, make_reward_shaper
from gala.build.policy import refuse_frozen
from gala.config.derived import averages_parameters, scheduled
from gala.config.schema import A2CConfig, Config, OptimConfig
from gala.evaluation.load import check_contexts, load_policy, pooled_return_moments
from gala.models.actor_critic import ActorCritic
from gala.optim.mean_adam import mean_square
from gala.rl.rollout import Collector, Rollout
from gala.runs.run_dir import RunDir


@dataclass(frozen=True)
class Frozen:
    """A checkpoint, and batches of experience.

    policy: the consensus of all learners (the first learner, where nothing is averaged). points: learner0, ... -> its
    parameters ``[d]``, in the order of ``policy.parameters()``. scale ``[d]``: what the first learner's optimiser
    divides gradients by; None if it does not. rollouts: of the policy, in ``config.a2c.num_steps`` steps each. lr: the
    learning rate there; that of the start, where a schedule has ended at 0. deviations: (learning rate, mean squared
    distance of the learners to their mean), one for each checkpoint of the run's second half with two learners or more.
    """

    config: Config
    policy: ActorCritic
    points: dict[str, Tensor]
    scale: Tensor | None
    rollouts: Sequence[Rollout]
    lr: float
    entropy_coef: float
    deviations: Sequence[tuple[float, float]] = ()

    @property
    def coefficients(self) -> A2CConfig:
        """The numbers of the loss."""
        return self.config.a2c

    @property
    def params(self) -> list[Tensor]:
        """The policy's."""
        return list(self.policy.parameters())


def load_frozen(run_dir: RunDir, checkpoint: str, *, envs: int, batches: int, seed: int) -> Frozen:
    """Load the checkpoint and collect ``batches`` rollouts in a row of ``envs`` new simulators, on the CPU.

    The first of them begins after a rollout that is thrown away. Normalisers are frozen. Raises ValueError if some
    parameters do not learn.
    """
    config = run_dir.config
    env = make_env(config, envs)
    try:
        spaces = Spaces(env.obs_space, env.action_space, env.frames_per_step)
        policy, normalizer = load_policy(run_dir, config, spaces, checkpoint, "consensus")
        check_contexts(run_dir, env, checkpoint)
        refuse_frozen(policy, "gala diagnose")
        meta = run_dir.checkpoint_meta(checkpoint)
        ranks = meta["ranks"] if averages_parameters(config) else meta["ranks"][:1]
        parts = {rank: run_dir.load_part(checkpoint, f"learner{rank}")[0] for rank in ranks}
        shape_reward, scaler = make_reward_shaper(dataclasses.replace(config, envs_per_learner=envs))
        if scaler is not None:
            scaler.applied = pooled_return_moments(meta, parts, averages_parameters(config))
        collector = Collector(
            env,
            config.a2c.num_steps,
            device=torch.device("cpu"),
            generator=torch.Generator().manual_seed(seed),
            normalizer=normalizer,
            shape_reward=shape_reward,
        )
        collector.reset(policy, seed)
        collector.collect(policy)
        rollouts = [copy.deepcopy(collector.collect(policy)[0]) for _ in range(batches)]
    finally:
        env.close()
    progress = scheduled(config, min(1.0, meta["env_steps"] / config.steps))
    trained = max(ranks, key=lambda rank: meta["progress"][rank][1])  # of a short run, one may have made no update
    return Frozen(
        config,
        policy,
        {f"learner{rank}": _vector(policy, part["policy"]) for rank, part in parts.items()},
        optimizer_scale(config.optim, config.learners, parts[trained].get("optimizer", {}), policy),
        rollouts,
        learning_rate(config)(progress) or learning_rate(config)(0.0),
        entropy_coefficient(config)(progress),
        _deviations(run_dir, policy) if len(parts) > 1 else (),
    )


def _deviations(run_dir: RunDir, policy: ActorCritic) -> list[tuple[float, float]]:
    config, found = run_dir.config, {}
    for name in run_dir.checkpoints.names():
        meta = run_dir.checkpoint_meta(name)
        lr = learning_rate(config)(scheduled(config, min(1.0, meta["env_steps"] / config.steps)))
        if len(meta["ranks"]) > 1 and lr > 0 and meta["env_steps"] >= config.steps / 2:
            parts = [run_dir.load_part(name, f"learner{rank}")[0]["policy"] for rank in meta["ranks"]]
            points = torch.stack([_vector(policy, part) for part in parts]).double()
            deviation = (points - points.mean(0)).square().sum(1).mean()
            found[meta["env_steps"]] = (lr, float(deviation))  # latest, best and a milestone may be one and the same
    return list(found.values())


def _vector(policy: ActorCritic, state: dict[str, Tensor]) -> Tensor:
    return torch.cat([state[name].reshape(-1) for name, _ in policy.named_parameters()])


def optimizer_scale(optim: OptimConfig, learners: int, state: dict[str, Tensor], policy: ActorCritic) -> Tensor | None:
    """What RMSprop and Adam divide the gradient by, ``[d]`` in the order of ``policy.parameters()``; None before the
    first step, and of other optimisers. ``learners``: how many average their parameters, for ``MeanAdam``.

    Their state lies in memory as the parameters do, channels last where those are.
    """
    square = state.get("square_avg", state.get("exp_avg_sq"))
    if square is None or not float(state.get("step", 1.0)):
        return None
    if optim.name == "rmsprop_tf":
        scale = (square + optim.eps).sqrt()
    elif optim.name == "adam" and "signal" in state:
        step = float(state["step"])
        scale = mean_square(square, state["signal"], step, learners, optim.adam_beta2).sqrt() + optim.eps
    elif optim.name == "adam":
        scale = (square / (1 - optim.adam_beta2 ** float(state["step"]))).sqrt() + optim.eps
    elif optim.name == "rmsprop":
        scale = square.sqrt() + optim.eps
    else:
        return None
    parts = scale.split([p.numel() for p in policy.parameters()])
    return torch.cat(
        [part.as_strided(p.shape, p.stride()).reshape(-1) for part, p in zip(parts, policy.parameters(), strict=True)]
    )
