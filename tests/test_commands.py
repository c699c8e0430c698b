import math
import os
import re
import subprocess
import sys

import pytest
import torch

from gala import cli
from gala.commands import plot
from gala.config.schema import Config, EnvConfig, LogConfig, OptimConfig
from gala.config.tuned import tuned_path
from gala.runs.run_dir import RunDir
from gala.training.new_run import default_run, open_new

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="PyTorch sees a CUDA GPU")


def error_line(capsys) -> str:
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1, (out, err)
    return err


def test_a_ring_shows_its_edges_and_its_known_spectral_gap(capsys):
    pytest.importorskip("gala.gossip.graphs.spectrum")
    assert cli.main(["topologies", "ring", "n=8"]) == 0
    out = capsys.readouterr().out
    assert "round 0: 0>1  1>2  2>3  3>4  4>5  5>6  6>7  7>0\n" in out
    assert f"spectral gap {1 - math.cos(math.pi / 8):.4f}" in out  # of (I + shift) / 2: |1 + exp(2 pi i / 8)| / 2
    assert cli.main(["topologies"]) == 0
    assert "ring " in capsys.readouterr().out
    assert cli.main(["topologies", "rign"]) == 2
    assert error_line(capsys).endswith("base-4; did you mean 'ring'?\n")
    assert cli.main(["topologies", "complete", "n=4"]) == 0
    assert "the exact average after 1 round\n" in capsys.readouterr().out


def test_doctor_takes_no_words(capsys):
    assert cli.main(["doctor", "runs/x"]) == 2
    assert "'runs/x': gala doctor takes no words" in error_line(capsys)


def test_doctor_counts_the_cores_of_its_affinity_mask_not_of_the_machine():
    one = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, [{one}]); from gala.cli import main; main(['doctor'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert re.search(r"^cores +1 usable of ", done.stdout, re.MULTILINE)
    for subject in ("torch", "memory", "atari", "mujoco", "minatar", "envpool", "rapl", "nvml"):
        assert re.search(rf"^{subject} +\S", done.stdout, re.MULTILINE), subject
    if "envpool    missing" in done.stdout:
        assert "pip install 'envpool>=" in done.stdout


def test_the_default_run_directory_says_what_it_is():
    config = Config(env=EnvConfig(id="ALE/Pong-v5"), seed=3)
    assert default_run(config, "20260102-030405") == "runs/ale-pong-v5-gala-s3-20260102-030405"


def test_two_runs_of_one_second_have_directories_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = Config(run="runs/x-20260102-030405")
    runs = [open_new(config, ["optim.lr=1e-3"]) for _ in range(3)]
    assert [str(run.path) for run in runs] == [config.run, f"{config.run}-2", f"{config.run}-3"]
    assert [RunDir.open(run.path).config.run for run in runs] == [str(run.path) for run in runs]
    with pytest.raises(ValueError, match="already exists"):
        open_new(config, [f"run={config.run}"])
    (tmp_path / "a_file").touch()
    with pytest.raises(ValueError, match="cannot make the run directory"):
        open_new(Config(run="a_file/x"), [])
    for run in runs:
        run.close()


def test_dry_run_prints_settings_and_arithmetic_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    pytest.importorskip("gala_envs.registry")
    monkeypatch.chdir(tmp_path)
    words = ["preset=atari/pong", "learners=4", "steps=1e6", "optim.lr=1e-3", "gossip.lr_scaling=sqrt", "--dry-run"]
    assert cli.main(["train", *words]) == 0
    out = capsys.readouterr().out
    rows = dict(re.split(r" {2,}", line, maxsplit=1) for line in out.splitlines() if re.search(r"\S {2,}\S", line))
    assert "learners: 4\n" in out
    assert rows["batch of an update"] == "16 x 5 steps = 80 per learner"
    assert rows["updates"] == "3,125 per learner"  # 1e6 / (4 x 80)
    assert rows["frames"] == "4,000,000 (4 per env_step)"
    assert rows["learning rate"] == "0.002 at the start, 0.002 at the end; with a factor"  # 1e-3 x sqrt(4 learners)
    assert rows["parameters"] == "866,439"  # the Nature CNN with 32 filters in its last layer, 6 actions and a value
    assert rows["observations of a rollout"] == "2.15 MiB per learner"  # 80 x 4 x 84 x 84 bytes
    assert list(tmp_path.iterdir()) == []


def test_dry_run_says_how_the_work_is_cut_up_here(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for module in ("gala.commands.train", "gala.processes.resources", "gala.config.tuned"):
        monkeypatch.setattr(f"{module}.available_cores", lambda: 8)

    def rows(*words):
        assert cli.main(["train", *words, "--dry-run"]) == 0
        out = capsys.readouterr().out
        table = [line for line in out.splitlines() if re.search(r"\S {2,}\S", line)]
        assert all(len(line) <= 80 for line in table)
        return dict(re.split(r" {2,}", line, maxsplit=1) for line in table)

    dense = rows("preset=classic/cartpole", "learners=4", "device=cpu")
    assert dense["cores"] == "4 learners on 8 cores; learners=8 would use all"
    assert dense["threads of a learner"] == "1 for its network, 2 for its simulators"
    assert dense["measured here"] == "no; gala tune preset=classic/cartpole would"
    assert "by hand" in dense["gradient"]
    tuned_path("classic/cartpole").parent.mkdir(parents=True)
    tuned_path("classic/cartpole").write_text("learners: 2\n")
    tuned = rows("preset=classic/cartpole", "learners=auto", "a2c.passes=2")
    assert tuned["cores"].startswith("2 learners on 8") and tuned["measured here"].startswith("yes: learners=auto")
    assert tuned["gradient"] == "PyTorch's autograd, in a second pass"
    assert "Ray cluster" in rows("preset=classic/cartpole", "cluster.address=auto")["threads of a learner"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["topology=rign"], "unknown topology 'rign'"),
        (["topology=torus", "gossip.peers=2"], "torus has its own number of peers"),
        (["gossip.peers_schedule=2"], "write FIRST_EXCHANGE:PEERS"),
        (["topology=nowhere.yaml"], "cannot read nowhere.yaml"),
        (["learners=1000000", "steps=1e15"], "GiB; take fewer learners"),
        (["gossip.shards=1000000"], "866439 parameters can be cut into 1 to 866439 shards"),
        (["env.id=ALE/Pnog-v5"], "ALE/Pong-v5"),
        pytest.param(["device=cuda"], "use device=auto or device=cpu", marks=without_gpu),
        (["preset=classic/cartpole", "model.augment=shift"], "wants [C, H, W] images"),
    ],
)
def test_what_only_the_parts_know_is_refused_before_anything_is_written(tmp_path, monkeypatch, words, message, capsys):
    pytest.importorskip("gala_envs.registry")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "preset=atari/pong", "learners=2", *words]) == 2
    assert message in error_line(capsys)
    assert list(tmp_path.iterdir()) == []


