"""What a machine grants to a process."""

import pytest

from gala.processes import resources


@pytest.mark.parametrize(
    ("lines", "files", "cpus"),
    [
        ("0::/\n", {"cpu.max": "150000 100000"}, 1.5),  # a container sees its own group as the root
        ("0::/a.slice/b.scope\n", {"a.slice/cpu.max": "300000 100000", "a.slice/b.scope/cpu.max": "200000 100000"}, 2),
        ("0::/a.slice/b.scope\n", {"a.slice/cpu.max": "50000 100000", "a.slice/b.scope/cpu.max": "max 100000"}, 0.5),
        ("0::/a.slice\n", {"a.slice/cpu.max": "max 100000"}, None),
        ("0::/gone\n", {}, None),
        (
            "4:cpu,cpuacct:/job\n3:memory:/other\n0::/\n",
            {"cpu/job/cpu.cfs_quota_us": "400000\n", "cpu/job/cpu.cfs_period_us": "100000\n"},
            4,
        ),
        ("4:cpu:/job\n", {"cpu/job/cpu.cfs_quota_us": "-1\n", "cpu/job/cpu.cfs_period_us": "100000\n"}, None),
    ],
)
def test_a_quota_is_found_where_the_process_lies_and_above(tmp_path, lines, files, cpus):
    proc, root = tmp_path / "cgroup", tmp_path / "root"
    proc.write_text(lines)
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    assert resources._cgroup_quota(proc, root) == cpus


def test_without_proc_there_is_no_quota(tmp_path):
    assert resources._cgroup_quota(tmp_path / "none", tmp_path) is None
