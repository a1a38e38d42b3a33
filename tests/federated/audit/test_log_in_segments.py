"""The event log in more than one segment: continued, verified, cut, and removed."""

import errno
import gzip
import json
import os
import random
import shutil
import threading

import numpy as np
import pytest

from federated import simulation
from federated.audit import backfill, chain, verification
from federated.audit import log as audit_log
from federated.server.config import ServerConfig
from federated.storage import store as storage
from federated.tensors import tensor_files
from runkit import atomic, durable, events, log_segments
from tests.federated import toy
from tests.federated.audit.kept_rounds import keep_round, write_again

ROUNDS, SMALL = 6, 2500  # bytes: two rounds or so


def lead(folder, kits, clock, *, rounds=range(1, ROUNDS + 1), **settings):
    """Runs rounds with a log in small segments."""
    for name in ("kept", "global"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    log = audit_log.AuditLog(
        folder / "events.jsonl",
        clock=clock,
        key=kits / "server" / "server.key",
        **{"segment_bytes": SMALL, **settings},
    )
    log.append("started", certificate=(kits / "server" / "server.pem").read_text())
    for number in rounds:
        keep_round(folder, log, number)
    return log


@pytest.fixture
def store(tmp_path, kits, clock):
    lead(tmp_path / "store", kits, clock)
    return tmp_path / "store"


def segments(store):
    return sorted((store / "events").iterdir())


def all_lines(store):
    """The whole log, read only with gzip and in the order of names."""
    full = b"".join(gzip.decompress(path.read_bytes()) for path in segments(store))
    return (full + (store / "events.jsonl").read_bytes()).splitlines(keepends=True)


def test_the_chain_goes_on_across_segments_and_verifies_as_a_whole(
    store, authority, tmp_path, kits, clock
):
    assert len(segments(store)) >= 2
    records = [json.loads(line) for line in all_lines(store)]
    assert [record["line"] for record in records] == list(range(1, len(records) + 1))
    assert [r["previous"] for r in records] == ["0" * 64, *(r["hash"] for r in records[:-1])]
    found = verification.verify(store, authority)
    assert found.lines == len(records) and found.head == records[-1]["hash"]
    assert found.segments == len(segments(store)) + 1
    lead(tmp_path / "whole", kits, clock, segment_bytes=2**30)
    whole = verification.verify(tmp_path / "whole", authority)
    assert (found.rounds, found.recomputed) == (whole.rounds, whole.recomputed)
    assert whole.segments == 1 and not (tmp_path / "whole" / "events").exists()
    again = [event["event"] for event in events.EventLog(store / "events.jsonl").read()]
    assert again == [record["event"] for record in records]
    assert [e for e in again if e != "log_continued"] == [
        event["event"] for event in events.EventLog(tmp_path / "whole" / "events.jsonl").read()
    ]


def test_a_segment_begins_with_a_signed_line_that_says_what_it_carries_on(store):
    log = [json.loads(line) for line in all_lines(store)]
    full = [gzip.decompress(path.read_bytes()) for path in segments(store)[1:]]
    openings = [json.loads(content.splitlines()[0]) for content in full]
    openings.append(json.loads((store / "events.jsonl").read_bytes().splitlines()[0]))
    for number, record in enumerate(openings, start=2):
        assert (record["event"], record["segment"]) == ("log_continued", number)
        assert record["signature"] and "removed" not in record
        before = log[: record["line"] - 1]
        assert record["carried"]["round"] == sum(r["event"] == "aggregated" for r in before)


def test_every_line_can_be_named_as_a_noted_head(store, authority):
    for line in all_lines(store):
        verification.verify(store, authority, head=json.loads(line)["hash"])
    with pytest.raises(chain.BrokenChain, match="it was rewritten, or is of another run"):
        verification.verify(store, head="f" * 64)


def test_a_restart_goes_on_in_the_newest_segment(store, kits, clock, authority):
    before = len(segments(store))
    log = lead(store, kits, clock, rounds=range(ROUNDS + 1, ROUNDS + 6))
    assert len(segments(store)) > before
    assert len(list(log.read())) == log.head[0]
    assert verification.verify(store, authority).rounds == tuple(range(1, ROUNDS + 6))
    assert log.format == audit_log.FORMAT == 2


def test_a_log_of_one_file_goes_on_in_segments(tmp_path, kits, clock, authority):
    """The log of an earlier release becomes the first segment."""
    lead(tmp_path, kits, clock, segment_bytes=2**30)
    before = (tmp_path / "events.jsonl").read_bytes()
    assert audit_log.AuditLog(tmp_path / "events.jsonl").format == 1
    lead(tmp_path, kits, clock, rounds=(ROUNDS + 1,))
    assert gzip.decompress(segments(tmp_path)[0].read_bytes()) == before
    assert verification.verify(tmp_path, authority).rounds == tuple(range(1, ROUNDS + 2))


@pytest.mark.parametrize("which", [0, 1])
def test_a_missing_segment_is_named(store, which, kits, clock):
    gone = segments(store)[which]
    gone.unlink()
    with pytest.raises(chain.BrokenChain, match=rf"follows segment events/{gone.name}, which"):
        verification.verify(store)
    with pytest.raises(ValueError, match=rf"events\.jsonl: line .*{gone.name}, which is missing"):
        lead(store, kits, clock, rounds=())


def test_a_missing_newest_segment_is_named(store, kits, clock):
    (store / "events.jsonl").unlink()
    with pytest.raises(ValueError, match=r"events\.jsonl: is missing, but . earlier segments"):
        lead(store, kits, clock, rounds=())
    (store / "events.jsonl").write_bytes(b"")
    with pytest.raises(ValueError, match=r"events\.jsonl: is missing, but . earlier segments"):
        lead(store, kits, clock, rounds=())


def test_any_changed_line_is_found_where_it_is(store, authority):
    draw, files = random.Random(7), [*segments(store), store / "events.jsonl"]
    line_before = 0
    for path in files:
        packed = path.suffix == ".gz"
        content = gzip.decompress(path.read_bytes()) if packed else path.read_bytes()
        kept = path.read_bytes()
        for position in draw.sample(range(len(content) - 1), 60):
            changed = bytearray(content)
            changed[position] ^= 1 << draw.randrange(8)
            path.write_bytes(gzip.compress(bytes(changed)) if packed else changed)
            line = line_before + content[:position].count(b"\n") + 1
            with pytest.raises(chain.BrokenChain) as caught:
                list(chain.read_chain(store / "events.jsonl", authority))
            assert caught.value.line in (line, line + 1)
            if packed:
                assert f"events/{path.name}" in str(caught.value)
        path.write_bytes(kept)
        line_before += content.count(b"\n")


def test_a_damaged_or_shortened_archive_is_named(store, kits, clock):
    path = segments(store)[1]
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], content[:-2], b"", b"no gzip"):
        path.write_bytes(damaged)
        with pytest.raises(chain.BrokenChain, match=path.name.replace(".", r"\.")):
            verification.verify(store)
        with pytest.raises(ValueError, match=path.name.replace(".", r"\.")):
            lead(store, kits, clock, rounds=())
    path.write_bytes(gzip.compress(b"".join(gzip.decompress(content).splitlines(True)[:-1])))
    with pytest.raises(chain.BrokenChain, match=r"with which events/000002\.jsonl\.gz ends"):
        verification.verify(store)
    path.write_bytes(gzip.compress(gzip.decompress(content)[:-5]))
    with pytest.raises(chain.BrokenChain, match=r"is not whole \(in events/000002"):
        verification.verify(store)


