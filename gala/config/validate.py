"""What settings cannot work together, said in one line with the fix, before any process starts."""

from __future__ import annotations

import importlib.util
import re
from typing import Any

from gala.config.bounds import check_bounds
from gala.config.derived import is_lock_step
from gala.config.extras import install
from gala.config.idle import idle_pooling
from gala.config.schema import Algo, Config, GossipConfig, ModelConfig


def validate(config: Config) -> None:
    """Refuse values that cannot work. Raises ValueError: one line that names the setting and what it may be."""
    check_bounds(config)
    _refuse(_impossible_models(config))
    if config.optim.name == "ekfac":
        _refuse(_impossible_with_ekfac(config))
    if config.algo == "a2c" and config.learners > 1:
        raise ValueError(f"algo=a2c has one learner, not {config.learners}; use algo=gala, independent or allreduce")
    if config.max_learners and config.max_learners < config.learners:
        raise ValueError(f"max_learners={config.max_learners} is less than learners={config.learners}; leave it at 0")
    lock_step = is_lock_step(config)
    if config.on_failure in ("continue", "restart") and (lock_step or config.learners == 1):
        raise ValueError(f"on_failure={config.on_failure} needs learners that do not wait for each other; use stop")
    if config.on_failure == "restart" and config.algo != "gala":
        raise ValueError("on_failure=restart needs a peer to start from, which algo=gala has; use continue or stop")
    if config.on_failure == "restart" and config.gossip.mixing == "none":
        raise ValueError("on_failure=restart needs gossip to start from; with gossip.mixing=none use continue or stop")
    if config.delay.slow_learner > 1 and not config.delay.mean_s:
        raise ValueError("delay.slow_learner needs delay.mean_s greater than 0 to multiply")
    _validate_gossip(config.algo, config.gossip)
    if config.gossip.record:
        _refuse(_impossible_to_record(config))
    _refuse(_impossible_to_diagnose(config))
    if config.envs_per_learner % config.env_groups:
        raise ValueError(f"env_groups={config.env_groups} must divide envs_per_learner={config.envs_per_learner}")
    per_update = config.learners * config.envs_per_learner * config.a2c.num_steps
    if config.steps < per_update:
        raise ValueError(f"steps={config.steps} is less than one update of every learner ({per_update} env_steps)")


def check_cluster(config: Config) -> None:
    """Refuses, before anything starts, what works on one machine only. Raises ValueError."""
    address, g = config.cluster.address, config.gossip
    if address not in ("", "auto", "local") and not re.fullmatch(r"[^/:]+:\d+", address):
        raise ValueError(f"cluster.address={address} must be auto, local or HOST:PORT")
    local_only = {
        f"gossip.shards={g.shards}": (g.shards > 1, "an actor has one box for all parameters"),
        f"gossip.codec={g.codec}": (g.codec != "none", "between actors messages are float32, so it would save nothing"),
    }
    for setting, (applies, why) in local_only.items():
        if address and applies:
            raise ValueError(f"{setting} works on one machine only, without cluster.address: {why}")


def _impossible_models(config: Config) -> dict[str, bool]:
    model, graphs = config.model, config.model.compile == "cuda-graphs"
    default = ModelConfig()
    sees_no_image = model.encoder == "mlp" or ":" in model.encoder

    def are_set(*names: str) -> bool:
        return any(getattr(model, name) != getattr(default, name) for name in names)

    return {
        "model.width and model.pooling are for encoders of images, as model.encoder=impala": sees_no_image
        and are_set("width", "pooling"),
        **idle_pooling(model),
        f"model.receptive_field is for model.encoder=bagnet, not {model.encoder}": model.encoder != "bagnet"
        and are_set("receptive_field"),
        "model.blocks, shared_blocks, block_norm and block_scale are for model.encoder=impala": model.encoder
        != "impala"
        and are_set("blocks", "shared_blocks", "block_norm", "block_scale"),
        "model.dynamics_coef works without a GRU only; set model.gru_size=0": bool(
            model.dynamics_coef and model.gru_size
        ),
        "model.compile=cuda-graphs needs device=cuda and a2c.passes=2; use model.compile=default": graphs
        and (config.device != "cuda" or config.a2c.passes == "1"),
        "model.compile=cuda-graphs excludes model.dropout and model.augment; use model.compile=default": graphs
        and (model.dropout > 0 or model.augment != "none"),
    }


