import types

import numpy as np
import pytest
import scipy.stats

from preprocessing.foreground import LabelBox
from preprocessing.patches import PatchConfig, PatchSampler, cut


def case(shape=(10, 12, 14), seed=0, foreground=0.1, case_id="a"):
    rng = np.random.default_rng(seed)
    label = ((rng.random(shape) < foreground) * rng.integers(1, 3, shape)).astype(np.uint8)
    image = rng.uniform(-1, 1, shape).astype(np.float16)
    return types.SimpleNamespace(
        case_id=case_id, image=image, label=label, runs=LabelBox.of(label).runs()
    )


def sampler(cases=None, **changes):
    return PatchSampler(
        cases or [case(seed=i) for i in range(3)],
        PatchConfig(
            **{"size": (4, 6, 8), "patches_per_case": 4, "batch_size": 4, "seed": 11, **changes}
        ),
    )


def choices(of, steps):
    return [of.choose(step, slot) for step in range(steps) for slot in range(of.config.batch_size)]


def test_patches_against_a_padded_volume():
    """Every patch is the window around its centre in a volume padded by hand."""
    corner = case((20, 24, 28), seed=3)
    corner.label[1:4, 18:21, 2:5] = 1
    corner.label[4:, :, :], corner.label[:, :18], corner.label[:, 21:], corner.label[:, :, 5:] = (
        0,
        0,
        0,
        0,
    )  # most patches lie beside it
    corner.runs = LabelBox.of(corner.label).runs()
    # the second is smaller than the patch along two axes, the third has no foreground
    cases = [case(seed=1), case((5, 30, 3), seed=2), case(seed=4, foreground=0), corner]
    drawn = sampler(cases, size=(4, 7, 8), batch_size=6)
    for step in range(20):
        batch = drawn.batch(step)
        assert batch["image"].dtype == np.float16 and batch["image"].shape == (6, 4, 7, 8, 1)
        assert batch["label"].dtype == np.uint8 and batch["label"].shape == (6, 4, 7, 8)
        assert batch["sample_seed"].dtype == np.int32 and batch["sample_seed"].shape == (6, 2)
        for slot in range(6):
            choice = drawn.choose(step, slot)
            window = tuple(
                slice(c + 8 - s // 2, c + 8 - s // 2 + s)
                for c, s in zip(choice.centre, (4, 7, 8), strict=True)
            )
            source = cases[choice.case]
            np.testing.assert_array_equal(
                batch["image"][slot, ..., 0], np.pad(source.image, 8, constant_values=-1)[window]
            )
            np.testing.assert_array_equal(batch["label"][slot], np.pad(source.label, 8)[window])
            assert (
                batch["label"][slot][2, 3, 4] > 0
            ) == choice.foreground  # the centre is voxel size // 2


def test_a_step_does_not_depend_on_earlier_steps():
    one, other = sampler(), sampler()
    for step in range(20):
        one.batch(step)
    for name, array in other.batch(17).items():
        np.testing.assert_array_equal(array, one.batch(17)[name])


def test_patches_depend_on_seed_step_and_slot():
    seeds = {tuple(s) for step in range(8) for s in sampler().batch(step)["sample_seed"].tolist()}
    assert len(seeds) == 32
    assert choices(sampler(), 8) != choices(sampler(seed=12), 8)


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 200), (0.25, 100), (0.3, 120), (0.0, 0), (1.0, 400)]
)
def test_the_foreground_share_is_exact(share, expected):
    drawn = sampler(foreground_fraction=share)
    assert sum(choice.foreground for choice in choices(drawn, 100)) == expected


@pytest.mark.parametrize("batch_size", [1, 2, 4, 8])
def test_every_batch_has_as_many_foreground_as_background_patches(batch_size):
    drawn = sampler(batch_size=batch_size)
    found = [choice.foreground for choice in choices(drawn, 16)]
    pairs = np.reshape(found, (-1, 2))
    assert (pairs.sum(axis=1) == 1).all()


