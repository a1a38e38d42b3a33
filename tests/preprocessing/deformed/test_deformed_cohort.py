"""Sites of deformed copies: their splits, the files written, and the sources refused."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest

from preprocessing import manifest, nifti, sources, splits
from preprocessing.case_list import Case, CaseManifest
from preprocessing.deformed import deformed_cohort
from preprocessing.deformed.config import DeformedConfig
from preprocessing.volume import Volume
from runkit import atomic
from runkit.randomness import generator

AFFINE = np.diag([-3.0, 3.0, 4.0, 1.0])  # LAS+: copies are written in RAS+ order
CONFIG = DeformedConfig(seed=3, split_c1=(4, 2, 2), split_c2=(5, 2, 3))


def write_sources(folder, count=2):
    """Writes scans of a bar of organ in fat; in the organ maps 7 is the pancreas and 3 another."""
    cases = []
    for number in range(count):
        hu = generator(8, "source", number).normal(-90, 10, (50, 40, 24))
        organs = np.zeros(hu.shape, np.uint8)
        organs[10:38, 14 + number : 24, 8:16] = 7
        organs[:5] = 3
        hu[organs == 7] += 190
        image, label = folder / f"ct{number}.nii.gz", folder / f"organs{number}.nii.gz"
        nifti.write_volume(image, Volume(np.rint(hu).astype(np.int16), AFFINE))
        nifti.write_volume(label, Volume(organs, AFFINE))
        cases.append(Case(f"patient_{number}", image, label))
    manifest.write(
        folder / "manifest.json",
        CaseManifest("sources", tuple(cases), label_values={7: 1}),
    )
    return folder / "manifest.json"


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    return write_sources(tmp_path_factory.mktemp("sources"))


@pytest.mark.parametrize("count", [3, 4, 10, 23])
def test_no_source_is_in_two_splits_at_any_site(count):
    ids = [f"p{n}" for n in range(count)]
    for seed in range(20):
        config = dataclasses.replace(CONFIG, seed=seed)
        where = {}
        for copy in deformed_cohort.list_copies(ids, config):
            where.setdefault(copy.source, set()).add(copy.split)
        assert all(len(found) == 1 for found in where.values())
        assert not any("WARNING" in note for note in deformed_cohort.notes(ids, config))


def test_with_many_sources_no_patient_is_at_both_sites():
    ids = [f"p{n}" for n in range(20)]
    dealt = deformed_cohort.share_out(ids, 1)
    for split in splits.SPLITS:
        assert (
            dealt["C1"][split]
            and dealt["C2"][split]
            and not set(dealt["C1"][split]) & set(dealt["C2"][split])
        )
    assert sorted(
        source for own in dealt.values() for members in own.values() for source in members
    ) == sorted(ids)
    assert len(deformed_cohort.notes(ids, CONFIG)) == 1


def test_one_or_two_sources_cause_a_warning():
    one, two = deformed_cohort.notes(["a"], CONFIG), deformed_cohort.notes(["a", "b"], CONFIG)
    assert (
        "WARNING: there is ONE source patient. Training and test are copies of the same person"
        in one[1]
    )
    assert (
        "WARNING: there are two source patients" in two[1]
        and "Both sites have copies of the same patients" in two[2]
    )
    dealt = deformed_cohort.share_out(["a", "b"], 5)["C1"]
    assert dealt["training"] == dealt["validation"] != dealt["test"]


def test_each_copy_is_planned_once_for_its_site_and_split():
    copies = deformed_cohort.list_copies(["a", "b", "c"], CONFIG)
    assert len({copy.case_id for copy in copies}) == len(copies) == 18
    for site, counts in CONFIG.counts.items():
        assert (
            tuple(
                sum(c.site == site and c.split == split for c in copies) for split in splits.SPLITS
            )
            == counts
        )


def test_two_sites_with_manifests_splits_and_tumours_at_one(listed, tmp_path):
    config = DeformedConfig(seed=3, split_c1=(1, 1, 1), split_c2=(1, 1, 1))
    written = deformed_cohort.generate(manifest.read(listed), config, tmp_path)
    digests = set()
    for site, values in (("C1", {0, 1}), ("C2", {0, 1, 2})):
        read = manifest.read(written[site])
        assert read.site == site and dict(read.declared) == {
            "pancreas": "complete",
            "tumour": "absent" if site == "C1" else "complete",
        }
        lists = atomic.read_json(tmp_path / site / "split.json")
        assert splits.listed_split([case.case_id for case in read.cases], lists) == {
            s: tuple(lists[s]) for s in splits.SPLITS
        }
        for case in read.cases:
            ct, labels = sources.read_case(case)
            assert set(np.unique(labels.array)) == values
            assert (np.diag(ct.affine)[:3] > 0).all()
            digests.add(hashlib.sha256(ct.array.tobytes()).hexdigest())
    assert len(digests) == 6
    record = json.loads((tmp_path / "cohort.json").read_text())
    assert {source for _, source in record["copies"].values()} == {
        "patient_0",
        "patient_1",
    } and "WARNING" in record["notes"][1]
    numbers = {
        entry["case_id"]: entry["source"]
        for site in ("C1", "C2")
        for entry in json.loads(written[site].read_text())["cases"]
    }
    assert numbers == {
        case_id: {"patient_0": 1, "patient_1": 2}[source]
        for case_id, (_, source) in record["copies"].items()
    }
    assert "patient" not in written["C1"].read_text()

    image = tmp_path / "C2" / "images" / "C2_0003.nii.gz"
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nii.gz")}
    content = image.read_bytes()
    image.unlink()  # as if it had been stopped there
    deformed_cohort.generate(manifest.read(listed), config, tmp_path, workers_count=2)
    assert image.read_bytes() == content
    changed = {path.name for path, stamp in before.items() if path.stat().st_mtime_ns != stamp}
    assert changed == {"C2_0003.nii.gz"}
    with pytest.raises(
        ValueError,
        match=r"cohort\.json: holds a cohort with other copies, seed; choose another folder",
    ):
        other = dataclasses.replace(config, seed=4)
        deformed_cohort.generate(manifest.read(listed), other, tmp_path)


def test_all_unusable_sources_are_named_with_the_remedy(listed, tmp_path):
    good = manifest.read(listed)
    assert deformed_cohort.check_sources(good, "list.json") == {}
    need = deformed_cohort.need(good, CONFIG, 2)
    assert need.disk_bytes > 0
    one = deformed_cohort.need(good, CONFIG, 1)
    assert one.seconds == 2 * need.seconds and deformed_cohort.need(good, CONFIG, 0) == one
    image, label = good.cases[0].image, good.cases[0].label
    _, labels = sources.read_case(good.cases[0], {7: 1})

    def case(name, drawn, scan=image):
        if isinstance(drawn, np.ndarray):
            path = tmp_path / f"{name}_label.nii.gz"
            nifti.write_volume(path, Volume(drawn.astype(np.uint8), AFFINE))
            drawn = path
        link = tmp_path / f"{name}.nii.gz"
        if scan is image:
            link.symlink_to(image)
        return Case(name, link, drawn)

    ill = labels.array.copy()
    ill[20:25, 16:20, 10:12] = 2
    tiny = np.zeros_like(ill)
    tiny[20:23, 20:23, 10:12] = 1
    cut = case("cut", label, None)
    cut.image.write_bytes(image.read_bytes()[:5000])
    for label_values, cases, expected in (
        (
            None,
            [case("bare", None), case("empty", 0 * ill), case("ill", ill), case("tiny", tiny)],
            [
                "bare: has no mask",
                "empty: its mask has no pancreas; state its value in the manifest",
                "ill: its mask has a tumour",
                "tiny: its pancreas measures 0.6 ml",
            ],
        ),
        ({7: 1}, [cut], ["cut: ", "F03"]),
        ({7: 1}, [case("gone", label, None)], ["gone: ", "gone.nii.gz", "F01"]),
    ):
        with pytest.raises(
            ValueError, match=r"list\.json: cannot be used as a list of sources"
        ) as caught:
            deformed_cohort.check_sources(
                CaseManifest("s", tuple(cases), label_values=label_values), "list.json"
            )
        assert all(words in str(caught.value) for words in expected), str(caught.value)


@pytest.mark.parametrize("organ_ml", [4.6, 8.2])
def test_a_source_is_refused_before_the_first_copy_or_every_copy_has_room_for_a_tumour(
    tmp_path, organ_ml
):
    """A deformation may shrink the organ, and the check sees only the source."""
    organ, hu = np.zeros((50, 50, 50), np.uint8), np.full((50, 50, 50), 40, np.int16)
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    places = np.stack(np.meshgrid(*[np.arange(50)] * 3, indexing="ij"))
    nearest = np.argsort(((places - 25) ** 2).sum(axis=0), axis=None, kind="stable")
    organ.flat[nearest[: round(organ_ml * 1000 / 64)]] = 1
    image, label = tmp_path / "ct.nii.gz", tmp_path / "organ.nii.gz"
    nifti.write_volume(image, Volume(hu, affine))
    nifti.write_volume(label, Volume(organ, affine))
    case = Case("small", image, label)
    ct = Volume(hu, affine)
    try:
        deformed_cohort.check_sources(CaseManifest("s", (case,)), "list.json")
    except ValueError as refusal:
        assert organ_ml < 8 and "which needs 8 ml" in str(refusal)
    else:
        for index in range(12):
            copy = deformed_cohort.Copy("C2", index, "training", "small")
            _, labels = deformed_cohort.render_copy(ct, organ == 1, 1, copy)
            assert 2 in labels.array
