"""The synthetic cohorts: their patients, files and spacings."""

import dataclasses
import hashlib
import json

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from preprocessing import manifest, rules
from preprocessing.checks import integrity
from preprocessing.phantom import phantom
from preprocessing.phantom.config import CohortConfig
from preprocessing.phantom.hospital import PHANTOMS, SITES
from preprocessing.volume import Volume

CASES = 3


def config(site="C1", cases=CASES, seed=5, **changes):
    return CohortConfig(
        site=site,
        cases=cases,
        seed=seed,
        **{"in_plane_mm": (1.5, 1.5), "slice_mm": (2.0, 2.0), **changes},
    )


@pytest.fixture(scope="module")
def hospitals():
    return {
        site: [phantom.render_case(config(site), index) for index in range(CASES)] for site in SITES
    }


def test_every_c2_case_has_a_tumour_and_no_c1_case(hospitals):
    for site, labels in (("C1", {0, 1}), ("C2", {0, 1, 2})):
        for _, label in hospitals[site]:
            assert set(np.unique(label.array)) == labels


def test_organ_volumes_are_realistic(hospitals):
    for site, (smallest, largest) in (("C1", (75, 125)), ("C2", (55, 120))):
        for _, label in hospitals[site]:
            pancreas, tumour = (
                np.count_nonzero(label.array == k) * 1.5 * 1.5 * 2.0 / 1000.0 for k in (1, 2)
            )
            assert smallest < pancreas < largest
            assert tumour == 0 or 2 < tumour < 70


def test_the_labelled_organ_is_one_piece(hospitals):
    for cases in hospitals.values():
        for _, label in cases:
            parts, _ = ndimage.label(label.array > 0)
            sizes = np.bincount(parts.ravel())[1:]
            assert sizes.max() > 0.98 * sizes.sum()


def test_labels_lie_inside_the_body_away_from_the_borders(hospitals):
    for cases in hospitals.values():
        for ct, label in cases:
            soft = ndimage.binary_opening(ct.array > -250, iterations=2)
            parts, _ = ndimage.label(soft)
            body = parts == np.bincount(parts.ravel())[1:].argmax() + 1
            body = np.stack(
                [ndimage.binary_fill_holes(body[:, :, k]) for k in range(body.shape[2])], axis=2
            )
            assert body[label.array > 0].all()
            places = np.argwhere(label.array > 0) * label.spacing_mm
            assert places.min() > 6.0
            assert (np.array(label.shape) * label.spacing_mm - places.max(axis=0)).min() > 6.0


def test_every_case_passes_the_rules_and_its_mirrored_or_moved_label_does_not(hospitals):
    for cases in hospitals.values():
        for ct, label in cases:
            for thinning in (1, 3):  # slices of 2 and of 6 mm
                scale = np.diag([1.0, 1, thinning, 1])
                image, drawn = (
                    Volume(v.array[:, :, ::thinning], v.affine @ scale) for v in (ct, label)
                )
                assert [str(warning) for warning in integrity.check_case(image, drawn)] == []
                for axis in range(3):
                    with pytest.raises(rules.IntegrityError) as caught:
                        integrity.check_case(
                            image, Volume(np.flip(drawn.array, axis), drawn.affine)
                        )
                    assert caught.value.rule in ("C04", "C05", "C06")
                away = [round(24 / spacing) for spacing in image.spacing_mm]
                with pytest.raises(rules.IntegrityError) as caught:
                    integrity.check_case(
                        image, Volume(np.roll(drawn.array, away[1], axis=1), drawn.affine)
                    )
                assert caught.value.rule in ("C04", "C05", "C07") and "fits its CT better" in str(
                    caught.value
                )


def test_hu_in_the_labels_match_the_hospital(hospitals):
    for site, cases in hospitals.items():
        stated = SITES[site].hu
        inner = [
            ct.array[ndimage.binary_erosion(label.array == 1, iterations=2)] for ct, label in cases
        ]
        # slightly lower because of beam hardening, the duct and fat between the lobules
        assert np.median(np.concatenate(inner)) == pytest.approx(
            stated["pancreas"][0] - 4.0, abs=8.0
        )
    for ct, label in hospitals["C2"]:
        tumour = np.median(ct.array[ndimage.binary_erosion(label.array == 2, iterations=2)])
        pancreas = np.median(ct.array[ndimage.binary_erosion(label.array == 1)])
        assert 30 < pancreas - tumour < 75


