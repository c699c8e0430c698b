"""What is a Gaussian latent worth to a model of a picture in which one thing is in one of two places?

    python benchmarks/latent_choice.py                                                a few seconds

An object of some pixels moves with probability p, else it stays: twice as many pixels are uncertain, and all of them by
the same choice. Without a latent each costs its own entropy. With one of one dimension, prior N(0, 1) and posteriors
N(m_0, s_0) and N(m_1, s_1), the best decoder pays H(choice | z) for each of them, and the KL once. Printed for both, in
nats, at the posteriors that a numerical search finds best; and the KL over the entropy of the choice, which is what
``video_rollouts.py --part sticky`` can measure at best.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.stats import norm

GRID = np.linspace(-8, 8, 4001)
STARTS = ([-0.3, -1.0, 1.0, -1.0], [-0.1, -0.1, 0.1, -0.1], [-0.5, -0.5, 1.5, -0.5])


def entropy(p: float) -> float:
    """That of a choice, in nats."""
    return float(-p * np.log(p) - (1 - p) * np.log(1 - p))


def terms(means: NDArray, stds: NDArray, p: float) -> tuple[float, float]:
    """(H(choice | z), mean KL of posterior and prior) in nats."""
    weights = np.array([1 - p, p])
    joint = np.maximum(weights[:, None] * norm.pdf(GRID, means[:, None], stds[:, None]), 1e-300)
    left = -(joint * np.log(joint / joint.sum(0))).sum() * (GRID[1] - GRID[0])
    kl = 0.5 * (stds**2 + means**2 - 1) - np.log(stds)
    return float(left), float(weights @ kl)


def best(p: float, pixels: int) -> tuple[float, float]:
    """(cost of the whole picture, KL) with the best latent, for an object of so many pixels."""

    def cost(x: NDArray) -> float:
        left, kl = terms(x[::2], np.exp(x[1::2]), p)
        return 2 * pixels * left + kl

    searches = [minimize(cost, start, method="Nelder-Mead", options={"maxiter": 4000}) for start in STARTS]
    x = min(searches, key=lambda search: float(search.fun)).x
    return cost(x), terms(x[::2], np.exp(x[1::2]), p)[1]


def main() -> None:
    print("| p | pixels | without a latent | with the best one | its KL over the entropy |")
    print("| --- | --- | --- | --- | --- |")
    for p in (0.25, 0.5):
        for pixels in (1, 2, 4, 9):
            cost, kl = best(p, pixels)
            print(f"| {p} | {pixels} | {2 * pixels * entropy(p):.2f} | {cost:.2f} | {kl / entropy(p):.2f} |")


if __name__ == "__main__":
    main()
