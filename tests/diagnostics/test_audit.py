"""What an audit finds when it is asked for more than equality."""

import pytest
from gala_envs.contexts import Context, ContextSet
from gala_envs.families import make_family

from gala.diagnostics.overfitting.audit import audit_sets, mirror_images, near_copies

POLES = "classic:CartPole-v1"


def sets(*lengths):
    train = ContextSet(tuple(Context.of(POLES, length=x) for x in (0.3, 0.5, 0.7)), "train")
    return {"train": train, "test": ContextSet(tuple(Context.of(POLES, length=x) for x in lengths), "test")}


def test_near_copies_are_found_within_the_tolerance_and_said_to_have_been_looked_for():
    near = sets(0.9, 0.5 + 1e-6, 0.4)
    pair = (near["train"].uids[1], near["test"].uids[1])
    assert [(row["a"], row["b"]) for row in near_copies(near, 0.001)] == [pair]
    report = audit_sets(near, episodes=1, tolerance=0.001)
    assert [(row["a"], row["b"]) for row in report["rows"]] == [pair] and "near copy" in report["rows"][0]["why"]
    assert any("within 0.001 sd" in text for text in report["looked_for"])
    plain = audit_sets(near, episodes=1)
    assert plain["rows"] == [] and plain["looked_for"] == ["the same MDP: " + make_family(POLES).compares]


def test_a_mirrored_training_maze_is_found_and_other_families_have_no_symmetries():
    family, small = make_family("maze"), {"size": 3, "goods": 1, "bads": 0}
    groups = {}
    for seed in range(200):
        context = Context.of("maze", seed, **small)
        groups.setdefault(family.up_to_symmetry(context), {}).setdefault(family.fingerprint(context), context)
    a, b = list(next(g for g in groups.values() if len(g) > 1).values())[:2]
    other = next(iter(next(g for k, g in groups.items() if k != family.up_to_symmetry(a)).values()))
    found = mirror_images({"train": ContextSet((a,), "train"), "test": ContextSet((other, b), "test")})
    assert [(row["a"], row["b"]) for row in found] == [(a.uid, b.uid)]
    with pytest.raises(ValueError, match="has no symmetries"):
        audit_sets(sets(0.4), symmetries=True)
