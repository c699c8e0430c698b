"""What ``mutants.py`` changes, which tests should notice it, and the changes that no test can or need notice."""

from __future__ import annotations

_LEARNER = (
    *("tests/rl/test_update.py", "tests/rl/test_collector.py", "tests/rl/test_rollout.py"),
    *("tests/rl/test_autoreset.py", "tests/models/test_regularisers.py"),
)
_GROUPS = (
    "tests/rl/test_groups.py::test_each_group_plays_what_its_simulators_play_by_themselves",
    "tests/rl/test_groups.py::test_a_collector_goes_on_from_where_another_stood",
)
_AVERAGER = (
    *("tests/gossip/test_averager_values.py", "tests/gossip/test_averager.py", "tests/gossip/test_membership.py"),
    *("tests/gossip/test_certificate.py", "tests/gossip/test_any_model.py", "tests/gossip/test_dtypes.py"),
    *("tests/gossip/test_back_pressure.py", "tests/gossip/test_alone.py", "tests/gossip/test_exchange.py"),
)
_MODELS = (
    *("tests/models/test_encoders.py", "tests/models/test_actor_critic.py", "tests/models/test_regularisers.py"),
    "tests/rl/test_update.py",
)
_EPISODES = ("tests/diagnostics/test_evaluation.py", "tests/diagnostics/test_probes.py")
_BOXES = (
    *("tests/gossip/test_averager_values.py", "tests/gossip/test_mailbox.py", "tests/gossip/test_membership.py"),
    "tests/gossip/test_averager.py",
)
_EKFAC = ("tests/optim/test_ekfac_means.py", "tests/optim/test_ekfac.py")
_GRAPHS = ("tests/gossip/test_topology.py", "tests/gossip/test_choice.py", "tests/gossip/test_membership.py")
_RUNS = ("tests/test_runs.py", "tests/test_best_checkpoint.py")
_TRANSPORT = "gala/gossip/transport"

TESTS: dict[str, tuple[str, ...]] = {
    "gala/rl/a2c.py": ("tests/rl/test_a2c.py", "tests/rl/test_update.py"),
    "gala/rl/returns.py": ("tests/rl/test_returns.py",),
    "gala/rl/normalise.py": ("tests/rl/test_normalise.py",),
    "gala/rl/actor_learner.py": (*_LEARNER, "tests/rl/test_lean.py", "tests/rl/test_during_training.py"),
    "gala/rl/lean.py": ("tests/rl/test_lean.py",),
    "gala/rl/lean_layers.py": ("tests/rl/test_lean.py",),
    "gala/rl/lean_actions.py": ("tests/rl/test_lean.py",),
    "gala/rl/rollout.py": (*_LEARNER, *_GROUPS),
    "gala/optim/rmsprop_tf.py": ("tests/optim/test_rmsprop_tf.py",),
    "gala/optim/update.py": ("tests/optim/test_learning_step.py", "tests/rl/test_update.py"),
    "gala/optim/ekfac.py": _EKFAC,
    "gala/optim/ekfac_layers.py": _EKFAC,
    "gala/optim/state.py": ("tests/optim/test_state.py",),
    "gala/rl/fisher.py": ("tests/rl/test_fisher.py",),
    "gala/optim/schedules.py": ("tests/optim/test_rmsprop_tf.py",),
    "gala/optim/slowmo.py": ("tests/optim/test_slowmo.py",),
    "gala/gossip/push_sum.py": (
        "tests/gossip/test_push_sum.py::test_a_message_is_written_where_it_is_told_to",
        "tests/gossip/test_push_sum.py::test_sent_weights_at_their_bounds",
        "tests/gossip/test_push_sum.py::test_sent_weights_keep_the_floor_the_proportions_and_send_all_they_may",
        "tests/gossip/test_push_sum.py::test_exact_mean_under_delay_and_sleep_and_mass_at_every_tick",
        "tests/gossip/test_averager.py",
    ),
    "gala/gossip/averager.py": _AVERAGER,
    "gala/evaluation/student.py": ("tests/diagnostics/test_statistics.py",),
    "gala/experiments/statistics.py": ("tests/diagnostics/test_components.py", "tests/diagnostics/test_statistics.py"),
    "gala/diagnostics/overfitting/generalisation.py": ("tests/diagnostics/test_generalisation.py",),
    "gala/diagnostics/overfitting/episodes.py": _EPISODES,
    "gala/diagnostics/overfitting/policies.py": _EPISODES,
    "gala/diagnostics/overfitting/probes.py": _EPISODES,
    "gala/diagnostics/overfitting/audit.py": _EPISODES,
    "gala/models/actor_critic.py": _MODELS,
    "gala/models/encoders.py": _MODELS,
    "gala/models/dynamics.py": _MODELS,
    "gala/models/augment.py": ("tests/models/test_augment.py",),
    "gala/models/distributions.py": ("tests/models/test_distributions.py", "tests/models/test_actor_critic.py"),
    "gala/gossip/copy_average.py": _AVERAGER,
    "gala/gossip/exchange.py": _AVERAGER,
    "gala/gossip/staleness.py": _AVERAGER,
    "gala/gossip/flat.py": ("tests/gossip/test_flat.py", "tests/gossip/test_averager.py"),
    "gala/gossip/message.py": _BOXES,
    "gala/gossip/sharded.py": ("tests/gossip/test_averager_values.py", "tests/gossip/test_compress.py"),
    "gala/gossip/evidence/events.py": ("tests/gossip/test_monitor.py",),
    "gala/gossip/evidence/epsilon_ball.py": ("tests/gossip/test_monitor.py", "tests/gossip/test_certificate.py"),
    "gala/gossip/event_log.py": ("tests/gossip/test_certificate.py",),
    "gala/gossip/evidence/certificate.py": ("tests/gossip/test_certificate.py",),
    "gala/gossip/graphs/topology.py": _GRAPHS,
    "gala/gossip/graphs/base_graph.py": _GRAPHS,
    "gala/gossip/graphs/spectrum.py": _GRAPHS,
    "gala/gossip/graphs/by_name.py": _GRAPHS,
    "gala/gossip/graphs/from_file.py": _GRAPHS,
    "gala/gossip/graphs/stitching.py": ("tests/gossip/test_membership.py",),
    f"{_TRANSPORT}/roster.py": _BOXES,
    f"{_TRANSPORT}/box.py": _BOXES,
    f"{_TRANSPORT}/block.py": _BOXES,
    f"{_TRANSPORT}/in_process.py": _BOXES,
    f"{_TRANSPORT}/endpoint.py": _BOXES,
    f"{_TRANSPORT}/shared_memory.py": _BOXES,
    f"{_TRANSPORT}/compress.py": ("tests/gossip/test_compress.py",),
    f"{_TRANSPORT}/delayed.py": ("tests/gossip/test_delayed.py",),
    f"{_TRANSPORT}/overlap.py": ("tests/gossip/test_overlap.py",),
    "gala/runs/checkpoints.py": _RUNS,
    "gala/runs/run_dir.py": _RUNS,
    "gala/training/common_checkpoint.py": _RUNS,
}
"""File -> the tests that should care, quick ones first."""

