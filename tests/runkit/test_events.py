import os

import pytest

from runkit import events


def test_the_event_log_skips_an_incomplete_line(tmp_path):
    log = events.EventLog(tmp_path / "log" / "events.jsonl", clock=lambda: 12.0)
    log.append("round_opened", round=1)
    with open(log.path, "a") as stream:
        stream.write('{"time": 13, "ev')
    opened = {"time": 12.0, "event": "round_opened", "round": 1}
    assert list(log.read()) == [opened]
    log.append("round_opened", round=1)
    assert list(log.read()) == [opened, opened]


def test_an_event_that_does_not_fit_the_disk_names_the_log(tmp_path, monkeypatch):
    (tmp_path / "events.jsonl").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"events\.jsonl"):
        events.EventLog(tmp_path / "events.jsonl").append("round_opened")


def test_a_value_that_json_cannot_hold_writes_nothing(tmp_path):
    log = events.EventLog(tmp_path / "events.jsonl")
    for value in (float("nan"), {1, 2}):
        with pytest.raises((ValueError, TypeError)):
            log.append("scored", dice=value)
    assert list(log.read()) == [] and not log.path.exists()


def test_a_log_that_was_never_written_is_empty_and_times_are_to_the_millisecond(tmp_path):
    log = events.EventLog(tmp_path / "events.jsonl", clock=lambda: 12.34567)
    assert list(log.read()) == []
    log.append("began")
    assert log.path.read_text() == '{"time": 12.346, "event": "began"}\n'


def test_an_event_of_which_the_system_writes_a_part_at_a_time_is_whole(tmp_path, monkeypatch):
    log = events.EventLog(tmp_path / "events.jsonl", clock=lambda: 12.0)
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:7]))
    log.append("began")
    log.append("ended")
    assert [record["event"] for record in log.read()] == ["began", "ended"]


def test_no_descriptor_stays_open_after_an_event_or_after_a_failed_one(tmp_path, monkeypatch):
    log, before = events.EventLog(tmp_path / "events.jsonl"), len(os.listdir("/proc/self/fd"))
    log.append("began")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match=r"events\.jsonl"):
        log.append("ended")
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(("folder", "wanted"), [(0o700, 0o600), (0o755, 0o644)])
def test_a_new_log_grants_no_more_than_its_folder(tmp_path, folder, wanted):
    before = os.umask(0o022)
    try:
        (tmp_path / "log").mkdir(mode=folder)
        log = events.EventLog(tmp_path / "log" / "events.jsonl")
        log.append("began")
    finally:
        os.umask(before)
    assert log.path.stat().st_mode & 0o777 == wanted
