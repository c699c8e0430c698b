"""Options of a command among the settings of a training."""

from gala.commands import bench
from gala.commands.tune import Options as TuneOptions
from gala.config.own_words import divided


def test_either_spelling_is_the_same():
    words = [
        ("rounds", "3"),
        ("preset", "classic/cartpole"),
        ("block-s", "2"),
        ("optim.lr", "1e-3"),
        ("topology", "ring"),
    ]
    short = [f"{key.replace('-', '_')}={text}" for key, text in words]
    joined = [f"--{key}={text}" for key, text in words]
    apart = [word for key, text in words for word in (f"--{key}", text)]
    parsed = [bench.parse(given) for given in (short, joined, apart)]
    assert parsed[0] == parsed[1] == parsed[2]
    options, config = parsed[2]
    assert (options.rounds, options.block_s, config.optim.lr, config.gossip.topology) == (3, 2, 1e-3, "ring")


def test_what_is_no_option_is_a_setting():
    assert divided(["--minutes", "1", "--optim.lr", "2", "envs=8"], TuneOptions) == (
        ["minutes=1", "envs=8"],
        ["optim.lr=2"],
    )