_TIES = "the number only keeps equal sums from being told apart by rounding; any that is small does"
_SHIFT = "adds one and the same number to the observed sum and to all that it is compared with"
_NEWTON = "Newton's method starts or ends elsewhere, at the same number"
_MEMORY = "how many numbers stand in memory at once; the sums are the same"
_COMMUTES = "neither order changes the result"
_ORDER = "it breaks a tie between one without a number of training MDPs and one with a single one"
_START = "the first exponent has a finite loss and replaces it"
_WIDE = "wider than any layer"
_UNASSIGNED = "nothing assigns to it"
_NUMBERED = "only groups with a number get there"
_UNKNOWN = "NumPy takes any negative length for the one that it works out"
_LIBRARY = "which library multiplies; products differ by rounding"
_TINY = "1e-30, more or less: far from the numbers that count, and from those that are slow"
_COLUMNS = "the last axis of vectors that are stacked is their second"

EQUIVALENT: dict[str, dict[str, str]] = {
    "gala/evaluation/student.py": {
        "t_quantile:  np.cos(angle * (_NODES + 1) / 2) ** (df - 1)) -> "
        " np.cos(angle * (_NODES - 1) / 2) ** (df - 1))": "the nodes are symmetric and a cosine is even",
        "t_quantile: ).inv_cdf((1 + level) / 2) -> ).inv_cdf((1 + level) / 3)": _NEWTON,
        "t_quantile: for _ in range(100): -> for _ in range(101):": _NEWTON,
        "t_quantile: if abs(step) < 1e-13 * t: -> if abs(step) <= 1e-13 * t:": _NEWTON,
        "t_quantile: if abs(step) < 1e-13 * t: -> if abs(step) < 2e-13 * t:": _NEWTON,
        "t_quantile: if abs(step) < 1e-13 * t: -> if abs(step) < 1e-13 / t:": _NEWTON,
        ": mial.legendre.leggauss(32) -> mial.legendre.leggauss(33)": "both are exact to the last digits",
    },
    "gala/experiments/statistics.py": {
        "of: return cls(x, 0.0, 0.0, 0.0) -> return cls(x, 0.0, 0.0, 1.0)": "nobody asks a single context for it",
        "mean_interval: e.scores.shape[1], 0.0, 0)) -> e.scores.shape[1], 0.0, 1))": "no variance is less than 0.0",
        "mean_interval: else [_runs(means, 0.0, 1)] -> else [_runs(means, 0.0, 2)]": "no variance is less than 0.0",
        "gap_interval: t), len(np.asarray(test[0]))) -> t), len(np.asarray(test[1])))": "all runs have as many",
        "page_trend_test: m((1, 2)) >= observed - 1e-09).sum()) / (1 + perm -> "
        "m((1, 2)) >= observed - 2e-09).sum()) / (1 + perm": _TIES,
        "page_trend_test: * weights).sum((1, 2)) >= observed - 1e-09).sum() -> "
        "* weights).sum((1, 2)) > observed - 1e-09).sum()": _TIES,
        "page_trend_test: anks = above + (equal + 1) / 2 -> anks = above + (equal + 2) / 2": _SHIFT,
        "page_trend_test: ranks = above + (equal + 1) / 2 -> ranks = above + (equal - 1) / 2": _SHIFT,
        "fit_power_law: best, error = (PowerLaw(0.0, 1.0, float(gaps.mean -> "
        "best, error = (PowerLaw(1.0, 1.0, float(gaps.mean": _START,
        "fit_power_law:  error = (PowerLaw(0.0, 1.0, float(gaps.mean())), ->  "
        "error = (PowerLaw(0.0, 2.0, float(gaps.mean())),": _START,
        "fit_power_law: best, error = (PowerLaw(0.0, 1.0, float(gaps.mean())), -> "
        "best, error = (PowerLaw(1.0, 0.0, float(gaps.mean())),": _START,
        "fit_power_law: for b in np.linspace(0.02, 3.0, 299): -> "
        "for b in np.linspace(3.0, 0.02, 299):": "the same exponents, the other way round",
        "fit_power_law: if c < 0: -> if c <= 0:": "a constant of exactly 0 is fitted again, as 0",
        "fit_power_law: inalg.lstsq(design, gaps, rcond=None) -> "
        "inalg.lstsq(design, gaps)": "None is NumPy's default since 2.0",
    },
    "gala/optim/ekfac.py": {
        "__init__: ype=torch.promote_types(param.dtype, torch.float32)) -> "
        "ype=torch.promote_types(torch.float32, param.dtype))": _COMMUTES,
        "__init__: ot why_diagonal(module, 2 ** 62)): -> ot why_diagonal(module, 3 ** 62)):": _WIDE,
        "__init__: _diagonal(module, 2 ** 62)): -> _diagonal(module, 2 ** 63)):": _WIDE,
    },
    "gala/optim/ekfac_layers.py": {
        ": _MAX_NUMBERS = 2 ** 24 -> _MAX_NUMBERS = 3 ** 24": _MEMORY,
        ": _MAX_NUMBERS = 2 ** 24 -> _MAX_NUMBERS = 2 ** 25": _MEMORY,
        ": _MAX_NUMBERS = 2 ** 24 -> _MAX_NUMBERS = 2 * 24": _MEMORY,
        "summed_squares: size = max(1, _MAX_NUMBERS // (g.sha -> size = max(2, _MAX_NUMBERS // (g.sha": _MEMORY,
        "__init__: e': torch.promote_types(weight.dtype, torch.float32)} -> "
        "e': torch.promote_types(torch.float32, weight.dtype)}": _COMMUTES,
    },
    "gala/rl/normalise.py": {
        "__call__: bers.reshape(len(obs), -1), mask], 1) -> bers.reshape(len(obs), -2), mask], 1)": _UNKNOWN,
        "__init__: self._scale = self.m2 -> pass": "it is made before it is first read",
    },
    "gala/optim/update.py": {
        "clip_: if max_norm > 0: -> if max_norm >= 0:": "without a limit the factor is 1",
    },
    "gala/rl/lean.py": {
        "set_gradient: umpy(), action.reshape(-1, *action.shape[2:]), a, -> "
        "umpy(), action.reshape(-2, *action.shape[2:]), a,": _UNKNOWN,
        "joined: return rows.reshape(-1, rows.shape[2]) -> return rows.reshape(-2, rows.shape[2])": _UNKNOWN,
    },
    "gala/rl/lean_layers.py": {
        "read: (obs.reshape(len(obs), -1).astype(np.float32, cop -> "
        "(obs.reshape(len(obs), -2).astype(np.float32, cop": _UNKNOWN,
        "read: astype(np.float32, copy=False), []) -> "
        "astype(np.float32, copy=True), [])": "a copy has the same numbers",
    },
    "gala/rl/lean_actions.py": {
        "sample: turn np.stack(actions, -1) if self._several else -> "
        "turn np.stack(actions, --1) if self._several else": _COLUMNS,
        "mode: turn np.stack(actions, -1) if self._several else -> "
        "turn np.stack(actions, --1) if self._several else": _COLUMNS,
    },
    "gala/optim/slowmo.py": {
        "_params: s not q for p, q in zip(params, self._known, strict=False))): -> "
        "s not q for p, q in zip(self._known, params, strict=False))):": _COMMUTES,
    },
    "gala/gossip/exchange.py": {
        "_norm: _event is not None else 0.0 -> _event is not None else 1.0": "only a listener is told it",
        "put_share: sent = numerator(z, weight, out=self._numerator) -> "
        "sent = numerator(weight, z, out=self._numerator)": "a product commutes",
    },
    "gala/gossip/push_sum.py": {
        "numerator: return torch.mul(z, weight, out=out) -> return torch.mul(weight, z, out=out)": "a product commutes",
        "sent_weights: if total <= room or total == 0.0: -> "
        "if total < room or total == 0.0:": "at equality the plan is scaled by 1",
    },
    "gala/diagnostics/overfitting/generalisation.py": {
        "judge: ambda k: (k[0], k[1] or 0)) -> ambda k: (k[0], k[1] or 1))": _ORDER,
        ": @dataclass(frozen=True) -> @dataclass(frozen=False)": _UNASSIGNED,
        ": @dataclass(frozen=True) -> @dataclass()": _UNASSIGNED,
        "_trend: morised = [g.n_train or 0 for g in groups if (g.t -> "
        "morised = [g.n_train or 1 for g in groups if (g.t": _NUMBERED,
        "_trend: n = [g.n_train or 0 for g in groups] -> n = [g.n_train or 1 for g in groups]": _NUMBERED,
    },
}
"""File -> name of a change, as ``mutants.py`` prints it -> why nothing can come of it."""

