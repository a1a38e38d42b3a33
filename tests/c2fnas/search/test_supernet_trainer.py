import numpy as np
import pytest
import tensorflow as tf

from c2fnas import checkpoints
from c2fnas.genotype import CellGene, Genotype
from c2fnas.search import path_weights, supernet
from c2fnas.search.operation_space import OperationSpace
from c2fnas.search.paths import path_at
from c2fnas.search.supernet_trainer import SupernetTrainer
from tests.c2fnas import tiny

SPACE = OperationSpace(
    Genotype("tiny", (CellGene((0,), 1, "conv2d"), CellGene((1,), 1, "conv2d")), filters=2)
)
STEPS = 6


def _trainer(seed=3):
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        built = supernet.build(SPACE, patch_size=tiny.PATCH, vae=None, seed=seed)
    return SupernetTrainer(built, tiny.config(batch_size=1, total_steps=STEPS), strategy)


def _batches(first, last):
    steps = [tiny.batch(step, size=1) for step in range(first, last)]
    return tf.data.Dataset.from_tensor_slices(
        {name: np.stack([one[name] for one in steps]) for name in steps[0]}
    )


@pytest.fixture(scope="module")
def trainer():
    tiny.make_deterministic()
    return _trainer()


@pytest.fixture(scope="module")
def states(trainer):
    """The state before every step, and at the end."""
    found = [trainer.state()]
    for step in range(STEPS):
        trainer.train(_batches, step + 1)
        found.append(trainer.state())
    return found


def _paths(round_number=0):
    return [path_at(SPACE, 0, round_number, step) for step in range(STEPS)]


def test_a_step_changes_weights_and_moments_of_its_path_alone(states):
    for path, before, after in zip(_paths(), states, states[1:], strict=False):
        chosen = {(cell, SPACE.operations[choice]) for cell, choice in enumerate(path, start=1)}
        for name in before:
            place = path_weights.operation_of(
                name.removeprefix("weights/").removeprefix("optimizer/")
            )
            if place is not None:
                same = np.array_equal(before[name], after[name])
                assert same == (place not in chosen), (path, name)


def test_the_steps_of_each_operation_are_counted(states):
    expected = np.zeros((2, 3), np.int64)
    for path in _paths():
        expected[[0, 1], list(path)] += 1
    np.testing.assert_array_equal(states[-1]["path_counts"], expected)
    assert len(set(_paths())) > 2


def test_all_paths_are_one_trace(trainer, states):
    step = trainer._train_step
    assert step._compiled_gradients.experimental_get_tracing_count() == 1
    assert step._compiled_apply.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("cut", [0, 1, 4])
def test_it_resumes_at_any_step_with_the_same_bits(trainer, states, cut, tmp_path):
    trainer.restore(states[cut])
    checkpoints.save(tmp_path, trainer, {"note": 1})
    trainer.restore(states[-1])  # anything else
    assert checkpoints.load(tmp_path, trainer) == {"note": 1}
    trainer.train(_batches, STEPS)
    found = trainer.state()
    assert found.keys() == states[-1].keys()
    for name, array in states[-1].items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_rounds_have_paths_of_their_own(trainer, states):
    trainer.restore(states[2])
    trainer.begin_round(7, 2)
    trainer.train(_batches, 4)
    assert trainer.supernet.path == path_at(SPACE, 0, 7, 1)
    trainer.begin_round(0, 0)


def test_a_reset_forgets_the_counts(trainer, states):
    trainer.restore(states[-1])
    trainer.set_weights(trainer.weights())
    np.testing.assert_array_equal(trainer.supernet.counts(), states[-1]["path_counts"])
    trainer.set_weights(trainer.weights(), reset_optimizer=True)
    assert not trainer.supernet.counts().any()


def test_a_state_of_another_training_changes_nothing(trainer, states):
    trainer.restore(states[-1])
    without = {name: array for name, array in states[0].items() if name != "path_counts"}
    with pytest.raises(ValueError, match="no entry path_counts"):
        trainer.restore(without)
    with pytest.raises(ValueError, match="no entry `step`"):
        trainer.restore({name: array for name, array in states[0].items() if name != "step"})
    np.testing.assert_array_equal(trainer.supernet.counts(), states[-1]["path_counts"])