@pytest.mark.parametrize("batch_size", [4, 5])
def test_every_case_occurs_equally_often_in_an_epoch(batch_size):
    drawn = sampler(batch_size=batch_size)  # with 5, epochs end within a batch
    order = [choice.case for choice in choices(drawn, 24)]
    epochs = np.reshape(order[: len(order) // 12 * 12], (-1, 12))
    assert all(np.bincount(epoch, minlength=3).tolist() == [4, 4, 4] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


@pytest.mark.parametrize(
    ("cases", "patches_per_case", "batch_size", "steps"),
    [(252, 4, 8, 126), (3, 1, 2, 2), (1, 1, 8, 1)],
)
def test_steps_per_epoch(cases, patches_per_case, batch_size, steps):
    drawn = sampler(
        [case((3, 3, 3))] * cases, patches_per_case=patches_per_case, batch_size=batch_size
    )
    assert drawn.steps_per_epoch == steps


def test_centres_are_uniform_over_each_kind():
    source = case((4, 5, 6), seed=4, foreground=0.2)
    drawn = sampler([source], batch_size=8, size=(2, 2, 2))
    found = choices(drawn, 1500)
    for kind, voxels in (
        (True, np.flatnonzero(source.label)),
        (False, np.flatnonzero(source.label == 0)),
    ):
        centres = [np.ravel_multi_index(c.centre, (4, 5, 6)) for c in found if c.foreground == kind]
        counts = np.bincount(centres, minlength=120)
        assert counts.sum() == 6000 and set(np.flatnonzero(counts)) == set(
            voxels
        )  # borders and corners included
        assert scipy.stats.chisquare(counts[voxels]).pvalue > 1e-3


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (0.25, 50), (0.5, 100), (1.0, 200)])
def test_the_tumour_share_of_foreground_patches_is_exact(share, expected):
    cases = [case(seed=i) for i in range(3)]
    drawn = sampler(cases, tumour_fraction=share)
    found = choices(drawn, 100)
    assert sum(choice.foreground for choice in found) == 200
    assert sum(choice.tumour for choice in found) == expected
    assert all(cases[choice.case].label[choice.centre] == 2 for choice in found if choice.tumour)


def test_tumour_centres_are_uniform_over_the_tumour():
    source = case((4, 5, 6), seed=4, foreground=0.3)
    found = choices(sampler([source], batch_size=8, size=(2, 2, 2), tumour_fraction=1.0), 500)
    centres = [np.ravel_multi_index(c.centre, (4, 5, 6)) for c in found if c.tumour]
    voxels = np.flatnonzero(source.label == 2)
    counts = np.bincount(centres, minlength=120)
    assert counts.sum() == 2000 and set(np.flatnonzero(counts)) == set(voxels)
    assert scipy.stats.chisquare(counts[voxels]).pvalue > 1e-3


def test_a_tumour_share_changes_neither_cases_nor_background_patches():
    plain, with_tumours = choices(sampler(), 20), choices(sampler(tumour_fraction=0.5), 20)
    for one, other in zip(plain, with_tumours, strict=True):
        assert (one.case, one.foreground) == (other.case, other.foreground)
        assert other.tumour or one.centre == other.centre


def test_without_a_tumour_the_centre_is_anywhere_on_the_foreground():
    healthy = case(seed=3)
    healthy.label[healthy.label == 2] = 1
    healthy.runs = LabelBox.of(healthy.label).runs()
    found = choices(sampler([healthy], tumour_fraction=1.0), 10)
    assert sum(choice.foreground for choice in found) == 20 and not any(
        choice.tumour for choice in found
    )


def test_the_choices_of_a_seed_stay_the_same():
    """Frozen: a checkpoint of an earlier version goes on with the patches it would have seen."""
    found = [(c.case, c.centre, c.foreground) for c in choices(sampler(), 2)]
    assert found[::2] == [
        (1, (9, 5, 4), False),
        (0, (8, 0, 4), False),
        (1, (8, 6, 5), False),
        (2, (1, 5, 6), False),
    ]
    assert found[1::2] == [
        (0, (4, 11, 7), True),
        (2, (2, 10, 12), True),
        (2, (8, 9, 5), True),
        (1, (2, 10, 10), True),
    ]


def test_a_case_without_foreground_gives_background():
    drawn = sampler([case(foreground=0.0)])
    assert not any(choice.foreground for choice in choices(drawn, 5))


def test_a_case_without_background_is_refused():
    full = case(foreground=1.1, case_id="case_8")
    with pytest.raises(ValueError, match=r"case_8.*no background"):
        sampler([full])


def test_without_a_case_there_is_nothing_to_draw():
    with pytest.raises(ValueError, match="no case"):
        PatchSampler([], PatchConfig(size=(2, 2, 2), patches_per_case=1, batch_size=1, seed=0))


@pytest.mark.parametrize(
    "change",
    [
        {"size": (4, 4)},
        {"size": (4, 0, 4)},
        {"foreground_fraction": 1.5},
        {"tumour_fraction": -0.1},
        {"patches_per_case": 0},
        {"batch_size": 0},
    ],
)
def test_impossible_settings_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        sampler(**change)


def test_cut_by_hand():
    out = np.zeros((4,), dtype=np.int8)
    cut(np.array([1, 2, 3], dtype=np.int8), (0,), out, fill=-1)
    assert out.tolist() == [-1, -1, 1, 2]
    cut(np.array([1, 2, 3], dtype=np.int8), (2,), out, fill=-1)
    assert out.tolist() == [1, 2, 3, -1]


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((0, 7), [3, 4, 5, 6]),
        ((3, 5), [-1, 4, 5, -1]),
        ((4, 7), [-1, -1, 5, 6]),
        ((0, 2), [-1] * 4),
        ((6, 7), [-1] * 4),
        ((0, 0), [-1] * 4),
    ],
)
def test_cut_reads_within_a_box_alone(box, expected):
    out = np.zeros((4,), dtype=np.int8)
    cut(np.arange(1, 8, dtype=np.int8), (4,), out, fill=-1, within=(slice(*box),))
    assert out.tolist() == expected
