import errno
import io
import os
import subprocess
import sys

import pytest

from gala import cli
from gala.build.envs import probe_spaces
from gala.build.policy import make_policy
from gala.commands import resume
from gala.commands.waiting import waiting
from gala.config.parse import print_help
from gala.config.preset_files import preset_names
from gala.config.schema import Config
from gala.runs.run_dir import RunDir
from gala.training.new_run import prepare


def gala(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "gala", *argv], capture_output=True, text=True, check=False)


def test_help_names_every_command_and_imports_nothing_heavy():
    code = "import sys; from gala.cli import main; main(['--help']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    usage, modules = done.stdout.rsplit("\n", 2)[0], set(done.stdout.rsplit("\n", 2)[1].split())
    for name in cli.COMMANDS:
        assert f"\n  {name} " in usage
    assert "gala.cli" in modules
    assert not modules & {"torch", "numpy", "gymnasium", "tyro", "rich", "yaml"}


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_explains_itself(name, capsys):
    assert cli.main([name, "--help"]) == 0
    assert f"gala {name}" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["presets", "envs", "doctor", "bug-report"])
def test_help_is_no_word_to_look_for(name, capsys):
    assert cli.main([name, "atari", "--help"]) == 0
    assert f"gala {name}" in capsys.readouterr().out


def test_a_misspelt_command_is_one_line(capsys):
    assert cli.main(["trian"]) == 2
    assert (
        capsys.readouterr().err
        == "gala: error: unknown command 'trian'; `gala --help` lists them; did you mean 'train'?\n"
    )


def test_ctrl_c_is_exit_status_130(monkeypatch):
    def interrupted(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr("gala.commands.presets.main", interrupted)
    assert cli.main(["presets"]) == 130


def test_presets_lists_all_and_filters(capsys):
    assert cli.main(["presets"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == preset_names()
    assert cli.main(["presets", "atari/po"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["atari/pong", "atari/pong_small"]
    assert cli.main(["presets", "atari/pnog"]) == 2


@pytest.mark.parametrize("hidden", ["9000000000000", "900000,900000", "9223372036854775807"])
def test_a_network_that_fits_into_no_memory_is_one_line(tmp_path, hidden, capsys):
    words = ["env.id=CartPole-v1", f"model.hidden={hidden}", f"run={tmp_path / 'run'}"]
    assert cli.main(["train", *words]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("gala: error: the network does not fit into memory")
    assert not (tmp_path / "run").exists()


def test_a_closed_pipe_is_no_error():
    command = f"{sys.executable} -m gala presets | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def saved_run(tmp_path, env_steps):
    run = RunDir.create(Config(run=str(tmp_path / "run"), steps=1000), [], overwrite=False)
    policy = make_policy(run.config, probe_spaces(run.config)).state_dict()
    run.write_part("staging", "learner0", {"policy": policy}, {})
    empty = {"progress": [], "moments": [], "weights": [], "return_mean": None}
    run.commit_checkpoint("staging", ["latest"], {"env_steps": env_steps, "ranks": [0], **empty})
    for step in (400, 500, 600):
        run.append_metrics({"global_step": step})
    run.close()
    return run


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optim.lr=1"], "optim.lr cannot change in a resumed run"),
        (["stepz=1"], "unknown setting 'stepz'; did you mean 'steps'?"),
        (["steps=500"], "has done 500 of 500 env_steps; add steps=N to go on"),
    ],
)
def test_resume_refuses_what_would_be_another_experiment(tmp_path, words, message, capsys):
    run = saved_run(tmp_path, 500)
    before = (run.path / "config.yaml").read_text(), len(run.read_metrics())
    assert cli.main(["resume", str(run.path), *words]) == 2
    assert message in capsys.readouterr().err
    assert ((run.path / "config.yaml").read_text(), len(run.read_metrics())) == before


def test_resume_extends_the_run_and_drops_what_it_will_live_again(tmp_path, monkeypatch):
    launch = pytest.importorskip("gala.training.supervisor")
    seen = []
    monkeypatch.setattr(launch, "train", lambda config, run_dir, resume_from: seen.append((config, resume_from)) or 0)
    run = saved_run(tmp_path, 500)
    moved = run.path.rename(tmp_path / "moved")
    assert resume.main([str(moved), "steps=2e3"]) == 0
    [(config, resumed)] = seen
    assert resumed == "latest" and config.steps == 2000 and config.run == str(moved)
    assert RunDir.open(moved).config == config
    assert [r["global_step"] for r in RunDir.open(moved).read_metrics()] == [400, 500]


def test_an_error_is_broken_between_words_on_a_terminal_and_one_line_in_a_log(capsys, monkeypatch):
    words = ["train", "preset=classic/cartpole", "model.activation=" + "a" * 60]
    assert cli.main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(line) > 80 and len(lines) > 1 and max(map(len, lines)) <= 80 and " ".join(lines) == line


def test_a_place_that_cannot_be_written_is_one_line_and_other_failures_are_not_hidden(capsys):
    assert cli._failed_file(OSError(errno.EROFS, "Read-only file system", "r/report.html.tmp")) == cli.EXIT_USAGE
    told = capsys.readouterr().err
    assert told.startswith("gala: error: r/report.html.tmp: Read-only file system") and told.count("\n") == 1
    for hidden in (OSError(errno.EROFS, "no name"), OSError(errno.EIO, "Input/output error", "disk")):
        with pytest.raises(OSError):
            cli._failed_file(hidden)


def shell(command: str, **env: str) -> subprocess.CompletedProcess[str]:
    words = ["bash", "-c", command, "bash", sys.executable]
    return subprocess.run(words, capture_output=True, text=True, check=False, env={**os.environ, **env})


def test_a_command_whose_output_is_closed_goes_on_in_silence(tmp_path):
    drawn = tmp_path / "graph.svg"
    done = shell(f'"$1" -m gala topologies ring out={drawn} >&-')
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "") and drawn.stat().st_size
    assert shell('"$1" -m gala trian >&- 2>&-').returncode == 2


def test_a_training_without_standard_output_is_prepared_in_silence(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setattr("gala.training.new_run.start_method", lambda module: None)
    assert prepare(["learners=1", f"run={tmp_path / 'run'}"]).learners == 1
    with waiting("nobody looks on"):
        print_help("gala train")


def test_a_file_never_gets_the_number_of_a_closed_output():
    opened = "print(os.open(os.devnull, os.O_RDONLY) > 2, file=sys.stderr)"
    code = f"import gala.cli, os, sys; gala.cli.main(['--version']); {opened}"
    assert shell(f'"$1" -c "{code}" >&- <&-').stderr == "True\n"


def test_what_an_encoding_lacks_is_a_question_mark_in_any_command(monkeypatch):
    def command(argv):
        print("run r · checkpoint latest")
        return 0

    held = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    monkeypatch.setattr("gala.commands.presets.main", command)
    monkeypatch.setattr(sys, "stdout", held)
    assert cli.main(["presets"]) == 0
    assert sys.stdout is held and held.buffer.getvalue() == b"run r ? checkpoint latest\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
@pytest.mark.parametrize("words", ["presets", "--help", "presets --help"])
def test_output_that_cannot_be_written_is_one_line(words):
    done = shell(f'"$1" -m gala {words} > /dev/full')
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("gala: error: No space left on device: the output could not be written")


def test_a_disk_that_is_full_is_one_line_whatever_the_file(capsys):
    assert cli._failed_file(OSError(errno.EFBIG, "File too large")) == cli.EXIT_USAGE
    assert capsys.readouterr().err.startswith("gala: error: File too large: a file could not be written")