def test_segments_that_changed_places_are_found(store):
    first, second = segments(store)[:2]
    first.rename(store / "x")
    second.rename(first)
    (store / "x").rename(second)
    with pytest.raises(chain.BrokenChain):
        verification.verify(store)


def forge(store, change):
    """Rewrites the newest segment with right hashes after a change of its first record."""
    path, previous, text = store / "events.jsonl", None, b""
    for number, line in enumerate(path.read_bytes().splitlines()):
        record = json.loads(line)
        signature = record.pop("signature", "")
        record.pop("hash")
        if number == 0:
            change(record)
        record["previous"] = previous or record["previous"]
        body = json.dumps(record)[:-1]
        previous = audit_log.hashlib.sha256(body.encode()).hexdigest()
        signed = f', "signature": "{signature}"' if signature else ""
        text += f'{body}, "hash": "{previous}"{signed}}}\n'.encode()
    path.write_bytes(text)


def test_a_segment_that_carries_on_another_run_is_found(store):
    def claim(record):
        record["carried"]["num_examples"] = {"C1": 300}

    forge(store, claim)
    with pytest.raises(chain.BrokenChain, match="does not carry on the run that the lines"):
        verification.verify(store)


def test_a_removal_that_the_server_did_not_sign_is_found(store, authority):
    """Someone deletes the first segment and says that the server did it."""
    first = segments(store)[0]
    last = json.loads(gzip.decompress(first.read_bytes()).splitlines()[-1])
    removed = {"segments": 1, "lines": last["line"], "head": last["hash"]}
    forge(store, lambda record: record.update(removed=removed))
    first.unlink()
    with pytest.raises(chain.BrokenChain, match="'log_continued' is not signed by the server"):
        verification.verify(store, authority)


