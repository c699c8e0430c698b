"""What a run's page reads, where the locale is another than that of its training."""

from gala.config.parse import parse_config
from gala.reports.run_report import _environment
from gala.runs.run_dir import RunDir


def test_a_command_in_other_letters_than_the_locale_has_is_shown(tmp_path):
    run = RunDir.create(parse_config([f"run={tmp_path / 'run'}"]), ["run=caf\u00e9"], overwrite=False)
    assert "caf\u00e9" in _environment(run)
    (run.path / "command.txt").write_bytes(b"gala train run=caf\xe9\n")  # latin-1
    assert "gala train run=caf\ufffd" in _environment(run)
