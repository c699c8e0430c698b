"""`gala tune` measures real trainings, keeps the best, and ``learners=auto`` uses it."""

from dataclasses import replace

import pytest

from gala.bench import tune
from gala.bench.job import BenchFailed, Block
from gala.bench.tune import candidates, variants
from gala.build.auto import fitted_config
from gala.cli import main
from gala.config.parse import parse_config
from gala.config.tuned import tuned_path
from gala.processes.resources import available_cores

PRESET = "preset=minatar/breakout"


@pytest.fixture(autouse=True)
def _own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


def test_candidates_share_the_simulators_and_never_ask_for_more_threads_than_cores():
    config = parse_config(["preset=atari/pong", "model.encoder=impala"])
    found = list(candidates(config, 16))
    assert len(set(found)) == len(found) and {c.learners * c.envs_per_learner for c in found} == {16}
    assert {c.a2c.passes for c in found} == {"1", "2"}
    assert all(c.learners * c.torch_threads <= max(c.learners, available_cores()) for c in found)
    assert {c.learners for c in candidates(config, 15)} <= {1, 3}, "an equal share each"


@pytest.mark.parametrize("words", ["on_failure=continue", "max_learners=4", "gossip.record=true"])
def test_what_some_candidates_cannot_be_does_not_end_it(words, monkeypatch):
    monkeypatch.setattr(tune, "available_cores", lambda: 4)
    config = parse_config(["preset=atari/pong", "algo=gala", "learners=4", words])
    learners = {c.learners for c in candidates(config, 16)}
    assert learners == ({2, 4, 8} if "record" in words else {1, 2, 4, 8})


def test_settings_that_no_candidate_can_have_are_refused():
    config = parse_config(["preset=atari/pong", "gossip.mixing=allreduce", "gossip.tau=0"])
    with pytest.raises(ValueError, match="waits for all learners anyway"):
        list(candidates(config, 16))


def test_variants_of_the_best_change_how_it_runs_and_not_what():
    config = parse_config(["preset=atari/pong", "learners=2", "envs_per_learner=8", "device=cpu"])
    assert list(variants(config)) == [replace(config, env_groups=2)]
    assert not list(variants(replace(config, envs_per_learner=7)))


def test_variants_that_the_settings_forbid_are_not_raced(monkeypatch):
    """Before, one of these could win, and learners=auto was refused from then on."""
    monkeypatch.setattr(tune.torch.cuda, "is_available", lambda: True)
    words = ["learners=2", "envs_per_learner=8"]
    plain = parse_config(["preset=atari/pong", *words])
    assert [c.model.compile for c in variants(plain)] == ["none", "default", "cuda-graphs"]
    assert [c.model.compile for c in variants(parse_config(["preset=minatar/breakout_ekfac", *words]))] == ["none"]


class Failing:
    """In place of a BenchJob: measures as many env_steps/s as learners; ``starts`` and ``turns`` say which cannot."""

    def __init__(self, config, starts, turns, alive):
        if config.learners not in starts:
            raise BenchFailed(f"learner 0 failed\nTraceback\nRuntimeError: out of memory, of {'many ' * 30}")
        self.learners, self.turns, self.alive = config.learners, turns, alive
        alive.append(self)

    def measure(self, block_s, settle_s):
        if self.learners not in self.turns:
            raise BenchFailed("learner 1 died by SIGKILL")
        return Block(float(self.learners), [], 0.0, 0.0, None, block_s)

    def close(self):
        self.alive.remove(self)


def test_a_candidate_that_fails_is_left_out_and_told_in_a_line(monkeypatch):
    """Before, all that was measured until then was lost."""
    alive, said = list[Failing](), list[str]()
    field = [parse_config(["preset=atari/pong", f"learners={n}", "envs_per_learner=8"]) for n in (1, 2, 3, 4)]
    monkeypatch.setattr(tune, "BenchJob", lambda config: Failing(config, (1, 2, 3), (1, 2), alive))
    assert [(c.learners, rate) for c, rate in tune.race(field, 60.0, said.append)] == [(2, 2.0), (1, 1.0)]
    out = [line for line in said if "left out" in line]
    assert len(out) == 2 and "3 x 8" in out[0] and "4 x 8" in out[1] and not alive
    assert "learner 1 died" in out[0] and "RuntimeError: out of memory" in out[1]
    assert max(map(len, said)) <= 80 and not any("\n" in line for line in said)
    monkeypatch.setattr(tune, "BenchJob", lambda config: Failing(config, (1, 2, 3), (), alive))
    with pytest.raises(BenchFailed, match="out of memory"):
        tune.race(field[::-1], 60.0, said.append)
    assert not alive


