"""``gala diagnose RUN diversity=true``: do learners' gradients differ more than those of A2C's simulators?

A2C averages, in effect, the gradients of groups of its simulators, all at one set of parameters. Learners that gossip
compute theirs each at parameters of its own. Both are given the same rows here, so that only the parameters differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gala.diagnostics.curvature import Loss, flat, gradient
from gala.diagnostics.finding import Curves, Finding
from gala.diagnostics.landscape import parameters_at
from gala.diagnostics.noise_scale import columns, gradient_diversity
from gala.evaluation.frozen import Frozen
from gala.rl.a2c import Coefficients, rollout_loss
from gala.rl.rollout import Policy, Rollout

GROUPS = 4
"""Groups of simulators where the run has one learner, or learners that are never averaged."""


def group_gradients(
    policy: Policy,
    rollout: Rollout,
    coefficients: Coefficients,
    entropy_coef: float,
    params: Sequence[Tensor],
    points: Sequence[Tensor],
) -> Tensor:
    """``[n, d]``: the gradient of A2C's loss on each of n equal groups of the rollout's simulators, the k-th at the
    parameters ``points[k] [d]``. The policy has its own parameters again after it.

    Simulators that are left over by the division are left out. Values at the end of the rollout stay those that it was
    collected with.

    Raises:
        ValueError: fewer simulators than groups.
    """
    each = _envs_each(rollout, len(points))

    def loss(rows: Rollout) -> Loss:
        return lambda: rollout_loss(policy, rows, coefficients, entropy_coef).loss.total

    gradients = []
    for k, point in enumerate(points):
        with parameters_at(params, point):
            gradients.append(gradient(loss(columns(rollout, slice(k * each, (k + 1) * each))), params).detach())
    return torch.stack(gradients)


def _envs_each(rollout: Rollout, groups: int) -> int:
    envs = rollout.valid.shape[1]
    if envs < groups:
        raise ValueError(f"{envs} simulators cannot be shared among {groups} groups; say envs={groups} or more")
    return envs // groups


def cosines(gradients: Tensor) -> Tensor:
    """``[n, n]`` cosines between the rows of ``[n, d]``; 0 with a row of zeros."""
    unit = torch.nn.functional.normalize(gradients.double(), dim=1)
    return unit @ unit.T


def mean_of_pairs(matrix: Tensor) -> float:
    """The mean of a symmetric ``[n, n]`` matrix off its diagonal."""
    n = len(matrix)
    return float((matrix.sum() - matrix.diagonal().sum()) / (n * (n - 1)))


def _group_names(frozen: Frozen) -> list[str]:
    learners = list(frozen.points)
    return learners if len(learners) > 1 else [f"group{k}" for k in range(GROUPS)]


def check(frozen: Frozen) -> None:
    """Raises ValueError: fewer simulators than groups."""
    _envs_each(frozen.rollouts[0], len(_group_names(frozen)))


def judge(frozen: Frozen) -> Finding:
    """Cosines between groups of simulators at the consensus, as A2C has them, and at the learners' own parameters."""
    here, names = flat([p.detach() for p in frozen.params]), _group_names(frozen)
    own = {"own": [frozen.points[name] for name in names]} if len(frozen.points) > 1 else {}
    places = {"equal": [here] * len(names)} | own
    each: dict[str, list[Tensor]] = {place: [] for place in places}
    for rollout in frozen.rollouts:
        for place, points in places.items():
            arguments = (frozen.policy, rollout, frozen.coefficients, frozen.entropy_coef, frozen.params, points)
            each[place].append(group_gradients(*arguments))
    matrices = {place: torch.stack([cosines(g) for g in found]) for place, found in each.items()}
    means = {place: [mean_of_pairs(matrix) for matrix in found] for place, found in matrices.items()}
    diversity = {place: sum(map(gradient_diversity, found)) / len(found) for place, found in each.items()}
    table = [["", *names]]
    for i, name in enumerate(names):
        cells = [
            " / ".join(f"{float(matrices[place][:, i, j].mean()):.3f}" for place in places) for j in range(len(names))
        ]
        table.append([name, *cells])
    x = list(range(1, len(frozen.rollouts) + 1))
    labels = {"equal": "simulator groups at equal parameters (A2C)", "own": "learners at their own parameters (GALA)"}
    return Finding(
        "Diversity of gradients",
        _sentences(means, diversity, len(names)),
        table,
        [Curves("Mean cosine of pairs", "rollout", "cosine", {labels[place]: (x, means[place]) for place in places})],
        {
            **{f"cosines_{place}": found.mean(0).tolist() for place, found in matrices.items()},
            **{f"mean_cosine_{place}": sum(found) / len(found) for place, found in means.items()},
            **{f"diversity_{place}": found for place, found in diversity.items()},
        },
    )


def _sentences(means: dict[str, list[float]], diversity: dict[str, float], groups: int) -> list[str]:
    equal = sum(means["equal"]) / len(means["equal"])
    told = [
        f"Gradients of {groups} groups of simulators at the same parameters, as A2C averages them, have a mean cosine "
        f"of {equal:.3f}; their diversity (arXiv 1706.05699) is {diversity['equal']:.3g}: 1/{groups} if all were "
        "equal, 1 if they were orthogonal.",
    ]
    if "own" not in means:
        return [*told, "There is one policy here, so that there are no learners' own parameters to compare with."]
    own = sum(means["own"]) / len(means["own"])
    mean, error = _paired([a - b for a, b in zip(means["own"], means["equal"], strict=True)])
    verdict = (
        f"{'more' if mean > 0 else 'less'} alike than at equal parameters" if abs(mean) > 2 * error else "undecided"
    )
    return [
        *told,
        f"On the same rows, each learner's gradient at its own parameters: mean cosine {own:.3f}, diversity "
        f"{diversity['own']:.3g}. Difference {mean:+.4f}, two standard errors {2 * error:.4f} over {len(means['own'])} "
        f"rollouts: {verdict}.",
        "The rows are the consensus policy's, so that only parameters differ; in training a learner acts by its own.",
        "Cells of the table: at equal parameters / at their own.",
    ]


def _paired(differences: Sequence[float]) -> tuple[float, float]:
    """(mean, its standard error); infinite for one difference."""
    n, mean = len(differences), sum(differences) / len(differences)
    if n < 2:
        return mean, math.inf
    return mean, math.sqrt(sum((d - mean) ** 2 for d in differences) / (n - 1) / n)