def test_eval_refuses_bad_options_in_one_line(tmp_path, capsys):
    for words, message in [
        (["mode=gredy"], "mode=gredy: wants one of sampled, greedy, both; did you mean 'greedy'?"),
        (["episode=3"], "unknown setting 'episode'; did you mean 'episodes'?"),
        (["episodes=0"], "is not a run directory"),
    ]:
        assert cli.main(["eval", str(tmp_path), *words]) == 2
        assert message in error_line(capsys)
    run = RunDir.create(Config(run=str(tmp_path / "run")), [], overwrite=False)
    run.write_part("staging", "learner0", {}, {})
    run.commit_checkpoint("staging", ["latest"], {"ranks": [0, 1, 3]})
    for words, message in [
        (["learner=4"], "learner=4: wants consensus or one of 0, 1, 3"),
        (["learner=mean"], "learner=mean: wants consensus or one of 0, 1, 3"),
        (["episodes=0"], "episodes=0 must be at least 1"),
        (["seed=-1"], "seed=-1 must be 0 or more"),
        (["video=a.gif"], "video=a.gif must end in .mp4"),
        (["checkpoint=best"], "has no checkpoint 'best'; it has latest"),
    ]:
        assert cli.main(["eval", str(run.path), *words]) == 2
        assert message in error_line(capsys)


