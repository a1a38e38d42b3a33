"""A sample of the states of `python -m tests.power_loss`, and the disk's model by hand."""

import random

import pytest

from tests.power_loss import disk, harness, recording, scenarios
from tests.power_loss.disk import Cut, Operation

# a/x is written and synced, gets the name b, and the folder is synced; then b gets more, unsynced.
STORY = [
    Operation("file", 1, 0, "x", place="x"),
    Operation("write", 1, data=b"12", place="x"),
    Operation("sync", 1, name="file"),
    Operation("rename", 1, 0, "b", 0, "x", place="b"),
    Operation("sync", 0, name="folder"),
    Operation("write", 1, offset=2, data=b"34", place="b"),
    Operation("mark", text="told"),
]


def test_what_is_synced_survives_and_the_rest_may_be_lost():
    assert disk.unsynced(STORY, 3) == [0]  # the data are there, the name is not
    assert disk.tree(STORY, Cut(3, frozenset())) == {}
    assert disk.tree(STORY, Cut(4, frozenset({0}))) == {"x": b"12"}
    assert disk.tree(STORY, Cut(4, frozenset({3}))) == {"b": b"12"}
    assert disk.tree(STORY, Cut(7, frozenset())) == {"b": b"12"}
    assert disk.tree(STORY, Cut(7, frozenset({5}))) == {"b": b"1234"}


def test_a_write_may_be_torn_or_leave_zeros():
    assert disk.tree(STORY, Cut(6, frozenset({5}), {5: ("torn", 1)})) == {"b": b"123"}
    assert disk.tree(STORY, Cut(6, frozenset({5}), {5: ("zeros", 0)})) == {"b": b"12\0\0"}


def test_without_a_sync_the_data_may_be_missing_behind_the_new_name():
    mutant, positions = disk.without_syncs(STORY, {""})
    assert len(mutant) == 5 and positions >= {2, 3}
    states = [disk.tree(mutant, cut) for cut in disk.cuts(mutant, random.Random(1))]
    assert {"b": b""} in states
    assert {"b": b""} not in [disk.tree(STORY, cut) for cut in disk.cuts(STORY, random.Random(1))]


def test_only_the_folders_that_lose_power_lose_anything():
    story = [
        Operation("folder", 1, 0, "server", place="server"),
        Operation("folder", 2, 0, "C1", place="C1"),
    ]
    states = [
        disk.tree(story, cut)
        for cut in disk.cuts(story, random.Random(1), below=frozenset({"server"}))
        if cut.position == 2
    ]
    assert {"C1": None} in states and {"server": None} not in states


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    recordings = scenarios.Recordings(tmp_path_factory.mktemp("recordings"))

    def scenario(name):
        try:
            return recordings.scenario(name)
        except recording.CannotRecord as error:
            pytest.skip(f"cannot record system calls here: {error}")

    return scenario


def test_a_recording_gives_the_disk_that_is_there(recorded, tmp_path):
    operations = recorded("server").operations
    everything = Cut(len(operations), frozenset(range(len(operations))))
    harness.write(tmp_path / "disk", disk.tree(operations, everything))
    recorded("server").check(tmp_path / "disk", [o.text for o in operations if o.kind == "mark"])


@pytest.mark.parametrize(
    ("name", "each"),
    [("server", 2), ("site", 1), ("all", 1), ("ledger", 3), ("prepare", 2), ("checkpoints", 3)],
)
def test_a_power_cut_loses_nothing_that_was_confirmed(recorded, name, each):
    scenario = recorded(name)
    cuts = harness.of_every_way(scenario.operations, each, seed=7, below=scenario.below)
    assert {cut.way for cut in cuts} == set(disk.WAYS) and len(cuts) == each * len(disk.WAYS)
    failures = harness.try_all(scenario.operations, cuts, scenario.check)
    assert not failures, "\n".join(map(str, failures))


@pytest.mark.parametrize(
    ("name", "call", "asker"),
    [
        ("server", "federated.tensors.partial_file.finish", ""),
        ("server", "federated.audit.log._sync", ""),
        ("server", "runkit.durable.sync_directory < runkit.private.make", ""),
        ("server", "PRAGMA synchronous", ""),
        ("ledger", "runkit.atomic.replacing", "federated.site.privacy_ledger._write"),
        ("ledger", "runkit.durable.sync_directory", "federated.site.privacy_ledger._write"),
        ("ledger", "runkit.atomic.replacing", "federated.site.answers._write"),
        ("ledger", "runkit.durable.sync_directory", "federated.site.answers._write"),
        ("prepare", "runkit.atomic._sync_all_in", "preprocessing.case_store.write_case"),
        ("prepare", "runkit.durable.sync_directory < runkit.atomic._sync_all_in", ""),
        ("prepare", "runkit.durable.sync_directory", "preprocessing.case_store.write_index"),
        ("checkpoints", "runkit.atomic.replacing < c2fnas.named_weights.save", ""),
    ],
)
def test_a_missing_sync_is_noticed(recorded, name, call, asker):
    """Of the syncs that `call` makes, those that `asker` asked for are left out."""
    scenario = recorded(name)
    (syncs,) = (
        syncs for text, syncs in scenario.syncs() if text.startswith(call) and text.endswith(asker)
    )
    mutant, positions = disk.without_syncs(scenario.operations, syncs)
    cuts = harness.sampled(mutant, 100, seed=7, below=scenario.below, positions=positions)
    assert harness.try_all(mutant, cuts, scenario.check, stop_after=1)
