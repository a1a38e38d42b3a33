import pathlib

import tensorflow as tf

from c2fnas.tensorboard_log import StepProfiler, TensorBoardLog


def _scalars(folder):
    found = {}
    for path in sorted(pathlib.Path(folder).glob("events.out.tfevents.*")):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                found[value.tag, event.step] = value.simple_value
    return found


def test_scalars_are_readable_after_a_validation(tmp_path):
    log = TensorBoardLog(tmp_path / "board")
    assert not (tmp_path / "board").exists()
    log.training_step(1, {"dice": 0.5, "learning_rate": 0.25})
    log.training_step(2, {"dice": 0.75})
    log.validation(2, {"dice": 0.125})
    log.federated_round(2, 3)
    assert _scalars(tmp_path / "board") == {
        ("train/dice", 1): 0.5,
        ("train/learning_rate", 1): 0.25,
        ("train/dice", 2): 0.75,
        ("validation/dice", 2): 0.125,
        ("federated/round", 2): 3.0,
    }


def test_a_profile_of_the_steps_asked_for(tmp_path):
    profiler = StepProfiler(tmp_path, 2, 3)
    for step in range(1, 5):
        profiler.before(step)
        assert bool(list(tmp_path.rglob("*.xplane.pb"))) is (step == 4)
        profiler.after(step)
    assert len(list(tmp_path.rglob("*.xplane.pb"))) == 1
