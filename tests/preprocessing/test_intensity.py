import numpy as np
import pytest

from preprocessing.intensity import window, window_float16


def test_window_by_hand():
    hu = np.array([-3000.0, -200.0, -87.5, 25.0, 137.5, 250.0, 3000.0], dtype=np.float32)
    scaled = window(hu, -200, 250)
    assert scaled.dtype == np.float32
    np.testing.assert_array_equal(
        scaled, [-1.0, -1.0, -0.5, 0.0, 0.5, 1.0, 1.0]
    )  # the ends exactly, so that no voxel leaves [-1, 1]


def test_window_takes_stored_integers_without_overflow():
    np.testing.assert_array_equal(
        window(np.array([-32768, 32767], dtype=np.int16), -160, 240), [-1.0, 1.0]
    )


def test_an_empty_window_is_refused():
    with pytest.raises(ValueError, match=r"\(250, -200\)"):
        window(np.zeros(3), 250, -200)


@pytest.mark.parametrize("ends", [(-200, 250), (-160, 240), (0, 1)])
def test_float16_has_the_bits_that_numpy_gives(ends):
    low, high = ends
    middle, half = (low + high) / 2, (high - low) / 2
    steps = (
        np.arange(0x0400, 0x3C02, dtype=np.uint16).view(np.float16).astype(np.float32)
    )  # 2**-14 to just above 1
    near = np.concatenate(
        [
            steps,
            (steps[1:] + steps[:-1]) / 2,
            np.nextafter((steps[1:] + steps[:-1]) / 2, np.float32(0)),
        ]
    )  # ties as well
    noise = np.random.default_rng(0).normal(middle, 2 * half, 20_000)
    hu = np.concatenate(
        [middle + half * near, middle - half * near, noise, [-3e5, 3e7, middle]]
    ).astype(np.float32)
    expected = window(hu, low, high)
    expected[np.abs(expected) < 2**-14] = 0
    found = window_float16(hu, low, high)
    assert found.dtype == np.float16
    found[np.abs(found) < 2**-14] = 0
    np.testing.assert_array_equal(found, expected.astype(np.float16))


def test_float16_close_to_the_middle_of_the_window():
    hu = np.linspace(24.9, 25.1, 4001, dtype=np.float32)
    np.testing.assert_allclose(window_float16(hu), window(hu).astype(np.float16), rtol=0, atol=6e-8)


def test_float16_of_stored_integers_keeps_the_shape():
    hu = np.asfortranarray(np.arange(-1000, 1000, 10, dtype=np.int16).reshape(4, 5, 10))
    np.testing.assert_array_equal(window_float16(hu), window(hu).astype(np.float16))