def _impossible_with_ekfac(config: Config) -> dict[str, bool]:
    return {
        "optim.name=ekfac gives each learner a curvature of its own, so algo=allreduce would tear them apart; use "
        "algo=gala": config.algo == "allreduce" and config.learners > 1,
        "optim.name=ekfac knows no Fisher matrix of a model of the dynamics; set model.dynamics_coef=0": bool(
            config.model.dynamics_coef
        ),
        "optim.name=ekfac looks into the layers, which compiled encoders hide; set model.compile=none": (
            config.model.compile != "none"
        ),
    }


def _impossible_to_diagnose(config: Config) -> dict[str, bool]:
    d, model = config.diagnose, config.model
    rectified = model.encoder != "mlp" or (model.activation == "relu" and model.hidden)
    return {
        "diagnose.dead_units counts units behind a ReLU, and this network has none; set model.activation=relu, or "
        "diagnose.dead_units=0": bool(d.dead_units and not rectified),
        "diagnose.dead_units looks into the layers, which compiled encoders hide; set model.compile=none": bool(
            d.dead_units and model.compile != "none"
        ),
        "diagnose.noise compares a learner's simulators; set envs_per_learner to 2 or more, or diagnose.noise=0": bool(
            d.noise and config.envs_per_learner < 2
        ),
        "diagnose.curvature takes second derivatives, which compiled encoders have not; set model.compile=none": bool(
            d.curvature and model.compile != "none"
        ),
        f"diagnose.curvature needs SciPy: {install('diagnose')}": bool(
            d.curvature and importlib.util.find_spec("scipy") is None
        ),
    }


def _impossible_to_record(config: Config) -> dict[str, Any]:
    g = config.gossip
    needs = "gossip.record needs algo=gala, at least two learners, gossip.mixing=pushsum and no gossip.tau=0"
    return {
        needs: config.algo != "gala" or config.learners < 2 or g.mixing != "pushsum" or g.tau == 0,
        "gossip.record follows whole messages; leave out gossip.shards, codec and overlap": g.shards > 1
        or g.codec != "none"
        or g.overlap,
        "gossip.record knows no cluster; leave out cluster.address": bool(config.cluster.address),
    }


def _validate_gossip(algo: Algo, g: GossipConfig) -> None:
    """Combinations of which one part would do nothing, or something other than it says."""
    boxes = g.mixing in ("pushsum", "copy-average")
    refused = {
        "gossip.peers and gossip.peers_schedule exclude each other; give one": g.peers and g.peers_schedule,
        f"gossip.mixing={g.mixing} sends no messages; leave out gossip.shards, codec and overlap": not boxes
        and (g.shards > 1 or g.codec != "none" or g.overlap),
        "gossip.mixing=allreduce waits for all learners anyway; leave gossip.tau at -1": g.mixing == "allreduce"
        and g.tau >= 0,
        "gossip.mixing=none has nothing to wait for; leave gossip.tau at -1": g.mixing == "none" and g.tau >= 0,
        "gossip.mixing=copy-average waits for every copy, with gossip.tau=0, or for none, with -1": g.tau > 0
        and g.mixing == "copy-average",
        "gossip.tau=0 waits for every peer; leave out gossip.at_bound=drop-peer, or give gossip.tau=1 or more": g.tau
        == 0
        and g.at_bound == "drop-peer",
        "gossip.overlap absorbs a message one update late, so it cannot wait for one; leave out gossip.tau=0 and "
        "gossip.at_bound=wait": g.overlap and (g.tau == 0 or g.at_bound == "wait"),
        f"with gossip.at_bound=wait, gossip.wait_timeout_s={g.wait_timeout_s:g} must be longer than "
        f"gossip.silent_after_s={g.silent_after_s:g}: else one stopped learner ends all that wait for it": g.tau > 0
        and g.at_bound == "wait"
        and g.wait_timeout_s <= g.silent_after_s,
        "gossip.certify follows whole, exact parameters; leave out gossip.shards, codec and mixing=allreduce": g.certify
        and (g.shards > 1 or g.codec != "none" or g.mixing == "allreduce"),
        f"gossip.certify needs algo=gala, not {algo} (gossip.mixing=none is gala without exchange)": g.certify
        and algo != "gala",
    }
    _refuse(refused)


def _refuse(refused: dict[str, Any]) -> None:
    """``refused``: message -> whether it applies."""
    for message, applies in refused.items():
        if applies:
            raise ValueError(message)
