"""Settings that would do nothing beside others, each with the setting that it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from gala.config.derived import changed_settings, exchanges_messages, gossips, is_elastic, is_lock_step
from gala.config.schema import Config, ModelConfig
from gala.config.supervised import SgdConfig, SlowConfig, SupervisedConfig, TinyModelConfig, method_names


def idle_pooling(model: ModelConfig | TinyModelConfig) -> dict[str, bool]:
    """Message -> whether it applies, of the settings of one ``model.pooling`` that were given beside another."""
    default = type(model)()
    needs = {"pool_temperature": "logsumexp", "pool_top_k": "top_k"}
    return {
        f"model.{name} does nothing with pooling={model.pooling}; use model.pooling={pooling}": (
            getattr(model, name) != getattr(default, name) and model.pooling != pooling
        )
        for name, pooling in needs.items()
    }


def refuse_idle(config: SupervisedConfig) -> None:
    """Refuses what `gala supervised` would not look at. Raises ValueError: one line that names the setting."""
    default, names, momentum = SupervisedConfig(), method_names(config), config.optim.momentum
    uses_slow = config.slowmo != "off" or "local-sgd" in names
    idle = {
        **idle_pooling(config.model),
        f"optim.momentum does nothing with optim.name={config.optim.name}; use optim.name=sgd": (
            config.optim.name != "sgd" and momentum != SgdConfig().momentum
        ),
        "overlap_tau does nothing without method=overlap-sgp; leave it out": (
            config.overlap_tau != default.overlap_tau and "overlap-sgp" not in names
        ),
        "dpsgd_topology does nothing without method=dpsgd; leave it out": (
            config.dpsgd_topology != default.dpsgd_topology and "dpsgd" not in names
        ),
        "slow.* does nothing with slowmo=off and without method=local-sgd; leave it out": (
            config.slow != SlowConfig() and not uses_slow
        ),
    }
    for message, applies in idle.items():
        if applies:
            raise ValueError(message)


_ALONE = "gossip.silent_after_s"
"""Learners that exchange nothing still wait so long for each other at a common checkpoint."""
_WITHOUT_LOCK_STEP = "gossip.mixing=pushsum and no gossip.tau=0"


def _pushes_freely(config: Config) -> bool:
    return config.gossip.mixing == "pushsum" and not is_lock_step(config)


def _may_wait(config: Config) -> bool:
    g = config.gossip
    return exchanges_messages(config) and (g.tau == 0 or (g.tau > 0 and g.at_bound == "wait"))


def _falls(config: Config) -> bool:
    return "linear" in (config.optim.schedule, config.a2c.entropy_schedule)


_NEEDS: tuple[tuple[str, str, Callable[[Config], bool]], ...] = (
    (_ALONE, "learners that do not wait for each other", lambda c: not is_lock_step(c)),
    ("gossip.", "algo=gala and learners=2 or more", gossips),
    ("gossip.topology", "gossip.mixing=pushsum or copy-average", exchanges_messages),
    ("gossip.peers", "gossip.mixing=pushsum or copy-average", exchanges_messages),
    ("gossip.every", "another gossip.mixing than none", lambda c: c.gossip.mixing != "none"),
    ("gossip.lr_scaling", "another gossip.mixing than none", lambda c: c.gossip.mixing != "none"),
    ("gossip.w_min", _WITHOUT_LOCK_STEP, _pushes_freely),
    ("gossip.max_unread_weight", _WITHOUT_LOCK_STEP, _pushes_freely),
    ("gossip.at_bound", "gossip.mixing=pushsum and gossip.tau=1 or more", lambda c: c.gossip.tau > 0),
    ("gossip.wait_timeout_s", "gossip.mixing=pushsum, with gossip.tau=0 or gossip.at_bound=wait", _may_wait),
    ("slowmo.", "slowmo.every=1 or more", lambda c: c.slowmo.every > 0),
    ("delay.", "delay.mean_s greater than 0", lambda c: c.delay.mean_s > 0),
    ("ekfac.", "optim.name=ekfac", lambda c: c.optim.name == "ekfac"),
    ("optim.rmsprop_", "optim.name=rmsprop or rmsprop_tf", lambda c: c.optim.name in ("rmsprop", "rmsprop_tf")),
    ("optim.adam_", "optim.name=adam", lambda c: c.optim.name == "adam"),
    (
        "optim.eps",
        "optim.name=adam, rmsprop or rmsprop_tf",
        lambda c: c.optim.name in ("adam", "rmsprop", "rmsprop_tf"),
    ),
    ("optim.lr_reference_envs", "optim.lr_scaling=sqrt", lambda c: c.optim.lr_scaling == "sqrt"),
    ("normalize.obs_clip", "normalize.obs=true", lambda c: c.normalize.obs),
    ("normalize.reward_clip", "normalize.reward=scale", lambda c: c.normalize.reward == "scale"),
    ("schedule_", "optim.schedule or a2c.entropy_schedule=linear", _falls),
    ("max_learners", "learners that `gala scale` may change: algo=gala, no gossip.certify, no lock-step", is_elastic),
    ("max_restarts", "algo=gala and on_failure=restart", lambda c: c.on_failure == "restart"),
    ("diagnose.eigenvalues", "diagnose.curvature greater than 0", lambda c: c.diagnose.curvature > 0),
)
"""Setting, or beginning of several; what it needs, in words; whether a training has that. The first lack is told."""


def idle_lines(config: Config, given: Iterable[str]) -> list[str]:
    """A line for each of the settings ``given``, dotted names, that was given another value than its default and that
    this training does not look at. Presets and comparisons hold such as well, for other algorithms, so nothing is
    refused."""
    found, changed = dict[str, str](), {name for name, *_ in changed_settings(config)}
    for name in (name for name in given if name in changed):
        for beginning, needs, has_it in _NEEDS:
            applies = name.startswith(beginning) if name != _ALONE else beginning == _ALONE
            if applies and not has_it(config):
                found.setdefault(name, f"note: {name} does nothing here; it needs {needs}")
    return list(found.values())