def test_the_affine_puts_the_liver_on_the_right(hospitals):
    for site, cases in hospitals.items():
        ct, _ = cases[0]
        canonical = nibabel.as_closest_canonical(nibabel.Nifti1Image(ct.array, ct.affine))
        hu = canonical.get_fdata()
        x = canonical.affine[0, 0] * np.arange(hu.shape[0]) + canonical.affine[0, 3]
        liver = SITES[site].hu["liver"][0]
        upper = hu[:, :, -20:-5]
        solid = ndimage.uniform_filter(np.abs(upper - liver) < 40, 5) > 0.9
        assert np.count_nonzero(solid[x > 20]) > 3 * np.count_nonzero(solid[x < -20])


def test_thick_slices_are_averages_of_thin_ones():
    quiet = dataclasses.replace(SITES["C2"], noise_hu=(0.0, 0.0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PHANTOMS["standard"], "C2", quiet)
        thick, _ = phantom.render_case(config("C2", slice_mm=(5.0, 5.0)), 0)
        thin, _ = phantom.render_case(config("C2", slice_mm=(1.0, 1.0)), 0)
    middle = 15
    centre = thick.affine[2, 3] + 5.0 * middle
    k = (centre - thin.affine[2, 3]) / 1.0
    low = int(np.floor(k - 2))
    share = k - 2 - low
    planes = thin.array[:, :, low : low + 6].astype(float)
    mean = (planes[:, :, :5].mean(axis=2) * (1 - share)) + planes[:, :, 1:].mean(axis=2) * share
    difference = np.abs(thick.array[:, :, middle] - mean)
    assert np.percentile(difference, 95) < 12
    # unlike a single thin slice
    assert np.percentile(np.abs(thick.array[:, :, middle] - planes[:, :, 2]), 95) > 25


def test_c2_slices_are_446_to_40_for_any_number_of_cases():
    def thin(cases):
        return sum(
            phantom.spacing_mm(CohortConfig(site="C2", cases=cases, seed=1), i)[2] == 1.0
            for i in range(cases)
        )

    assert thin(486) == 40
    for cases in (1, 7, 20, 40, 100, 243):
        assert thin(cases) == pytest.approx(cases * 40 / 486, abs=0.5001)
    assert {
        phantom.spacing_mm(CohortConfig(site="C2", cases=20, seed=1), i) for i in range(20)
    } == {
        (0.68, 0.68, 5.0),
        (0.68, 0.68, 1.0),
    }


@pytest.mark.parametrize(("spacings", "thinnest"), [("demo", 0.8), ("paper", 0.16)])
def test_c1_spacings_fill_the_range(spacings, thinnest):
    drawn = np.array(
        [
            phantom.spacing_mm(CohortConfig(site="C1", cases=300, seed=2, spacings=spacings), i)
            for i in range(300)
        ]
    )
    assert (drawn[:, 0] == drawn[:, 1]).all()
    for column, low, high in ((0, 0.58, 0.98), (2, thinnest, 1.0)):
        assert low <= drawn[:, column].min() < low + 0.02
        assert high - 0.02 < drawn[:, column].max() <= high


def digests(folder):
    return {
        path.name + path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.nii.gz"))
    }


SMALL = {
    "in_plane_mm": (3.0, 3.0),
    "slice_mm": (5.0, 5.0),
    "field_of_view_mm": (180.0, 140.0, 110.0),
}


def test_the_bytes_depend_on_the_seed_and_not_on_the_number_of_workers(tmp_path):
    first = phantom.generate_cohort(config("C2", cases=2, **SMALL), tmp_path / "a", workers=2)
    second = phantom.generate_cohort(config("C2", cases=2, **SMALL), tmp_path / "b")
    phantom.generate_cohort(config("C2", cases=1, seed=6, **SMALL), tmp_path / "c")
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert len(set(digests(tmp_path / "a").values())) == 4
    assert not set(digests(tmp_path / "c").values()) & set(digests(tmp_path / "a").values())
    for path in (first, second):
        read = manifest.read(path)
        assert read.site == "C2"
        assert [c.case_id for c in read.cases] == ["C2_0001", "C2_0002"]
        assert all(c.image.exists() and c.label.exists() for c in read.cases)


def test_an_interrupted_run_resumes_and_a_cohort_can_grow(tmp_path):
    phantom.generate_cohort(config("C1", cases=1, **SMALL), tmp_path)
    image = tmp_path / "images" / "C1_0001.nii.gz"
    before, stamp = digests(tmp_path), image.stat().st_mtime_ns
    (tmp_path / "labels" / "C1_0001.nii.gz").rename(tmp_path / "moved")
    path = phantom.generate_cohort(config("C1", cases=1, **SMALL), tmp_path)
    assert digests(tmp_path) == before
    stamp = image.stat().st_mtime_ns
    path = phantom.generate_cohort(config("C1", cases=2, **SMALL), tmp_path)
    assert image.stat().st_mtime_ns == stamp  # kept
    assert len(manifest.read(path).cases) == 2
    with pytest.raises(
        ValueError, match=r"cohort\.json.*seed is 5 there, not 9.*choose another folder"
    ):
        phantom.generate_cohort(config("C1", cases=2, seed=9, **SMALL), tmp_path)


# From the release with one phantom: site, case, digests of CT and labels, mean HU of three slices.
BEFORE_THE_HARD_ONE = [
    ("C1", 0, "f3adf125c65dc46c", "6872bc6a16a52304", (22.177, -58.859, -15.945)),
    ("C1", 1, "eee7326153fc4cc9", "130f5fc79652eab8", (-0.751, 8.959, 22.592)),
    ("C2", 0, "07a470aaa0e31232", "6d6d483e4b9b1d91", (36.211, 68.280, 72.318)),
    ("C2", 1, "22f84c7ce5585ff8", "9ee24174445bedee", (35.308, 49.539, 79.741)),
]


@pytest.mark.parametrize(
    ("site", "index", "ct_digest", "label_digest", "means"), BEFORE_THE_HARD_ONE
)
def test_the_standard_phantom_is_unchanged_since_it_was_the_only_one(
    site, index, ct_digest, label_digest, means
):
    ct, labels = phantom.render_case(config(site, cases=2, **SMALL), index)
    found = [
        hashlib.sha256(np.ascontiguousarray(v.array).tobytes() + v.affine.tobytes()).hexdigest()[
            :16
        ]
        for v in (ct, labels)
    ]
    assert found[1] == label_digest
    # Another NumPy or processor may round single voxels differently, by 1 HU; other patients differ
    # by far more.
    if found[0] != ct_digest:
        np.testing.assert_allclose(
            [ct.array[:, :, k].mean() for k in (5, 11, 17)], means, atol=0.01
        )


def test_a_cohort_from_before_the_hard_phantom_can_be_continued(tmp_path):
    phantom.generate_cohort(config("C1", cases=1, **SMALL), tmp_path)
    record = json.loads((tmp_path / "cohort.json").read_text())
    assert "phantom" not in record
    with pytest.raises(ValueError, match=r"phantom is None there, not 'hard'"):
        phantom.generate_cohort(config("C1", cases=1, phantom="hard", **SMALL), tmp_path)


@pytest.fixture(scope="module")
def hard_c2():
    return [
        phantom.render_case(
            config("C2", phantom="hard", in_plane_mm=(2.0, 2.0), slice_mm=(3.0, 3.0)), index
        )
        for index in range(4)
    ]


def test_the_hard_phantom_has_small_and_faint_tumours(hard_c2):
    volumes = [np.count_nonzero(labels.array == 2) * 0.012 for _, labels in hard_c2]
    assert min(volumes) > 1.0 and min(volumes) < 10.0 and max(volumes) < 50.0
    below = [
        np.median(ct.array[labels.array == 1]) - np.median(ct.array[labels.array == 2])
        for ct, labels in hard_c2
    ]
    assert min(below) < 45.0 and max(below) < 75.0


def test_the_two_phantoms_have_different_patients():
    bodies = [
        phantom.render_case(config("C1", cases=1, phantom=kind, **SMALL), 0)[1].array
        for kind in PHANTOMS
    ]
    assert (bodies[0] != bodies[1]).any()


def test_as_many_workers_as_processors_unless_memory_is_short(monkeypatch):
    monkeypatch.setattr(phantom.processors, "available", lambda: 16)
    cohort = config("C2", cases=40, **SMALL)
    need = max(phantom.case_bytes(cohort, index) for index in range(40))
    room = 1000 * need
    assert phantom.fitting_workers(cohort, range(40), 0, room) == 16
    assert phantom.fitting_workers(cohort, range(40), 3, room) == 3
    assert phantom.fitting_workers(cohort, range(5), 0, room) == 5
    assert phantom.fitting_workers(cohort, range(40), 0, 4 * need) == 4
    assert phantom.fitting_workers(cohort, range(40), 8, need // 2) == 1
    assert phantom.fitting_workers(cohort, [], 0, room) == 1
    with pytest.raises(ValueError, match="workers is -1; expected at least 1, or 0"):
        phantom.generate_cohort(cohort, "nowhere", workers=-1)


def test_the_memory_of_a_case_follows_its_voxels_by_hand():
    cohort = config("C2", cases=1, **SMALL)
    x, y, z = phantom.spacing_mm(cohort, 0)
    voxels = (180 / x) * (140 / y) * (110 / z)
    assert phantom.case_bytes(cohort, 0) == pytest.approx(128 * 2**20 + 12 * voxels, abs=1)
