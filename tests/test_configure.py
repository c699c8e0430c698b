import dataclasses
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import tyro
import yaml

from gala.config import supervised, video
from gala.config.other_names import OTHER_NAMES
from gala.config.parse import dump_config, load_config, load_options, parse_config, parse_options, schema
from gala.config.preset_files import preset_names, preset_path
from gala.config.schema import Config, flatten
from gala.config.supervised import SupervisedConfig
from gala.config.validate import validate
from gala.config.video import VideoConfig
from gala.runs.run_dir import RunDir


def one_line_error(*argv: str) -> str:
    with pytest.raises(ValueError) as caught:
        validate(parse_config(argv))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_both_spellings_and_the_last_one_wins():
    c = parse_config(["optim.lr=1e-3", "--optim.lr", "7e-4", "--a2c.num-steps=7", "--gossip.tau", "-1", "steps=2e6"])
    assert (c.optim.lr, c.a2c.num_steps, c.gossip.tau, c.steps) == (7e-4, 7, -1, 2_000_000)
    assert type(c.steps) is int
    assert [parse_config([f"steps={text}"]).steps for text in ("20k", "2M", "1.5m")] == [20_000, 2_000_000, 1_500_000]
    assert parse_config(["model.hidden=64,32"]).model.hidden == (64, 32)
    assert parse_config(["model.hidden=64"]).model.hidden == (64,)
    assert parse_config(["overwrite=true"]).overwrite is True
    assert parse_config(["overwrite=true", "overwrite=false"]).overwrite is False
    assert parse_config(["topology=ring"]).gossip.topology == "ring"
    assert parse_config([]) == Config()


def test_precedence_default_base_preset_command_line(tmp_path):
    base, preset = tmp_path / "base.yaml", tmp_path / "mine.yaml"
    base.write_text("optim:\n  lr: 7e-4\n  eps: 1e-3\nseed: 5\nmodel:\n  hidden: [8, 8]\n")
    preset.write_text(f"optim:\n  eps: 1e-4\nbase: {base}\n")
    c = parse_config(["seed=9", f"preset={preset}"])  # the preset comes first wherever it stands
    assert (c.optim.lr, c.optim.eps, c.seed, c.model.hidden, c.a2c) == (7e-4, 1e-4, 9, (8, 8), Config().a2c)
    assert c.preset == str(preset)


