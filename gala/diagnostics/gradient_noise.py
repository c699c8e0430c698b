"""``gala diagnose RUN noise=true``: would more simulators help, and which layers hear more signal than noise?"""

from __future__ import annotations

import dataclasses
import math

import torch

from gala.config.derived import averaged_envs
from gala.diagnostics import noise_scale, temperatures
from gala.diagnostics.finding import Curves, Finding
from gala.evaluation.frozen import Frozen


def judge(frozen: Frozen) -> Finding:
    """The noise scale over all rollouts, the signal of each layer, the diversity of gradients."""
    config, coefficients = frozen.config, dataclasses.replace(frozen.coefficients, normalize_advantages=False)
    meter, running = noise_scale.NoiseScale(decay=1.0), []
    batches = []
    for rollout in frozen.rollouts:
        gradients = noise_scale.per_environment_gradients(
            frozen.policy, rollout, coefficients, frozen.entropy_coef, frozen.params
        )
        meter.add(noise_scale.moments(gradients))
        running.append(meter.value)
        batches.append(gradients)
    sizes: dict[str, int] = {}
    for name, p in frozen.policy.named_parameters():
        layer = name.rpartition(".")[0] or name
        sizes[layer] = sizes.get(layer, 0) + p.numel()
    # All rollouts are of the same parameters, so that their environments are draws of one gradient.
    layers = noise_scale.signal_to_noise(torch.cat(batches), sizes)
    envs = averaged_envs(config)
    per_update = {name: value * envs / sum(map(len, batches)) for name, value in layers.items()}
    diversity = sum(noise_scale.gradient_diversity(g) for g in batches) / len(batches)
    ratio = meter.value / envs
    verdict = "more simulators would help" if ratio > 1 else "more simulators would add little"
    steps = config.a2c.num_steps
    sentences = [
        f"Signal and noise of the gradient are equal with {meter.value:.4g} simulators of {steps} steps; a "
        f"policy of this run moves by {envs}, so that {verdict} (ratio {ratio:.3g})."
        if math.isfinite(ratio)
        else f"In all {sum(map(len, batches))} simulators of {steps} steps no signal shows above the noise: the "
        "policy is where its gradient vanishes, or far more experience would be needed to see it.",
        "The table has, for each layer, the squared signal over the squared noise of one update of this run: below 1 "
        "its step is mostly noise. A simulator counts once, since the steps of a rollout are correlated.",
    ]
    if frozen.coefficients.normalize_advantages:
        sentences.append("This run normalises advantages over a rollout; here they are left as they are.")
    lines, numbers = temperatures.judge(frozen, torch.cat(batches))
    sentences += lines
    return Finding(
        "Noise of the gradient",
        sentences,
        [["layer", "parameters", "signal / noise"], *([n, f"{sizes[n]:,}", f"{per_update[n]:.3g}"] for n in sizes)],
        [
            Curves(
                "Noise scale, as rollouts add up",
                "rollouts",
                "simulators",
                {"noise scale": (list(range(1, len(running) + 1)), running)},
            )
        ],
        {
            "noise_scale": meter.value,
            "envs": envs,
            "ratio": ratio,
            "signal": meter.signal,
            "noise": meter.noise,
            "layers": per_update,
            "gradient_diversity": diversity,
            **numbers,
        },
    )