def test_a_removal_of_other_lines_than_are_missing_is_found(store):
    removed = {"segments": 1, "lines": 3, "head": "0" * 64}
    forge(store, lambda record: record.update(removed=removed))
    with pytest.raises(chain.BrokenChain, match="says that other lines were removed"):
        verification.verify(store)


def test_a_kill_at_any_point_of_a_rotation_loses_no_line(tmp_path, kits, clock, authority):
    """The rotation ends before each of its calls that change the disk."""

    class Killed(BaseException):
        pass

    for point in range(40):
        folder, left = tmp_path / str(point), [point]
        log = lead(folder, kits, clock, rounds=(1,), segment_bytes=2**30, keep_segments=1)
        for number in (2, 3):  # two full segments, so that one is about to be removed
            log._rotate_at = 0
            keep_round(folder, log, number)
            log._rotate_at = 2**30
        wanted = [record["hash"] for record in log_chain(folder)]

        def step(done, left=left):
            def call(*given, **named):
                if left[0] == 0:
                    raise Killed
                left[0] -= 1
                return done(*given, **named)

            return call

        log._rotate_at = 0
        with pytest.MonkeyPatch.context() as patch:
            for name in ("replace", "fsync", "chmod", "unlink"):
                patch.setattr(os, name, step(getattr(os, name)))
            try:
                log.append("pulled", site="C1")
                ended = True
            except Killed:
                ended = False
        found = [record["hash"] for record in log_chain(folder)]
        if not ended:
            assert found[: len(wanted)] == wanted or found == wanted[-len(found) :]
        log = lead(folder, kits, clock, rounds=(4,), segment_bytes=2**30, keep_segments=1)
        assert not list((folder / "events").glob(".partial-*"))
        assert verification.verify(folder, authority).rounds[-1] == 4
        if ended:
            break
    else:
        raise AssertionError("the rotation never came to its end")
    assert point > 8


def log_chain(folder):
    return list(chain.read_chain(folder / "events.jsonl"))


def fail(*given, **named):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("module", "name"),
    [(log_segments, "archive"), (atomic, "replacing"), (durable, "sync_directory")],
)
def test_a_disk_that_forbids_a_rotation_delays_it(
    store, kits, clock, authority, monkeypatch, module, name
):
    log = lead(store, kits, clock, rounds=())
    full, lines = len(segments(store)), log.head[0]
    log._rotate_at = 0
    with monkeypatch.context() as patch:
        patch.setattr(module, name, fail)
        log.append("pulled", site="C1")
    assert log.head[0] == lines + 1 + (name == "sync_directory")
    for _ in range(20):  # the next tries come as the log grows
        log.append("pulled", site="C1")
    assert len(segments(store)) > full
    verification.verify(store, authority)