@pytest.mark.parametrize("none", ["none", ""])
def test_the_last_preset_holds_also_if_it_is_none(none):
    assert parse_config(["preset=classic/cartpole", f"preset={none}"]).optim == Config().optim
    assert parse_config(["preset=classic/cartpole", "--preset", none]).optim == Config().optim
    assert parse_config([f"preset={none}", "preset=classic/cartpole"]).optim.name == "adam"
    assert parse_config(["preset=digits/sgp", f"preset={none}"]) == parse_config([f"preset={none}"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["optim.lrr=2"], "unknown setting 'optim.lrr'; did you mean 'optim.lr'?"),
        (["lr=2"], "unknown setting 'lr'; did you mean 'optim.lr'?"),
        (["zzzz=2"], "unknown setting 'zzzz'"),
        (["optim=2"], "optim is a group of settings: optim.name, optim.lr, optim.schedule, ..."),
        (["algo=galla"], "algo=galla: wants one of a2c, gala, independent, allreduce; did you mean 'gala'?"),
        (["steps=2.5"], "steps=2.5: wants a whole number"),
        (["steps=2.5555k"], "steps=2.5555k: wants a whole number"),
        (["steps=M"], "steps=M: wants a whole number"),
        (["optim.lr=1e38"], "optim.lr=1e+38 must be between 0 and 1e6"),
        (["steps=1e300"], "steps=1e300 must be at most 9.22e+18 in size"),
        (["seed=-9223372036854775808"], "seed=-9223372036854775808 must be at most 9.22e+18 in size"),
        (["model.hidden=4,9999999999999999999"], "model.hidden=4,9999999999999999999 must be at most 9.22e+18 in size"),
        (["optim.lr=fast"], "optim.lr=fast: wants a number"),
        (["overwrite=yes"], "overwrite=yes: wants true or false"),
        (["model.hidden=64,x"], "model.hidden=64,x: wants whole numbers with commas between them"),
        (["--seed"], "--seed needs a value"),
        (["--json"], "--json needs a value, for it is no flag of this command"),
        (["--seed", "--run"], "--seed needs a value"),
        (["fast"], "'fast' is not a setting; write key=value or --key value"),
        (["CartPole-v1"], "'CartPole-v1' is not a setting; write env.id=CartPole-v1"),
        (["minatar/breakout"], "'minatar/breakout' is not a setting; write preset=minatar/breakout"),
        (["atari/pongg"], "'atari/pongg' is not a setting; write preset=atari/pong"),
        (["preset=cartpole"], "unknown preset 'cartpole'; `gala presets` lists them; did you mean 'classic/cartpole'?"),
        (["preset=atari/pnog"], "unknown preset 'atari/pnog'; `gala presets` lists them; did you mean 'atari/pong'?"),
        (["preset=digits/sgp"], "preset 'digits/sgp' holds settings of `gala supervised`"),
        (["preset=no.yaml"], "there is no preset file 'no.yaml'"),
        (["steps=9e18"], "steps=9000000000000000000 must be between 1 and 1e15"),
        (["learners=0"], "learners=0 must be at least 1"),
        (["envs_per_learner=-3"], "envs_per_learner=-3 must be at least 1"),
        (["optim.lr=nan"], "optim.lr=nan must be a finite number"),
        (["a2c.gamma=1.5"], "a2c.gamma=1.5 must be between 0 and 1"),
        (["gossip.tau=-2"], "gossip.tau=-2 must be -1 (no bound), 0 (synchronous) or more"),
        (["model.hidden=0"], "model.hidden=(0,) must be widths of at least 1"),
        (["device=gpu"], "device=gpu must be auto, cpu or cuda"),
        (["env.id="], "env.id= must be the name of an environment; see `gala envs`"),
        (["log.interval_s=0"], "log.interval_s=0.0 must be greater than 0"),
        (["algo=a2c", "learners=2"], "algo=a2c has one learner, not 2; use algo=gala, independent or allreduce"),
        (
            ["gossip.peers=2", "gossip.peers_schedule=0:2"],
            "gossip.peers and gossip.peers_schedule exclude each other; give one",
        ),
        (
            ["gossip.mixing=none", "gossip.shards=2"],
            "gossip.mixing=none sends no messages; leave out gossip.shards, codec and overlap",
        ),
        (
            ["gossip.mixing=allreduce", "gossip.tau=0"],
            "gossip.mixing=allreduce waits for all learners anyway; leave gossip.tau at -1",
        ),
        (
            ["gossip.at_bound=drop-peer", "gossip.tau=0"],
            "gossip.tau=0 waits for every peer; leave out gossip.at_bound=drop-peer, or give gossip.tau=1 or more",
        ),
        (["gossip.mixing=none", "gossip.tau=0"], "gossip.mixing=none has nothing to wait for; leave gossip.tau at -1"),
        (
            ["gossip.mixing=copy-average", "gossip.tau=1", "gossip.at_bound=wait"],
            "gossip.mixing=copy-average waits for every copy, with gossip.tau=0, or for none, with -1",
        ),
        (
            ["gossip.overlap=true", "gossip.tau=0"],
            "gossip.overlap absorbs a message one update late, so it cannot wait for one; leave out gossip.tau=0 and "
            "gossip.at_bound=wait",
        ),
        (
            ["gossip.certify=true", "gossip.codec=fp16"],
            "gossip.certify follows whole, exact parameters; leave out gossip.shards, codec and mixing=allreduce",
        ),
        (
            ["gossip.certify=true", "algo=independent"],
            "gossip.certify needs algo=gala, not independent (gossip.mixing=none is gala without exchange)",
        ),
        (["slowmo.momentum=1"], "slowmo.momentum=1.0 must be at least 0 and below 1"),
        (["slowmo.lr=0"], "slowmo.lr=0.0 must be greater than 0 and at most 1e6"),
        (["gossip.shards=0"], "gossip.shards=0 must be at least 1"),
        (["steps=79"], "steps=79 is less than one update of every learner (80 env_steps)"),
    ],
)
def test_a_bad_setting_is_one_exact_line(argv, message):
    assert one_line_error(*argv) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optm:\n  lr: 1\n", "unknown setting 'optm.lr'; did you mean 'optim.lr'? (in {file})"),
        ("optim:\n  lr: fast\n", "optim.lr=fast: wants a number (in {file})"),
        ("a: [\n", "{file} is not valid YAML: "),
        ("- 1\n", "{file} must hold `key: value` lines"),
        ("base: {file}\n", "preset '{file}' is its own base: {file} -> {file}"),
    ],
)
def test_a_typo_in_a_file_names_the_file(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text.replace("{file}", str(path)))
    assert one_line_error(f"preset={path}").startswith(message.replace("{file}", str(path)))


def test_settings_of_another_command_are_told_by_its_name(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(VideoConfig()))
    with pytest.raises(ValueError, match="is of `gala video train`; this command takes what `gala train` makes"):
        load_config(path)
    path.write_text(dump_config(parse_config(["env.id=CartPole-v1"])))
    with pytest.raises(ValueError, match="is of `gala train`; this command takes what `gala video train` makes"):
        load_options(path, VideoConfig)


