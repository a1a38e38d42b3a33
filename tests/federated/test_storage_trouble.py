"""A disk that fails, loses or is full: no update is dropped for it."""

import errno
import json
import os
import threading

import pytest

from federated.aggregation import spooled_updates
from federated.rounds import tasks
from federated.storage import store
from federated.tensors import tensor_files
from runkit import backoff
from tests.federated.server.test_coordinator import Site, scale


@pytest.mark.parametrize(
    "place",
    [
        "events.jsonl",
        "global/round_001.safetensors",
        "incoming/C1.0.safetensors",
        "models/x",
        "spool",
    ],
)
def test_a_link_in_a_store_is_refused_by_name(tmp_path, place):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    folder = tmp_path / "store"
    store.Store(folder).close()
    path = folder / place
    if path.is_dir():
        path.rmdir()
    path.symlink_to(elsewhere, target_is_directory=True)
    with pytest.raises(ValueError, match=rf"{place.split('/')[-1]}.*is a symbolic link"):
        store.Store(folder)
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize(
    "number", [errno.EMFILE, errno.EIO, errno.EACCES, errno.ENOMEM, errno.ENOSPC]
)
def test_an_error_of_the_system_drops_no_update_and_the_run_goes_on_by_itself(
    opened, monkeypatch, number
):
    run = opened(num_rounds=1, cross_site_evaluation=False)
    sites = Site(run, "C1"), Site(run, "C2")
    receipts = [site.push(1, value) for site, value in zip(sites, (1.0, 5.0), strict=True)]
    monkeypatch.setattr(backoff, "pauses", lambda first_s: iter(lambda: 0.01, None))
    failures = iter(range(6))
    real = tensor_files.open if hasattr(tensor_files, "open") else open

    def failing(path, *given, **named):
        if "spool" in str(path) and next(failures, None) is not None:
            raise OSError(number, os.strerror(number), str(path))
        return real(path, *given, **named)

    monkeypatch.setattr(tensor_files, "open", failing, raising=False)
    monkeypatch.setattr(
        spooled_updates.TensorFileWriter,
        "finish",
        _failing_once(spooled_updates.TensorFileWriter.finish, number),
    )
    driving = threading.Thread(target=run.lead.drive)
    driving.start()
    try:
        while run.lead.next_task("C1", wait_s=20.0).kind == "wait":
            assert driving.is_alive()
    finally:
        run.lead.stop()
        driving.join()
    assert scale(run, 1) == 2.0 and len(receipts) == 2
    assert next(failures, None) is None


def _failing_once(real, number):
    left = [1]

    def finish(*given, **named):
        if left:
            left.pop()
            raise OSError(number, os.strerror(number))
        return real(*given, **named)

    return finish


def test_an_update_whose_content_is_lost_is_asked_for_again(opened):
    run = opened(num_rounds=1)
    sites = Site(run, "C1"), Site(run, "C2")
    for site in sites:
        site.push(1)
    next((run.folder / "spool").glob("*.C2.*")).unlink()
    run.lead.advance()
    assert sites[1].task() == tasks.Task("train", round=1, model="round_000")
    assert sites[0].task().kind == "wait"


def test_a_log_that_cannot_be_written_fails_no_request_and_is_completed(opened, monkeypatch):
    run = opened(num_rounds=1, cross_site_evaluation=False)
    sites = Site(run, "C1"), Site(run, "C2")
    with monkeypatch.context() as broken:
        broken.setattr(type(run.lead._events), "append", _no_space)
        for site in sites:
            site.push(1)
    run.lead.advance()
    events = [
        json.loads(line)["event"] for line in (run.folder / "events.jsonl").read_text().splitlines()
    ]
    assert events[-4:].count("pushed") == 2 and "aggregated" in events
    assert events.index("aggregated") > max(
        i for i, event in enumerate(events) if event == "pushed"
    )


def _no_space(*given, **named):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
