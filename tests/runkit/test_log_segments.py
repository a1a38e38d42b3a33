import errno
import gzip
import io
import json

import pytest

from runkit import events, log_segments


def test_an_archived_segment_holds_the_bytes_of_the_log(tmp_path):
    log = tmp_path / "events.jsonl"
    log.write_bytes(b'{"event": "a"}\n{"event": "b"}\n')
    path = log_segments.archive(log, 3)
    assert path == tmp_path / "events" / "000003.jsonl.gz"
    assert gzip.decompress(path.read_bytes()) == log.read_bytes()
    assert list(log_segments.lines(path)) == [b'{"event": "a"}\n', b'{"event": "b"}\n']
    first = path.read_bytes()
    assert log_segments.archive(log, 3).read_bytes() == first  # without the time of day


def test_a_segment_that_the_disk_cannot_read_is_named(tmp_path):
    class Failing(io.BytesIO):
        def read(self, *given):
            raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input/output error") as caught:
        list(log_segments.lines(tmp_path / "000001.jsonl.gz", Failing()))
    assert caught.value.filename == str(tmp_path / "000001.jsonl.gz")


@pytest.mark.parametrize(
    ("line", "number"),
    [
        (b'{"event": "log_continued", "segment": 7}\n', 7),
        (b'{"event": "started", "segment": 7}\n', 1),
        (b'{"event": "log_continued", "segment": "7"}\n', 1),
        (b'{"event": "log_continued"}\n', 1),
        (b"[7]\n", 1),
        (b'{"event": "log_cont', 1),
        (b"", 1),
    ],
)
def test_the_first_line_says_which_segment_it_begins(line, number):
    assert log_segments.segment_of(line) == number


def test_an_event_log_is_read_across_its_segments_without_the_copy_that_a_kill_left(tmp_path):
    log = tmp_path / "events.jsonl"
    assert list(events.EventLog(log).read()) == [] == list(log_segments.archived(log))
    for number in (1, 2):
        opening = {"event": "log_continued", "segment": number} if number > 1 else {"event": "x"}
        log.write_text(json.dumps({**opening, "n": number}) + '\n{"event": "y"}\n{"ev')
        log_segments.archive(log, number)
    (tmp_path / "events" / "notes.txt").write_text("not a segment")
    read = [(event["event"], event.get("n")) for event in events.EventLog(log).read()]
    # `events.jsonl` is the second segment: the archived second one is the copy.
    assert read == [("x", 1), ("y", None), ("log_continued", 2), ("y", None)]


def test_a_damaged_segment_is_named(tmp_path):
    log = tmp_path / "events.jsonl"
    log.write_text('{"event": "a"}\n' * 50)
    path = log_segments.archive(log, 1)
    content = path.read_bytes()
    for damaged in (content[:-9], b"no gzip", content[:12] + b"\xff\xff\xff" + content[15:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"000001\.jsonl\.gz.*restore it from a backup"):
            list(log_segments.lines(path))


def test_what_a_kill_left_of_a_segment_is_removed(tmp_path):
    log = tmp_path / "events.jsonl"
    log_segments.remove_partial(log)  # without a folder, nothing
    log.write_text("{}\n")
    path = log_segments.archive(log, 1)
    (path.parent / ".partial-x.jsonl.gz").write_bytes(b"half")
    log_segments.remove_partial(log)
    assert list(path.parent.iterdir()) == [path]