def test_dump_and_load_are_inverse(tmp_path):
    """Strings that YAML would take for numbers or booleans, floats with all their digits."""
    c = parse_config(["run=true", "preset=", "env.id=1e5", "optim.eps=0.1234567890123456", "model.hidden=", "seed=7"])
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(c))
    assert load_config(path) == c
    assert flatten(c)["optim.eps"] == yaml.safe_load(path.read_text())["optim"]["eps"]  # a second reader agrees


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_valid_and_cites_its_source(name):
    c = parse_options(schema(name), [f"preset={name}"])
    {Config: validate, SupervisedConfig: supervised.validate, VideoConfig: video.validate}[type(c)](c)
    if isinstance(c, Config):
        assert dataclasses.replace(c, preset="") != Config()
    assert preset_path(name).read_text().startswith("# ")


def test_the_presets_are_the_promised_ones():
    families: dict[str, int] = {}
    for name in preset_names():
        families[name.split("/")[0]] = families.get(name.split("/")[0], 0) + 1
    expected = {"atari": 8, "classic": 5, "digits": 3, "minatar": 7, "mujoco": 11, "overfit": 2, "tiny": 2, "video": 4}
    assert families == expected


@pytest.mark.parametrize("argv", [["train", "optim.lrr=2"], ["train", "learners=0"], ["trian"], ["resume", "nowhere"]])
def test_the_command_line_prints_one_line_and_exits_with_2(argv):
    done = subprocess.run([sys.executable, "-m", "gala", *argv], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert re.fullmatch(r"gala: error: [^\n]+\n", done.stderr), done.stderr
    assert done.stdout == ""


def test_a_base_is_looked_for_beside_the_preset_and_a_missing_one_is_named_with_its_file(tmp_path, monkeypatch):
    """Before, it was looked for in the working directory, wherever the preset was."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "common.yaml").write_text("env: {id: CartPole-v1}\nsteps: 1234\n")
    preset = tmp_path / "mine" / "one.yaml"
    preset.write_text("base: common.yaml\nseed: 7\n")
    monkeypatch.chdir(tmp_path)
    config = parse_config([f"preset={preset}"])
    assert (config.steps, config.seed) == (1234, 7)
    preset.write_text("base: 7e-4\n")
    with pytest.raises(ValueError, match=r"one\.yaml: base: unknown preset '7e-4'"):
        parse_config([f"preset={preset}"])


def test_threads_that_read_settings_take_turns_at_tyro_which_has_state_of_the_process(monkeypatch):
    real, inside, most = tyro.cli, [0], [0]

    def cli(*args, **kwargs):
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.01)  # the others would come in meanwhile
        try:
            return real(*args, **kwargs)
        finally:
            inside[0] -= 1

    monkeypatch.setattr(tyro, "cli", cli)
    before = sys.stderr
    with ThreadPoolExecutor(4) as pool:
        seeds = list(
            pool.map(lambda number: parse_config(["preset=classic/cartpole", f"seed={number}"]).seed, range(8))
        )
    assert (seeds, most[0], sys.stderr) == (list(range(8)), 1, before)


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("out=x", "run"),
        ("total_timesteps=1e5", "steps"),
        ("num_envs=4", "envs_per_learner"),
        ("gpu=0", "device"),
        ("learning_rate=1", "optim.lr"),
        ("ent_coef=0", "a2c.entropy_coef"),
        ("env=CartPole-v1", "env.id=CartPole-v1"),
    ],
)
def test_a_setting_by_the_name_that_other_libraries_have_for_it_is_named(word, meant):
    with pytest.raises(ValueError, match=f"did you mean '?{meant}'?\\?$"):
        parse_config([word])


def test_every_hint_names_a_setting_that_there_is():
    assert set(OTHER_NAMES.values()) <= set(flatten(Config()))
    assert not set(OTHER_NAMES) & set(flatten(Config()))


def test_a_preset_says_what_is_trained_and_not_where(tmp_path):
    """Before, the config.yaml of a run that had replaced another led back to that run, and replaced it once more."""
    run = tmp_path / "run"
    RunDir.create(Config(run=str(run), overwrite=True, steps=7), [], overwrite=True).close()
    assert load_config(run / "config.yaml") == Config(run=str(run), steps=7)
    (run / "config.yaml").write_text(dump_config(Config(run=str(run), overwrite=True, steps=7)))  # of an older version
    preset = tmp_path / "mine.yaml"
    preset.write_text(f"base: {run / 'config.yaml'}\nseed: 3\n")
    for path in (run / "config.yaml", preset):
        config = parse_config([f"preset={path}"])
        assert (config.run, config.overwrite, config.steps) == ("", False, 7)
    assert parse_config([f"preset={preset}", "run=x", "overwrite=true"]).overwrite
