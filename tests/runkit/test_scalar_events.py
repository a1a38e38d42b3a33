import resource

import pytest

from runkit.scalar_events import ScalarEvents, _masked


def test_tensorboard_reads_what_was_written(tmp_path):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="TensorBoard is not installed",
    )
    clock = iter(range(1_700_000_000, 1_700_000_100)).__next__
    events = ScalarEvents(tmp_path / "board", clock=clock)
    events.write(0, {"score/C1/dice": 0.25})
    events.write(300, {"score/C1/dice": 0.75, "round/sites": 2})
    reader = accumulator.EventAccumulator(str(tmp_path / "board"))
    reader.Reload()
    assert reader.Tags()["scalars"] == ["score/C1/dice", "round/sites"]
    assert [(event.step, event.value) for event in reader.Scalars("score/C1/dice")] == [
        (0, 0.25),
        (300, 0.75),
    ]
    assert reader.Scalars("round/sites")[0].wall_time > 1_700_000_000


def test_no_file_is_created_before_the_first_value(tmp_path):
    ScalarEvents(tmp_path / "board")
    assert not (tmp_path / "board").exists()


def test_the_checksum_is_crc_32c():
    # RFC 3720, B.4: 32 bytes of zeros have CRC-32C 0x8A9136AA.
    crc = 0x8A9136AA
    assert _masked(b"\0" * 32) == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@pytest.mark.parametrize("room", [0, 10, 60])
def test_a_full_disk_leaves_no_half_record_at_which_readers_would_stop(tmp_path, room):
    def file_of(name, *, full):
        events = ScalarEvents(tmp_path / name, clock=lambda: 1_700_000_000.0)
        for step in (1, 2):
            paths = list((tmp_path / name).glob("*"))
            size = paths[0].stat().st_size if paths else 0
            before = resource.getrlimit(resource.RLIMIT_FSIZE)
            if full:
                resource.setrlimit(resource.RLIMIT_FSIZE, (size + room, before[1]))
                try:
                    with pytest.raises(OSError):
                        events.write(step, {"a": 1.0, "b": 2.0})
                finally:
                    resource.setrlimit(resource.RLIMIT_FSIZE, before)
            events.write(step, {"a": 1.0, "b": 2.0})
        (path,) = (tmp_path / name).glob("*")
        return path.read_bytes()

    assert file_of("full", full=True) == file_of("undisturbed", full=False)
