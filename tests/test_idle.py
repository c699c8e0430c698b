"""Settings that would do nothing are named, and do nothing."""

from __future__ import annotations

import pytest
from training import TINY, Gala, parts, same

from gala.commands.train import start_lines
from gala.config.idle import idle_lines
from gala.config.parse import parse_config
from gala.runs.run_dir import RunDir

NEEDS = {
    "gossip.tau=3": "learners=2",
    "gossip.topology=complete": "learners=2",
    "gossip.silent_after_s=9": None,
    "slowmo.lr=0.5": "slowmo.every=4",
    "delay.sigma=1": "delay.mean_s=0.001",
    "ekfac.damping=1": "optim.name=ekfac",
    "optim.rmsprop_alpha=0.5": "optim.name=rmsprop",
    "optim.adam_beta2=0.5": "optim.name=adam",
    "optim.eps=0.1": "optim.name=adam",
    "schedule_to=200": "optim.schedule=linear",
    "optim.lr_reference_envs=4": "optim.lr_scaling=sqrt",
    "normalize.obs_clip=0.1": "normalize.obs=true",
    "normalize.reward_clip=0.1": "normalize.reward=scale",
    "max_learners=8": "learners=2",
    "max_restarts=1": "on_failure=restart",
    "diagnose.eigenvalues=3": "diagnose.curvature=5",
}
"""Setting -> what makes it do something; None: it always does."""
PLAIN = "optim.name=torch.optim:AdamW"
"""An optimiser that looks at none of optim.* but the rate."""


@pytest.mark.parametrize(("word", "needed"), NEEDS.items())
def test_a_setting_is_named_until_it_has_what_it_needs(word, needed):
    name = word.partition("=")[0]
    assert bool(idle_lines(parse_config([PLAIN, word]), [name])) == (needed is not None)
    if needed:
        assert idle_lines(parse_config([PLAIN, word, needed]), [name]) == []


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["gossip.mixing=allreduce", "gossip.peers=2", "gossip.w_min=0.2"], ["gossip.peers", "gossip.w_min"]),
        (["gossip.tau=0", "gossip.max_unread_weight=2"], ["gossip.max_unread_weight"]),
        (["gossip.tau=0", "gossip.wait_timeout_s=90"], []),
        (["delay.mean_s=0", "slowmo.every=0", "algo=independent", "--topology", "ring"], []),
        (["gossip.tau=2", "gossip.wait_timeout_s=90"], ["gossip.wait_timeout_s"]),
        (["gossip.mixing=allreduce", "gossip.wait_timeout_s=90", "gossip.every=2"], ["gossip.wait_timeout_s"]),
        (["gossip.mixing=none", "gossip.lr_scaling=sqrt", "gossip.every=2"], ["gossip.lr_scaling", "gossip.every"]),
        (["gossip.mixing=copy-average", "gossip.tau=0", "gossip.wait_timeout_s=90", "gossip.every=2"], []),
        (["gossip.tau=0", "gossip.at_bound=wait", "gossip.w_min=0.2"], ["gossip.at_bound", "gossip.w_min"]),
        (["gossip.at_bound=wait"], ["gossip.at_bound"]),
        (["gossip.tau=0", "gossip.silent_after_s=9", "max_learners=8"], ["gossip.silent_after_s", "max_learners"]),
        (["algo=independent", "gossip.silent_after_s=9", "max_learners=8"], ["max_learners"]),
        (["gossip.certify=true", "max_learners=8"], ["max_learners"]),
        (["gossip.silent_after_s=9", "max_learners=8"], []),
        (["gossip.at_bound=drop-peer", "gossip.tau=1"], []),
        (["algo=allreduce", "gossip.every=2", "--topology", "complete"], ["gossip.every", "gossip.topology"]),
    ],
)
def test_each_way_of_mixing_has_settings_of_its_own(words, named):
    words = ["learners=3", *words]
    lines = "\n".join(start_lines(parse_config(words), words)).splitlines()
    assert [line.split()[1] for line in lines if line.startswith("note: ")] == named
    assert all(len(line) <= 80 for line in lines)


def test_what_a_preset_holds_for_another_algorithm_is_not_named():
    words = ["preset=minatar/breakout", "algo=a2c"]
    assert "note:" not in "\n".join(start_lines(parse_config(words), words))


def test_idle_settings_change_nothing(tmp_path):
    """All of them at once, beside the same training without."""
    constant = ("optim.schedule=constant", "a2c.entropy_schedule=constant", "normalize.reward=none")
    plain, saved = ("learners=1", "steps=400", PLAIN, *constant), []
    for name, idle in (("without", ()), ("with", [word for word, needed in NEEDS.items() if needed])):
        code, out, err = Gala(tmp_path / name, *TINY, *plain, *idle).end()
        assert (code, err) == (0, "") and out.count("does nothing here") == len(idle)
        saved.append(parts(RunDir.open(tmp_path / name)))
    assert [same(a, b) for (a, _), (b, _) in zip(*saved, strict=True)] == [True]