def test_a_graph_from_a_file_is_shown_and_drawn_and_nothing_is_overwritten(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    graph, picture = tmp_path / "graph.txt", tmp_path / "graph.svg"
    graph.write_text("0 1\n1 2\n2 0\n---\n0 2\n2 0\n")
    words = ["topologies", str(graph), f"out={picture}"]
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert "round 1: 0>2  1>-  2>0\n" in out and "edges per round 2 to 3\n" in out
    text = picture.read_text()
    assert text.count("round ") >= 2 and "round 0: 3 edges" in text.replace("&gt;", ">")
    arrows = text.count('id="patch_')
    assert arrows >= 5  # one for each edge of the two rounds
    assert cli.main(words) == 2
    assert f"{picture} already exists; name another with out=FILE or add overwrite=true" in error_line(capsys)
    assert cli.main([*words, "overwrite=true"]) == 0 and picture.read_text() == text
    capsys.readouterr()
    for bad, message in [
        ("out=x.jpg", "must end in .png or .svg"),
        ("out=nowhere/x.png", "there is no folder nowhere"),
        ("n=0", "a topology needs at least 1 learner, not 0"),
        ("peers=-1", "peers=-1 must be 0"),
        ("n=100000", "n=100000 is too large to show every edge; n can be at most 1024"),
        ("n=1e9", "n=1000000000 is too large"),
        ("n=many", "n=many: wants a whole number"),
    ]:
        assert cli.main(["topologies", "ring", bad]) == 2
        assert message in error_line(capsys)


@pytest.mark.parametrize("name", ["ring", "base-4", "random-2", "complete"])
@pytest.mark.parametrize("n", [1, 2, 32])
def test_a_shown_graph_fits_80_columns(name, n, capsys):
    assert cli.main(["topologies", name, f"n={n}"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_plots_are_made_of_the_records_and_say_what_is_missing(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    run = RunDir.create(Config(run=str(tmp_path / "run"), log=LogConfig(tensorboard=False)), [], overwrite=False)
    assert cli.main(["plot", str(run.path), "returns"]) == 2
    assert "has no records yet" in error_line(capsys)
    run.append_metrics({"global_step": 5, "gossip/consensus_distance": 0.5})
    assert cli.main(["plot", str(run.path), "returns"]) == 2
    assert "has no returns: no episode ended before its last record" in error_line(capsys)
    assert cli.main(["plot", str(run.path), "epsilon-ball"]) == 2
    assert "train with gossip.certify=true" in error_line(capsys)
    for step in (10, 20, 30):
        each = {"charts/episodic_return": step / 3}
        ball = {"gossip/consensus_distance": 0.1 * step, "gossip/epsilon_bound": 2.5}
        run.append_metrics({"global_step": step, "charts/episodic_return": step / 2, "learner0": each, **ball})
    assert cli.main(["plot", str(run.path), "epsilon-ball", f"out={tmp_path / 'ball.svg'}"]) == 0
    assert "inside at 2 of 3 points" in (tmp_path / "ball.svg").read_text()
    assert cli.main(["plot", str(run.path), "returns"]) == 0
    assert (run.path / "returns.png").read_bytes().startswith(b"\x89PNG")
    capsys.readouterr()
    assert cli.main(["plot", str(run.path), "runs/nope"]) == 2
    assert "runs/nope is not there: name another run, or a figure: returns, epsilon-ball" in error_line(capsys)
    assert cli.main(["plot", str(run.path), "epsilon_ball"]) == 2
    assert "did you mean 'epsilon-ball'?" in error_line(capsys)
    assert cli.main(["plot", str(run.path), "runs/nope", "x=time"]) == 2
    assert "runs/nope is not there" in error_line(capsys)
    assert cli.main(["plot", str(run.path), "returns", "--smooth", "3"]) == 2
    assert "smooth=3 is for curves, not for a figure: leave out 'returns'" in error_line(capsys)
    assert cli.main(["plot", str(run.path), "returns", "width=3"]) == 2
    assert "unknown setting 'width'" in error_line(capsys)


def test_runs_of_one_setting_are_one_curve_and_groups_are_named_by_what_differs(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    paths = []
    for k, rate in enumerate([1e-3, 1e-3, 1e-2]):
        log, optim = LogConfig(tensorboard=False), OptimConfig(lr=rate)
        config = Config(run=str(tmp_path / f"run{k}"), seed=k, log=log, optim=optim)
        run = RunDir.create(config, [], overwrite=False)
        for step in (10, 20, 30):
            run.append_metrics({"global_step": step, "perf/wall_s": step / 10, "charts/episodic_return": float(step)})
        run.close()
        paths.append(str(run.path))
    picture = tmp_path / "all.svg"
    words = ["plot", *paths, f"out={picture}"]
    assert cli.main([*words, "x=time", "smooth=2"]) == 0
    text = picture.read_text()
    assert "optim.lr=0.001 (2 trainings)" in text and "optim.lr=0.01 -->" in text and "seconds of training" in text
    capsys.readouterr()
    for more, message in [
        ([], "all.svg already exists"),
        (["overwrite=true", "y=consensus"], "run0 has no gossip/consensus_distance in its records"),
        (["overwrite=true", "y=retrn"], "did you mean 'return'?"),
        (["overwrite=true", "--smooth", "0"], "smooth=0 must be at least 1"),
        (["overwrite=true", paths[0]], "run0 is named twice: one run does not count as two"),
        (["overwrite=true", "x=frames"], "x=frames: wants one of steps, time"),
    ]:
        assert cli.main([*words, *more]) == 2
        assert message in error_line(capsys)
    assert cli.main(["plot", paths[0], "y=charts/episodic_return", f"out={tmp_path / 'one.svg'}"]) == 0
    assert "run0" in (tmp_path / "one.svg").read_text()
    assert plot.running_mean([1.0, 3.0, 5.0, 9.0], 2) == [1.0, 2.0, 4.0, 7.0]
