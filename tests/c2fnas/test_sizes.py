import numpy as np
import pytest
import tensorflow as tf

from c2fnas.sizes import sizes

SHAPE = (2, 3, 4, 5, 6)


@pytest.mark.parametrize(
    ("known", "ints"),
    [
        (SHAPE, [2, 3, 4, 5, 6]),
        ((None, 3, 4, 5, 6), [-1, 3, 4, 5, 6]),
        ((2, None, 4, None, 6), [2, None, 4, None, 6]),
        ((None, None, None, None, 6), [-1, None, None, None, 6]),
    ],
)
def test_known_sizes_are_numbers_and_all_of_them_reshape_to_the_same(known, ints):
    given = np.arange(np.prod(SHAPE), dtype=np.float32)

    @tf.function(autograph=False, input_signature=[tf.TensorSpec(known, tf.float32)])
    def reshaped(tensor):
        found = sizes(tensor)
        assert [size if isinstance(size, int) else None for size in found] == ints
        return tf.reshape(given, found)

    np.testing.assert_array_equal(reshaped(given.reshape(SHAPE)), given.reshape(SHAPE))


def test_nothing_is_asked_of_a_tensor_whose_sizes_are_known():
    with tf.Graph().as_default() as graph:
        sizes(tf.compat.v1.placeholder(tf.float32, (None, 3, 4, 5, 6)))
        assert [operation.type for operation in graph.get_operations()] == ["Placeholder"]
