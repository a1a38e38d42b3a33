"""The model of the tumours against its closed forms."""

import numpy as np
import pytest

from preprocessing.phantom.space import Pose, Space
from preprocessing.phantom.tumour import Tumours, diameter_mm, grow, tissue_hu
from runkit.randomness import generator


def test_log_volumes_are_uniform_and_a_stated_share_is_iso_dense():
    rng = generator(1, "tumours")
    volumes, below = np.array([Tumours().draw(rng) for _ in range(4000)]).T
    assert volumes.min() >= 2.0 and volumes.max() <= 45.0
    assert np.quantile(volumes, (0.25, 0.5, 0.75)) == pytest.approx(
        2.0 * (45.0 / 2.0) ** np.array([0.25, 0.5, 0.75]), rel=0.08
    )
    iso_dense = np.abs(below) <= 5.0
    # 4000 draws: a standard error of 0.005
    assert iso_dense.mean() == pytest.approx(0.11, abs=0.015)
    assert below[~iso_dense].min() >= 15.0 and below[~iso_dense].max() <= 62.0
    assert below[~iso_dense].mean() == pytest.approx((15 + 62) / 2, abs=1.0)


def test_a_ball_of_two_millilitres_is_sixteen_millimetres_across():
    assert diameter_mm(2.0) == pytest.approx(15.63, abs=0.01)  # (6 * 2000 / pi) ** (1 / 3)


@pytest.mark.parametrize("volume_ml", [2.0, 20.0])
def test_a_tumour_has_its_volume_even_if_half_of_the_room_is_occupied(volume_ml):
    space = Space((-40, -40, -40), (40, 40, 40), 2.0, Pose(), 0.0, generator(2, "space"))
    for room in (np.full(space.shape, 30.0, np.float32), space.x + 0.0 * space.y + 0.0 * space.z):
        tumour = grow(
            space,
            space.whole(),
            (3.0, 0.0, 0.0),
            diameter_mm(volume_ml),
            room.astype(np.float32),
            generator(3, "tumour"),
        )
        assert np.count_nonzero(tumour < 0) * 0.008 == pytest.approx(volume_ml, rel=0.05)
        assert (room[tumour < 0] > 0).all()


def test_an_iso_dense_tumour_has_no_darker_core():
    space = Space((-40, -40, -40), (40, 40, 40), 2.0, Pose(), 0.0, generator(2, "space"))
    tumour = np.sqrt(space.x**2 + space.y**2 + space.z**2) - 20.0
    core, hu = tumour < -9.0, []
    for seed in range(40):
        for necrosis in (True, False):
            hu.append(
                (
                    necrosis,
                    tissue_hu(
                        space, space.whole(), tumour, 50.0, generator(seed, "hu"), necrosis=necrosis
                    )[core].mean(),
                )
            )
    with_core = [
        value
        for necrosis, value in hu
        if necrosis and value < min(v for n, v in hu if not n) - 11.0
    ]
    assert 5 <= len(with_core) <= 20  # three of ten
    assert len({round(float(value), 3) for necrosis, value in hu if not necrosis}) == 1
