from c2fnas import gpus
from experiments.models import devices
from runkit import events


def test_the_record_says_whether_another_run_gives_the_same_bits(monkeypatch):
    lines = []
    monkeypatch.setattr(devices.logging, "info", lambda line, *values: lines.append(line % values))
    for deterministic, xla, same, words in (
        (True, False, True, "gives the same bits"),
        (False, False, False, "may give other bits (--nodeterministic)"),
        (True, True, False, "may give other bits (--xla)"),
    ):
        found = devices.record(tf32=True, deterministic=deterministic, xla=xla)
        assert found["same_bits"] is same
        devices.announce(found)
        assert lines[-1].startswith('event=devices devices="') and lines[-1].endswith(words)
    monkeypatch.setattr(gpus, "is_used", lambda: True)
    monkeypatch.setattr(gpus, "described", lambda: ["Card A", "Card B"])
    devices.announce(devices.record(tf32=False, deterministic=True))
    assert 'devices="Card A; Card B" tf32=off deterministic=on xla=off' in lines[-1]


def test_the_devices_of_a_training_come_from_its_history_each_once(tmp_path):
    assert devices.of_training(tmp_path) == []
    history = events.EventLog(tmp_path / "history.jsonl")
    for texts in (["Card A", "Card A"], ["processor, 2 threads"], ["Card A"]):
        history.append("devices", devices=texts)
        history.append("epoch", step=1)
    assert devices.of_training(tmp_path) == ["Card A", "processor, 2 threads"]