def test_no_signed_line_is_written_while_the_segments_name_may_be_lost(store, kits, clock):
    log = lead(store, kits, clock, rounds=())
    log._rotate_at = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(durable, "sync_directory", fail)
        log.append("pulled", site="C1")
        with pytest.raises(OSError, match="No space left"):
            log.append("aggregated", round=ROUNDS + 1)
    assert [record["event"] for record in log.read()][-1] == "pulled"
    keep_round(store, log, ROUNDS + 1)
    assert verification.verify(store).rounds[-1] == ROUNDS + 1


def test_threads_share_one_log_across_rotations(tmp_path):
    heard = []
    log = audit_log.AuditLog(
        tmp_path / "events.jsonl", listeners=[heard.append], segment_bytes=5000, keep_segments=2
    )
    read = []

    def write(number):
        for _ in range(100):
            log.append("pulled", site=f"C{number}")
            if not number:
                lines = [record["line"] for record in log.read()]
                read.append(lines == list(range(lines[0], lines[0] + len(lines))))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read == [True] * 100
    assert len(segments(tmp_path)) == 2
    continued = sum(record["event"] == "log_continued" for record in heard)
    assert len(heard) == log.head[0] == 400 + continued


def test_only_the_newest_segments_stay_and_the_log_says_what_was_removed(
    tmp_path, kits, clock, authority, monkeypatch
):
    lead(tmp_path / "all", kits, clock, rounds=range(1, 13))
    log = lead(tmp_path / "few", kits, clock, rounds=range(1, 13), keep_segments=2)
    whole = [json.loads(line) for line in all_lines(tmp_path / "all")]
    few = [json.loads(line) for line in all_lines(tmp_path / "few")]
    assert len(segments(tmp_path / "few")) == 2
    opening = json.loads((tmp_path / "few" / "events.jsonl").read_bytes().splitlines()[0])
    removed = opening["removed"]
    assert removed["segments"] == opening["segment"] - 3
    assert few[0]["line"] == removed["lines"] + 1 and few[0]["previous"] == removed["head"]
    rounds = sum(r["event"] == "aggregated" for r in whole if r["line"] < few[0]["line"])
    found = verification.verify(tmp_path / "few", authority)
    assert (found.removed_lines, found.removed_rounds) == (
        removed["lines"],
        few[0]["carried"]["round"],
    )
    assert found.rounds == tuple(range(found.removed_rounds + 1, 13)) and rounds > 0
    assert found.lines == few[-1]["line"] == log.head[0]
    with pytest.raises(chain.BrokenChain, match=r"among its first \d+ lines, which are no"):
        verification.verify(tmp_path / "few", head="f" * 64)
    # A restart goes on, and says the same.
    again = lead(tmp_path / "few", kits, clock, rounds=(), keep_segments=2)
    assert next(again.read())["line"] == few[0]["line"]


def test_removed_segments_that_are_put_back_are_verified(tmp_path, kits, clock, authority):
    kept = tmp_path / "backup"
    kept.mkdir()
    log = lead(tmp_path / "store", kits, clock, rounds=(), keep_segments=1)
    for number in range(1, 10):
        keep_round(tmp_path / "store", log, number)
        for path in (tmp_path / "store" / "events").glob("*.gz"):
            shutil.copy(path, kept)
    assert verification.verify(tmp_path / "store", authority).removed_rounds > 1
    for path in kept.iterdir():
        shutil.copy(path, tmp_path / "store" / "events")
    found = verification.verify(tmp_path / "store", authority)
    assert found.removed_lines == 0 and found.rounds == tuple(range(1, 10))


def test_a_kept_segment_is_missing_although_earlier_ones_were_removed(tmp_path, kits, clock):
    lead(tmp_path, kits, clock, rounds=range(1, 13), keep_segments=2)
    gone = segments(tmp_path)[0]
    gone.unlink()
    with pytest.raises(chain.BrokenChain, match=f"follows segment events/{gone.name}"):
        verification.verify(tmp_path)


@pytest.fixture(params=[{}, {"keep_segments": 1}], ids=["keeps all", "keeps one"])
def finished(request, serving, take_part, tmp_path):
    """The store of a whole run, whose log is then written again in small segments."""
    running = serving()
    trainers = {site: toy.ToyTrainer(site) for site in ("C1", "C2")}
    take_part({site: running.connect(site) for site in trainers}, trainers)
    running.join()
    records = list(events.EventLog(running.folder / "events.jsonl").read())
    (running.folder / "events.jsonl").unlink()
    return running.folder, records, {"segment_bytes": SMALL, **request.param}


