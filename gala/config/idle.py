"""Settings that would do nothing beside others, each with the setting that it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from gala.config.derived import changed_settings, exchanges_messages, gossips, is_lock_step
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


_EXCEPT = ("gossip.silent_after_s",)
"""Learners that exchange nothing still wait for each other at a common checkpoint."""

_NEEDS: dict[str, tuple[str, Callable[[Config], bool]]] = {
    "gossip.": ("algo=gala and learners=2 or more", gossips),
    "gossip.topology": ("gossip.mixing=pushsum or copy-average", exchanges_messages),
    "gossip.peers": ("gossip.mixing=pushsum or copy-average", exchanges_messages),
    "gossip.w_min": ("gossip.mixing=pushsum", lambda c: c.gossip.mixing == "pushsum"),
    "gossip.max_unread_weight": (
        "gossip.mixing=pushsum and no gossip.tau=0",
        lambda c: c.gossip.mixing == "pushsum" and not is_lock_step(c),
    ),
    "gossip.wait_timeout_s": (
        "gossip.tau=0 or gossip.at_bound=wait",
        lambda c: is_lock_step(c) or c.gossip.at_bound == "wait",
    ),
    "slowmo.": ("slowmo.every=1 or more", lambda c: c.slowmo.every > 0),
    "delay.": ("delay.mean_s greater than 0", lambda c: c.delay.mean_s > 0),
    "ekfac.": ("optim.name=ekfac", lambda c: c.optim.name == "ekfac"),
    "optim.rmsprop_": ("optim.name=rmsprop or rmsprop_tf", lambda c: c.optim.name in ("rmsprop", "rmsprop_tf")),
    "optim.adam_": ("optim.name=adam", lambda c: c.optim.name == "adam"),
    "optim.lr_reference_envs": ("optim.lr_scaling=sqrt", lambda c: c.optim.lr_scaling == "sqrt"),
    "normalize.obs_clip": ("normalize.obs=true", lambda c: c.normalize.obs),
    "normalize.reward_clip": ("normalize.reward=scale", lambda c: c.normalize.reward == "scale"),
    "max_restarts": ("on_failure=restart", lambda c: c.on_failure == "restart"),
    "diagnose.eigenvalues": ("diagnose.curvature greater than 0", lambda c: c.diagnose.curvature > 0),
}
"""Setting, or beginning of several -> what it needs, in words, and whether a training has that."""


def idle_lines(config: Config, given: Iterable[str]) -> list[str]:
    """A line for each of the settings ``given``, dotted names, that was given another value than its default and that
    this training does not look at. Presets and comparisons hold such as well, for other algorithms, so nothing is
    refused."""
    found, changed = dict[str, str](), {name for name, *_ in changed_settings(config)}
    for name in (name for name in given if name in changed and name not in _EXCEPT):
        for beginning, (needs, has_it) in _NEEDS.items():
            if name.startswith(beginning) and not has_it(config):
                found.setdefault(name, f"note: {name} does nothing here; it needs {needs}")
    return list(found.values())
