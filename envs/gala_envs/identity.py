"""When are two contexts the same MDP? One spelling for each context, and pairs with one fingerprint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gala_envs.contexts import Context, ContextSet, Family, Scalar, Simulators, array_hash
from gala_envs.contract import Array
from gala_envs.families import make_family
from gala_envs.splits import check_settings

ROLLS, ROLL_STEPS = 4, 16


def canonical(family: Family, context: Context) -> Context:
    """The same MDP in its one spelling: defaults left out, and numbers of the type that the default has.

    Raises:
        ValueError: a parameter that the family does not have, or a value out of its range.
    """
    try:
        check_settings(family, dict(context.params))
    except ValueError as error:
        raise ValueError(f"context {context.uid}: {error}") from None
    changed = {name: value for name, value in context.params if value != family.parameters[name].default}
    typed = {name: _as(family.parameters[name].default, value) for name, value in changed.items()}
    return Context.of(context.family, context.seed, **typed)


def identity(family: Family, context: Context) -> str:
    """Equal for two contexts that are the same MDP, however they are spelled: the fingerprint of the canonical one."""
    return family.fingerprint(canonical(family, context))


def duplicates(sets: Mapping[str, ContextSet]) -> list[dict[str, Any]]:
    """Pairs of contexts, within a set or across sets, that are one MDP: {a, b, sets, why}."""
    seen: dict[str, tuple[str, str]] = {}
    pairs = []
    for name, contexts in sets.items():
        family = make_family(contexts.family)
        for context in contexts:
            print_ = identity(family, context)
            if print_ in seen:
                other, where = seen[print_]
                why = "same MDP" if where != name else "same MDP, twice in one set"
                pairs.append({"a": other, "b": context.uid, "sets": [where, name], "why": why})
            else:
                seen[print_] = (context.uid, name)
    return pairs


def assert_disjoint(sets: Sequence[ContextSet]) -> None:
    """Raises ValueError if any MDP is in two of the sets, by whatever spelling or seed."""
    named = {f"{s.split}{'' if [t.split for t in sets].count(s.split) == 1 else k}": s for k, s in enumerate(sets)}
    across = [pair for pair in duplicates(named) if pair["sets"][0] != pair["sets"][1]]
    if not across:
        return
    a, b = across[0]["sets"]
    spelled = across[0]["a"] if across[0]["a"] == across[0]["b"] else f"{across[0]['a']} is {across[0]['b']}"
    raise ValueError(
        f"the {a} and {b} sets share {len(across)} MDPs ({spelled}, ...): a score on them would not measure "
        "generalisation; draw them with one `gala overfit split`, and see `gala overfit audit`"
    )


def roll(rows: Simulators, context: Context, *, padded: bool = False) -> list[Array]:
    """What comes of fixed actions: observations, rewards and ends of ``ROLLS`` random sequences of ``ROLL_STEPS``
    actions, each from the context's start; the same sequences for every context of a family.

    Args:
        rows: one row. Noise that the context does not fix is drawn with seeds of its own.
        padded: an episode that ends early is filled up with zeros, so that all contexts give as many numbers.
    """
    rows.action_space.seed(0)
    only, seen = np.arange(1), []
    for k in range(ROLLS):
        seen.append(rows.start(only, [context], [np.random.default_rng(k)]))
        actions = [np.asarray(rows.action_space.sample())[None] for _ in range(ROLL_STEPS)]
        over = False
        for action in actions:
            if not over:
                t = rows.step(action)
                step = [np.array(t.obs), np.asarray(t.reward, np.float64), t.terminated, t.truncated]
                seen, over = [*seen, *step], bool(t.terminated[0] or t.truncated[0])
            elif padded:
                seen += [np.zeros_like(x) for x in step]
    return seen


def roll_hash(rows: Simulators, context: Context) -> str:
    """A hash of ``roll``: of start, dynamics and reward, as far as the sequences lead."""
    return array_hash(*roll(rows, context))


def _as(default: Scalar, value: Scalar) -> Scalar:
    if isinstance(default, bool | str) or isinstance(value, bool | str):
        return value
    return int(value) if isinstance(default, int) and float(value).is_integer() else float(value)
