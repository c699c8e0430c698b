"""Settings that would do nothing beside others, each with the setting that it needs."""

from __future__ import annotations

from gala.config.schema import ModelConfig
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
