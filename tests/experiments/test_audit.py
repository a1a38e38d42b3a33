"""The program that audits a server's folder: what it prints, and a log that was changed."""

import pytest

from federated import simulation
from federated.audit import log as audit_log
from tests import forked
from tests.experiments.programs import refused
from tests.federated import masked_site, toy
from tests.federated.conftest import clock as clock
from tests.federated.conftest import initial, opened  # noqa: F401 - fixtures


@pytest.fixture
def store(opened):  # noqa: F811
    """The folder of a run that has started, with a log."""
    folder = opened().folder
    (folder / "events.jsonl").unlink(missing_ok=True)
    log = audit_log.AuditLog(folder / "events.jsonl")
    log.append("login", site="C1", num_examples=18)
    log.append("login", site="C2", num_examples=20)
    return folder


def test_an_unbroken_log_is_summed_up_and_shown(store):
    done = forked.run("experiments.audit", f"--store={store}", "--show")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:2]] == ["1", "2"] and "site=C2" in lines[1]
    assert lines[2].startswith("2 lines, unbroken; head ")
    head = lines[2].split()[-1]
    again = forked.run("experiments.audit", f"--store={store}", f"--head={head[:16]}")
    assert again.returncode == 0 and lines[2] in again.stdout


def test_rounds_of_masked_updates_are_told_apart(initial, tmp_path):  # noqa: F811
    sites = {site: toy.ToyTrainer(site) for site in ("C1", "C2", "C3")}
    settings = {**masked_site.SETTINGS, "num_rounds": 1}
    simulation.run(sites, initial, tmp_path / "run", **settings)
    done = forked.run("experiments.audit", f"--store={tmp_path / 'run' / 'server'}")
    assert done.returncode == 0, done.stderr
    assert "1 global models match the log" in done.stdout
    assert "to the same bits: none, because updates were masked" in done.stdout
    assert "rounds 1 added masked updates: " in done.stdout
    assert "nobody, including this program, can check" in done.stdout


def test_a_line_that_was_changed_is_named(store):
    path = store / "events.jsonl"
    path.write_text(path.read_text().replace("C1", "C3"))
    assert "line 1" in refused("audit", f"--store={store}")


def test_what_was_removed_is_told(tmp_path):
    log = audit_log.AuditLog(tmp_path / "events.jsonl", segment_bytes=2000, keep_segments=1)
    for number in range(1, 13):
        fields = {"sha256": f"{number:064d}"}
        log.append("pushed", site="C1", round=number, counts_in=number, num_examples=3, **fields)
        updates = {"C1": fields["sha256"]}
        log.append("aggregated", round=number, sites={"C1": 3}, updates=updates, **fields)
    done = forked.run("experiments.audit", f"--store={tmp_path}")
    first = next(log.read())
    lines, rounds = first["line"] - 1, first["carried"]["round"]
    assert done.returncode == 0, done.stderr
    assert f"{log.head[0]} lines in " in done.stdout and 0 < rounds < 12
    assert (
        f"removed by the server's setting: lines 1 to {lines}, with all rounds up to {rounds};"
        in done.stdout
    )
