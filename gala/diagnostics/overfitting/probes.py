"""Where an overfitted agent gives itself away besides its score: values, action distributions, replay, features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from gala_envs.contexts import ContextSet
from numpy.typing import NDArray

from gala.diagnostics.overfitting.episodes import Row, evaluate
from gala.diagnostics.overfitting.policies import Decision, JudgedPolicy, Noise
from gala.diagnostics.overfitting.torch_policy import TorchPolicy


class ValueErrors(NamedTuple):
    """Errors of V(s0) against the realised discounted return. ``explained`` is 1 - Var(error) / Var(return); NaN
    where returns do not differ."""

    bias: float
    mse: float
    explained: float


def value_errors(rows: Sequence[Row]) -> ValueErrors:
    """Over episodes with ``value`` and ``discounted``. Raises ValueError if there is none."""
    pairs = np.array([(r["value"], r["discounted"]) for r in rows if r.get("value") is not None], np.float64)
    if not len(pairs):
        raise ValueError("these rows hold no values: the policy has no value function")
    error = pairs[:, 0] - pairs[:, 1]
    differ = np.ptp(pairs[:, 1]) > 1e-9 * np.abs(pairs[:, 1]).max()  # beyond what rounding makes of equal returns
    explained = 1.0 - error.var() / pairs[:, 1].var() if differ else float("nan")
    return ValueErrors(float(error.mean()), float((error**2).mean()), float(explained))


def kl_divergence(logits_p: NDArray, logits_q: NDArray) -> NDArray:
    """KL(p || q) of categorical distributions given by logits ``[..., n]`` -> ``[...]``; where p is 0, it adds 0."""
    log_p, log_q = _log_softmax(logits_p), _log_softmax(logits_q)
    p = np.exp(log_p)
    return np.where(p > 0, p * (np.where(p > 0, log_p, 0.0) - log_q), 0.0).sum(-1)


def action_agreement(params_p: NDArray, params_q: NDArray) -> float:
    """Share of rows ``[N, n]`` in which two categorical policies have the same most probable action."""
    return float((params_p.argmax(-1) == params_q.argmax(-1)).mean())


def _log_softmax(logits: NDArray) -> NDArray:
    logits = np.asarray(logits, np.float64)
    top = np.where(np.isfinite(logits.max(-1, keepdims=True)), logits.max(-1, keepdims=True), 0.0)
    with np.errstate(divide="ignore"):
        return logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))


class PolicyShift(NamedTuple):
    """Between what a policy does on true and on changed observations of the same states."""

    kl: float
    agreement: float


def policy_shift(policy: TorchPolicy, obs: NDArray, changed: NDArray) -> PolicyShift:
    """``obs`` and ``changed`` ``[N, ...]`` are two views of N matched states; discrete actions, no recurrence."""
    first = np.ones(len(obs), bool)
    noise = [np.random.default_rng(0)] * len(obs)
    before, after = (policy.act(o, None, first, noise).params for o in (obs, changed))
    assert before is not None and after is not None
    return PolicyShift(float(kl_divergence(before, after).mean()), action_agreement(before, after))


class _Recorder:
    """Another policy, whose actions and observations are kept row by row."""

    def __init__(self, policy: JudgedPolicy) -> None:
        self.policy = policy
        self.steps: list[tuple[NDArray, NDArray, NDArray]] = []

    def act(self, obs: NDArray, state: Any, first: NDArray, noise: Noise) -> Decision:
        decision = self.policy.act(obs, state, first, noise)
        self.steps.append((obs, np.asarray(first, bool).copy(), decision.action))
        return decision

    def episodes(self) -> list[list[list[tuple[NDArray, NDArray]]]]:
        """Per row, its episodes as lists of (observation, action)."""
        rows: list[list[list[tuple[NDArray, NDArray]]]] = [[] for _ in self.steps[0][1]]
        for obs, first, action in self.steps:
            for row in range(len(rows)):
                if first[row]:
                    rows[row].append([])
                rows[row][-1].append((obs[row], action[row]))
        return rows


class _OpenLoop:
    """Plays stored actions, one list per row, whatever it sees; past the end it repeats the last."""

    def __init__(self, plans: Sequence[Sequence[NDArray]]) -> None:
        self.plans = plans
        self._at = np.zeros(len(plans), np.int64)

    def act(self, obs: NDArray, state: Any, first: NDArray, noise: Noise) -> Decision:
        self._at[first] = 0
        action = [plan[min(int(at), len(plan) - 1)] for plan, at in zip(self.plans, self._at, strict=True)]
        self._at += 1
        return Decision(np.stack(action))


class Replay(NamedTuple):
    """Mean returns of the policy, and of its own actions played back blindly under other noise."""

    closed_loop: float
    open_loop: float


def open_loop_replay(
    policy: JudgedPolicy, contexts: ContextSet, *, seed: int, options: Mapping[str, Any] | None = None, **noise: float
) -> Replay:
    """Record one episode on each of up to 64 contexts without noise, then play both again under ``noise``.

    ``noise``: sticky_actions, obs_noise; ``options``: of the environments of all episodes, as in ``evaluate``. As in
    Brute (Machado et al. 2018): an agent whose actions do as well when it does not look has not learned to react.
    Without noise, a deterministic policy gives a ratio of 1.
    """
    contexts = contexts.take(64)
    recorder = _Recorder(policy)
    options = options or {}
    evaluate(recorder, contexts, episodes=1, seed=seed, **options)
    plans = [[action for _, action in episodes[0]] for episodes in recorder.episodes()]
    scores = [
        np.mean([row["return"] for row in evaluate(p, contexts, episodes=1, seed=seed, **options, **noise)])
        for p in (policy, _OpenLoop(plans))
    ]
    return Replay(float(scores[0]), float(scores[1]))


def visited(
    policy: JudgedPolicy, contexts: ContextSet, *, seed: int, per_context: int = 20, **options: Any
) -> tuple[NDArray, NDArray]:
    """Up to ``per_context`` observations of one episode on each of up to 64 contexts: (obs [N, ...], context [N]).

    ``options``: of the environments, as in ``evaluate``.
    """
    contexts = contexts.take(64)
    recorder = _Recorder(policy)
    evaluate(recorder, contexts, episodes=1, seed=seed, **options)
    rng, obs, labels = np.random.default_rng(seed), [], []
    for row, episodes in enumerate(recorder.episodes()):
        steps = episodes[0]
        for k in rng.permutation(len(steps))[:per_context]:
            obs.append(steps[k][0])
            labels.append(row)
    return np.stack(obs), np.array(labels)


def context_decodability(
    policy: TorchPolicy, contexts: ContextSet, *, seed: int, **options: Any
) -> tuple[float, float]:
    """(accuracy, chance) of a linear probe that reads the context from features of episodes it was not fitted on.

    Ridge regression onto one-hot labels; fitted on one episode of each context, tested on another. ``options``: as in
    ``evaluate``.
    """
    (x, y), (x_new, y_new) = (visited(policy, contexts, seed=s, **options) for s in (seed, seed + 1))
    train, test = (np.concatenate([policy.features(o), np.ones((len(o), 1))], 1) for o in (x, x_new))
    target = np.eye(y.max() + 1)[y]
    weights = np.linalg.solve(train.T @ train + 1e-3 * len(train) * np.eye(train.shape[1]), train.T @ target)
    return float(((test @ weights).argmax(1) == y_new).mean()), 1.0 / (y.max() + 1)


def observation_std(policy: JudgedPolicy, contexts: ContextSet, *, seed: int, **options: Any) -> NDArray:
    """Per-number standard deviation of the observations that ``policy`` meets: the unit of sensor noise.

    ``options``: of the environments, as in ``evaluate``.
    """
    return visited(policy, contexts, seed=seed, per_context=200, **options)[0].std(0)
