"""The cores of a container, as control groups of either version tell them."""

import pytest

from hfgen import cores


@pytest.fixture
def machine(tmp_path):
    def make(groups, files):
        for name, text in {"proc/self/cgroup": groups, **files}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return make


V2 = "0::/\n"
V1 = "9:name=systemd:/\n4:cpu,cpuacct:/docker/abc\n0::/\n"


@pytest.mark.parametrize(
    ("groups", "files", "quota"),
    [
        (V2, {"sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2.0),
        (V2, {"sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        (V2, {}, None),
        (
            "0::/kubepods/pod1/c1\n",  # the least of those around it
            {
                "sys/fs/cgroup/kubepods/cpu.max": "800000 100000",
                "sys/fs/cgroup/kubepods/pod1/cpu.max": "150000 100000",
                "sys/fs/cgroup/kubepods/pod1/c1/cpu.max": "max 100000",
            },
            1.5,
        ),
        ("0::/../other\n", {"sys/fs/cgroup/cpu.max": "50000 100000"}, 0.5),
        (
            V1,  # in a container the path is the host's, and the mount is the group's own
            {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"},
            3.0,
        ),
        (
            V1,
            {
                "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "100000",
                "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us": "50000",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
            },
            2.0,
        ),
        (V2, {"sys/fs/cgroup/cpu.max": "nonsense"}, None),
    ],
)
def test_quotas(machine, groups, files, quota):
    assert cores.cpu_quota(machine(groups, files)) == quota


def test_a_system_without_control_groups(tmp_path):
    assert cores.cpu_quota(tmp_path) is None


@pytest.mark.parametrize(("quota", "expected"), [(None, 8), (2.0, 2), (1.5, 2), (0.2, 1), (64.0, 8)])
def test_what_may_be_used(monkeypatch, quota, expected):
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.setattr(cores, "cpu_quota", lambda: quota)
    assert cores.usable_cores.__wrapped__() == expected


def test_a_system_that_counts_in_another_way(monkeypatch):
    """macOS and Windows."""
    monkeypatch.delattr(cores.os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(cores.os, "cpu_count", lambda: 3)
    monkeypatch.setattr(cores, "cpu_quota", lambda: None)
    assert cores.usable_cores.__wrapped__() == 3