def completed(folder, settings):
    """The lines that a start logs about a store."""
    log = audit_log.AuditLog(folder / "events.jsonl", **settings)
    before, store = log.head[0], storage.Store(folder)
    try:
        backfill.complete(log, store)
    finally:
        store.close()
    return [record for record in log.read() if record["line"] > before]


def test_nothing_is_logged_again_from_the_store(finished):
    folder, records, settings = finished
    write_again(folder, records, settings)
    assert completed(folder, settings) == []
    found = verification.verify(folder)
    assert found.rows == ("C1", "C2") and found.models == ("C1_baseline", "C2_baseline")
    assert found.best_round == json.loads((folder / "selection.json").read_text())["best_round"]
    assert bool(found.removed_lines) == ("keep_segments" in settings)


def test_what_the_newest_segment_has_lost_is_logged_again(finished):
    folder, records, settings = finished
    write_again(folder, records, settings, without=("rows", "finished"))
    found = [r["event"] for r in completed(folder, settings) if r["event"] != "log_continued"]
    assert found == ["rows", "rows", "finished"]
    assert verification.verify(folder).rows == ("C1", "C2")


def test_the_models_that_an_evaluation_was_given_are_carried_on(tmp_path, initial):
    """A run without rounds, whose lines on the given models are no longer kept."""
    models = {}
    for number, name in enumerate(("pancreas", "tumour")):
        models[name] = tmp_path / f"{name}.safetensors"
        arrays = {key: array + np.float32(number) for key, array in toy.INITIAL.items()}
        tensor_files.save(models[name], arrays)
    trainers = {site: toy.ToyTrainer(site) for site in ("C1", "C2")}
    simulation.run(trainers, initial, tmp_path / "run", num_rounds=0, models=models)
    folder, settings = tmp_path / "run" / "server", {"segment_bytes": 1000, "keep_segments": 1}
    path = folder / "events.jsonl"
    records = list(events.EventLog(path).read())
    path.unlink()
    write_again(folder, records, settings)
    kept = list(chain.read_chain(path))
    assert kept[0]["line"] > 1 and "given" not in [record["event"] for record in kept]
    assert completed(folder, settings) == []
    found = verification.verify(folder)
    assert (found.given, found.rows) == (("pancreas", "tumour"), ("C1", "C2"))
    assert found.removed_lines == kept[0]["line"] - 1
    shutil.copy(models["tumour"], folder / "models" / "pancreas.safetensors")
    with pytest.raises(chain.BrokenChain, match=r"pancreas\.safetensors is not the model that"):
        verification.verify(folder)


def test_a_store_that_is_older_than_the_removed_rounds_takes_the_log_back(tmp_path, kits, clock):
    """A store from a backup: the log says that the rounds after it no longer count."""
    folder = tmp_path / "store"
    store = storage.Store(folder)
    try:
        store.open_run(
            toy.write_initial(tmp_path / "initial.safetensors"),
            policy=ServerConfig(num_rounds=20).policy,
            local_epochs=1,
        )
        log = lead(folder, kits, clock, rounds=range(1, 13), keep_segments=1)
        assert next(log.read())["carried"]["round"] > 3
        backfill.complete(log, store)
        last = list(log.read())[-1]
        assert (last["event"], last["round"], last["back_to"]) == ("round_discarded", 1, 0)
        lines = log.head[0]
        backfill.complete(log, store)
        assert log.head[0] == lines
    finally:
        store.close()
    keep_round(folder, log, 1)
    assert verification.verify(folder).rounds == (1,)


def test_a_changed_global_model_of_a_kept_round_is_found(tmp_path, kits, clock):
    lead(tmp_path, kits, clock, rounds=range(1, 13), keep_segments=1)
    tensor_files.save(tmp_path / "global" / "round_012.safetensors", toy.INITIAL)
    with pytest.raises(chain.BrokenChain, match=r"round_012\.safetensors is not the model"):
        verification.verify(tmp_path)
