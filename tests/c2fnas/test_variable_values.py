"""Values read and set without the detour through Keras and the strategy are the same."""

import numpy as np
import pytest
import tensorflow as tf

from c2fnas import keras_stack, variable_values

SHAPES = [(2, 3), (), (4,), (0, 2)]


def made(strategy):
    if strategy is None:
        return [keras_stack.make_variable(shape, f"v{n}") for n, shape in enumerate(SHAPES)]
    with strategy.scope():
        return made(None)


@pytest.mark.parametrize("mirrored", [False, True])
def test_what_is_assigned_is_read_and_is_what_keras_reads(mirrored):
    variables = made(tf.distribute.MirroredStrategy(["CPU:0"]) if mirrored else None)
    generator = np.random.default_rng(2)
    values = [generator.normal(size=shape).astype(np.float32) for shape in SHAPES]
    variable_values.assign(variables, values)
    for variable, value, found in zip(
        variables, values, variable_values.read(variables), strict=True
    ):
        np.testing.assert_array_equal(np.asarray(variable.numpy()), value)
        np.testing.assert_array_equal(found, value)
        assert found.dtype == np.float32 and found.flags.writeable


def test_a_value_that_was_read_does_not_change_with_its_variable():
    variables = made(None)
    before = variable_values.read(variables)
    variable_values.assign(variables, [np.ones(shape, np.float32) for shape in SHAPES])
    assert all((value == 0).all() for value in before)
    given = variable_values.read(variables)[0]
    given[:] = 5
    assert (variables[0].numpy() == 1).all()


def test_whole_numbers_keep_their_type():
    count = tf.Variable(np.int64(3))
    variable_values.assign([count], [np.asarray(7, np.int64)])
    (found,) = variable_values.read([count])
    assert found.dtype == np.int64 and found == 7


def test_another_shape_is_refused():
    variables = made(None)
    with pytest.raises(ValueError, match=r"shape \(3, 2\), its variable \(2, 3\)"):
        variable_values.assign(variables[:1], [np.zeros((3, 2), np.float32)])
    with pytest.raises(ValueError, match="zip"):
        variable_values.assign(variables, [])