def test_the_next_best_is_kept_where_the_best_fails_among_its_variants(monkeypatch):
    alive, started = list[Failing](), list[int]()

    def start(config):
        started.append(config.learners)
        return Failing(config, (1, 2) if started.count(2) < 2 else (1,), (1, 2), alive)

    monkeypatch.setattr(tune, "BenchJob", start)
    monkeypatch.setattr(tune, "candidates", lambda config, envs: [replace(config, learners=n) for n in (1, 2)])
    config = parse_config(["preset=atari/pong", "envs_per_learner=7", "device=cpu"])
    assert [(c.learners, rate) for c, rate in tune.tune(config, 14, 1.0, print)] == [(1, 1.0)]
    assert started == [1, 2, 2] and not alive


@pytest.mark.parametrize("cores", [2, 16, 64])
def test_many_candidates_are_raced_without_all_of_them_in_memory(cores, monkeypatch):
    """Jobs of known rates, and exact ones: the fastest wins, wherever it stands in the field."""
    started, alive, most = 0, list["Job"](), 0

    class Job:
        def __init__(self, config):
            nonlocal started, most
            self.learners, started = config.learners, started + 1
            alive.append(self)
            most = max(most, sum(job.learners for job in alive))

        def measure(self, block_s, settle_s):
            assert self in alive
            return Block(1000.0 - abs(self.learners - fastest), [], 0.0, 0.0, None, block_s)

        def close(self):
            alive.remove(self)

    monkeypatch.setattr(tune, "BenchJob", Job)
    monkeypatch.setattr(tune, "available_cores", lambda: cores)
    field = candidates(parse_config(["preset=atari/pong", "model.encoder=impala"]), 2 * cores)
    for races, fastest in enumerate({c.learners for c in field}, start=1):
        ranked = tune.race(field, 60.0, lambda text: None)
        assert ranked[0][0].learners == fastest and {c for c, _ in ranked} == set(field)
        assert started == races * len(field) and not alive and most <= 4 * cores
    assert cores == 2 or sum(c.learners for c in field) > most


@pytest.mark.long
def test_what_was_tuned_is_used_and_the_command_line_wins(capsys):
    with pytest.raises(ValueError, match=f"^learners=auto: .* run `gala tune {PRESET}` first"):
        parse_config([PRESET, "learners=auto"])
    assert main(["tune", PRESET, "envs=2", "minutes=0.02"]) == 0
    shown = capsys.readouterr().out
    assert (
        "fastest:" in shown
        and tuned_path("minatar/breakout").is_file()
        and max(map(len, shown.splitlines()[:-3])) <= 80
    )
    config = parse_config([PRESET, "learners=auto", "envs_per_learner=3"])
    assert config.learners in (1, 2) and config.envs_per_learner == 3 and config.torch_threads >= 1
    assert config.learners * parse_config([PRESET, "learners=auto"]).envs_per_learner == 2
    assert config.a2c.num_steps == parse_config([PRESET]).a2c.num_steps


def test_what_was_tuned_is_found_for_an_environment_that_has_a_preset(capsys):
    path = tuned_path("classic/cartpole")
    path.parent.mkdir(parents=True)
    path.write_text("learners: 3\n")
    assert fitted_config(["env.id=CartPole-v1", "--learners", "auto"]).learners == 3
    assert main(["train", "env.id=Acrobot-v1", "learners=auto", "--dry-run"]) == 2
    assert "run `gala tune preset=classic/acrobot` first" in capsys.readouterr().err
    for words in (["compare", "preset=classic/cartpole"], ["bench", "throughput", "preset=classic/cartpole"]):
        assert main([*words, "learners=auto"]) == 2
        assert "learners=auto: wants" in capsys.readouterr().err


def test_bad_input_is_one_line(capsys):
    for words in (["minutes=0"], ["minutes=nan"], ["algo=a2c"], ["cluster.address=auto"], ["envs=-1"]):
        assert main(["tune", PRESET, *words]) == 2
        assert capsys.readouterr().err.count("\n") == 1