ACCEPTED: dict[str, dict[str, str]] = {
    "gala/optim/ekfac_layers.py": {
        "_renew_basis: ed_fill_(factor.abs() < 100000000.0 * torch.finfo -> "
        "ed_fill_(factor.abs() < 200000000.0 * torch.finfo": _TINY,
        "_renew_basis: ked_fill_(factor.abs() < 100000000.0 * torch.fin -> "
        "ked_fill_(factor.abs() <= 100000000.0 * torch.fin": _TINY,
    },
    "gala/gossip/averager.py": {
        ": _DRAIN_TRIES = 20 -> _DRAIN_TRIES = 21": "one more look into boxes that stayed locked twenty times",
        "drain: self._mass.count_as_others() -> pass": "it is counted so again in the next exchange",
    },
    "gala/gossip/push_sum.py": {
        "absorb_: UNIT_BITS = 32 -> UNIT_BITS = 33": "weights begin to be counted anew a bit later",
    },
    "gala/optim/ekfac.py": {
        "__init__: self.predicted_kl = torch.zeros(()) -> pass": "it is set by the first step, before anybody asks",
    },
    "gala/rl/lean_layers.py": {
        ": _ONE_THREAD = 2 ** 18 -> _ONE_THREAD = 2 ** 19": _LIBRARY,
        ": _ONE_THREAD = 2 ** 18 -> _ONE_THREAD = 3 ** 18": _LIBRARY,
        ": _LARGE = 2 ** 14 -> _LARGE = 2 * 14": _LIBRARY,
        ": _LARGE = 2 ** 14 -> _LARGE = 2 ** 15": _LIBRARY,
        ": _LARGE = 2 ** 14 -> _LARGE = 3 ** 14": _LIBRARY,
        "_relu_: x, 0, out=x) if x.size < _LARGE else torch.from_ -> "
        "x, 0, out=x) if x.size <= _LARGE else torch.from_": _LIBRARY,
        "_relu_backward: if y.size < _LARGE: -> if y.size <= _LARGE:": _LIBRARY,
    },
    "gala/rl/rollout.py": {
        "collect: orch.from_numpy(getattr(self, f'_{name}'))) -> "
        "orch.from_numpy(getattr(f'_{name}', self)))": "on a GPU only, of which no test here has one",
    },
    "gala/rl/normalise.py": {
        ": _MOST_UNREAD = 1024 -> _MOST_UNREAD = 1025": "one batch more waits, where nobody asks for so long",
    },
}
"""As ``EQUIVALENT``: changes that can be seen and that nobody would mind, and why."""
