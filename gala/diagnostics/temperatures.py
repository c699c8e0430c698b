"""The two temperatures of a gossiping run: what its checkpoints show, beside the closed form."""

from __future__ import annotations

import torch
from torch import Tensor

from gala.build.gossip import make_topology
from gala.config.derived import gossips, gradient_memory
from gala.config.schema import Config
from gala.diagnostics.noise_scale import deviation_temperature
from gala.evaluation.frozen import Frozen
from gala.gossip.graphs.spectrum import mixing_matrix
from gala.optim.lr_scaling import is_sgd
from gala.optim.update import clip_


def judge(frozen: Frozen, gradients: Tensor) -> tuple[list[str], dict[str, float]]:
    """Sentences and numbers, of ``gradients [N, d]`` of N simulators at the consensus; none for a run that does not
    gossip or has no checkpoint with several learners in its second half."""
    config = frozen.config
    if not gossips(config) or config.gossip.mixing == "none" or not frozen.deviations:
        return [], {}
    envs = config.learners * config.envs_per_learner
    # In units of the learning rate of the judged checkpoint: the deviation goes as its square.
    measured = sum(d / lr**2 for lr, d in frozen.deviations) / len(frozen.deviations) * frozen.lr**2
    numbers = {
        "consensus_temperature": frozen.lr / envs,
        "own_temperature": frozen.lr / config.envs_per_learner,
        "deviation_measured": measured,
        "snapshots": len(frozen.deviations),
    }
    sentences = [
        f"Gossip has two temperatures. The learners' mean feels the noise of all {envs} simulators, lr / simulators = "
        f"{numbers['consensus_temperature']:.3g}, whatever the topology; a learner alone would feel "
        f"{numbers['own_temperature']:.3g}.",
    ]
    try:
        expected = _closed_form(frozen, gradients)
    except ValueError as reason:
        return [*sentences, f"How far learners stray from their mean is set by the topology: {reason}."], numbers
    numbers["deviation_closed_form"] = expected
    sentences.append(
        f"How far learners stray from their mean is set by the topology: the mean squared distance is {measured:.3g} "
        f"in {len(frozen.deviations)} checkpoints, and {expected:.3g} by the closed form for learners in lock-step on "
        "a flat loss, from the noise of this checkpoint's steps. Curvature and momentum of learning bring learners "
        "together or apart beyond that, and so do messages that are late."
    )
    return sentences, numbers


def _closed_form(frozen: Frozen, gradients: Tensor) -> float:
    """Raises ValueError, with the reason, where there is none."""
    config = frozen.config
    if config.slowmo.every or config.gossip.shards > 1 or config.gossip.mixing != "pushsum":
        raise ValueError("there is a closed form for PushSum on whole parameters, without SlowMo, only")
    graph = make_topology(config)
    if graph.period(config.learners) != 1:
        raise ValueError("there is a closed form for graphs that stay the same in every round only")
    mixing = torch.from_numpy(mixing_matrix(graph, 0, config.learners))
    return deviation_temperature(
        mixing, frozen.lr, step_noise(frozen, config, gradients), gradient_memory(config), config.gossip.every
    )


def step_noise(frozen: Frozen, config: Config, gradients: Tensor) -> float:
    """Variance, summed over parameters, of one learner's step at learning rate 1: of gradients of envs_per_learner
    simulators, clipped and scaled as the run does it. Raises ValueError where there are too few to tell."""
    if frozen.scale is None and not is_sgd(config.optim.name):
        raise ValueError(f"how {config.optim.name} scales gradients is not known here")
    groups = len(gradients) // config.envs_per_learner
    if groups < 2:
        raise ValueError(f"the noise of a learner's step shows in {2 * config.envs_per_learner} simulators or more")
    means = gradients[: groups * config.envs_per_learner].view(groups, config.envs_per_learner, -1).mean(1)
    for mean in means:
        clip_([mean], config.a2c.max_grad_norm)
    steps = means if frozen.scale is None else means / frozen.scale
    return float(steps.double().var(0).sum())
