import numpy as np
import pytest

from runkit.aligned import aligned_empty, is_aligned


@pytest.mark.parametrize(
    ("shape", "dtype"), [((3, 5, 7), np.float32), ((1,), np.uint8), ((2, 9, 1), np.float16)]
)
def test_arrays_are_aligned_to_64_bytes_and_keep_their_values(shape, dtype):
    arrays = [aligned_empty(shape, dtype) for _ in range(8)]  # at different places in memory
    for value, array in enumerate(arrays):
        array[...] = value
    for value, array in enumerate(arrays):
        assert (
            (array.shape, array.dtype, array.ctypes.data % 64) == (shape, dtype, 0)
            and is_aligned(array)
            and (array == value).all()
        )


def test_an_unaligned_part_of_an_array_is_recognised():
    array = aligned_empty((4, 32), np.float32)
    assert (
        not is_aligned(array[:, :16])
        and not is_aligned(array.reshape(-1)[1:])
        and is_aligned(array[1:])
    )
