import os

import pytest

from runkit import processors


def _machine(monkeypatch, count, allowed):
    monkeypatch.setattr(processors.os, "cpu_count", lambda: count)
    monkeypatch.setattr(
        processors.os, "sched_getaffinity", lambda process: set(range(allowed)), raising=False
    )


def _write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max 100000\n", 6),  # no limit: the affinity counts
        ("200000 100000\n", 2),
        ("250000 100000\n", 3),  # two and a half
        ("20000 100000\n", 1),
        ("1600000 100000\n", 6),
        ("nonsense\n", 6),
        ("100 0\n", 6),
    ],
)
def test_the_smallest_of_machine_affinity_and_container_counts(
    monkeypatch, tmp_path, text, expected
):
    _machine(monkeypatch, 8, 6)
    _write(tmp_path / "sys/fs/cgroup/cpu.max", text)
    assert processors.available(tmp_path) == expected


@pytest.mark.parametrize(("quota", "expected"), [("-1", 8), ("150000", 2)])
def test_an_older_container_states_its_limit_in_two_files(monkeypatch, tmp_path, quota, expected):
    _machine(monkeypatch, 8, 8)
    _write(tmp_path / "sys/fs/cgroup/cpu/cpu.cfs_quota_us", f"{quota}\n")
    _write(tmp_path / "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
    assert processors.available(tmp_path) == expected


def test_without_a_container_or_affinity_the_machines_number_counts(monkeypatch, tmp_path):
    _machine(monkeypatch, 8, 3)
    assert processors.available(tmp_path) == 3
    monkeypatch.delattr(processors.os, "sched_getaffinity")
    assert processors.available(tmp_path) == 8
    monkeypatch.setattr(processors.os, "cpu_count", lambda: None)
    assert processors.available(tmp_path) == 1
    monkeypatch.undo()
    assert 1 <= processors.available() <= (os.cpu_count() or 1)
