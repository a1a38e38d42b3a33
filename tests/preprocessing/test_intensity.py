import numpy as np
import pytest

from preprocessing.intensity import window


def test_window_by_hand():
    hu = np.array([-3000.0, -200.0, -87.5, 25.0, 137.5, 250.0, 3000.0], dtype=np.float32)
    scaled = window(hu, -200, 250)
    assert scaled.dtype == np.float32
    np.testing.assert_array_equal(scaled, [-1.0, -1.0, -0.5, 0.0, 0.5, 1.0, 1.0])  # the ends exactly, so that no voxel leaves [-1, 1]


def test_window_takes_stored_integers_without_overflow():
    np.testing.assert_array_equal(window(np.array([-32768, 32767], dtype=np.int16), -160, 240), [-1.0, 1.0])


def test_an_empty_window_is_refused():
    with pytest.raises(ValueError, match=r"\(250, -200\)"):
        window(np.zeros(3), 250, -200)
