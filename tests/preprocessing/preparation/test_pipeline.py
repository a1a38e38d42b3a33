import dataclasses
import errno
import gzip
import json
import os
import pathlib
import struct

import nibabel
import numpy as np
import pytest
import scipy.ndimage

from preprocessing import case_store, geometry, nifti, resampling, sources
from preprocessing.case_list import Case, CaseManifest
from preprocessing.preparation import pipeline
from preprocessing.volume import Volume
from tests.preprocessing.nifti_files import without_orientation

TARGET_MM = (2.0, 2.0, 2.0)
AFFINE = np.array(
    [[-1.5, 0, 0, 30.0], [0, 0, 3.0, -20.0], [0, 1.5, 0, 7.0], [0, 0, 0, 1]]
)  # x reversed, y and z exchanged


def scan(seed, shape=(20, 16, 10)):
    rng = np.random.default_rng(seed)
    hu = np.full(shape, -1000, dtype=np.int16)
    hu[3:-3, 3:-3, 2:-2] = rng.integers(-100, 200, (shape[0] - 6, shape[1] - 6, shape[2] - 4))
    label = np.zeros(shape, dtype=np.uint8)
    label[6:12, 5:9, 3:7] = 1
    label[7:9, 6:8, 4:6] = 2
    label[12, 5 + seed % 4, 3 + seed // 4] = 1  # no two patients are the same
    return hu, label


def cohort(folder, count=5):
    cases = []
    for i in range(count):
        case = Case(f"case_{i}", folder / f"images/{i}.nii.gz", folder / f"labels/{i}.nii.gz")
        hu, label = scan(i)
        nifti.write_volume(case.image, Volume(hu, AFFINE))
        nifti.write_volume(case.label, Volume(label, AFFINE))
        cases.append(case)
    return CaseManifest("C2", tuple(cases))


def prepare(manifest, root, **changes):
    return pipeline.prepare(manifest, root, **{"target_mm": TARGET_MM, "split_seed": 1, **changes})


def contents(root):
    return {
        p.relative_to(root): p.read_bytes()
        for p in sorted(pathlib.Path(root).rglob("*"))
        if p.is_file()
    }


def stamps(root):
    return {
        p.relative_to(root): p.stat().st_mtime_ns
        for p in sorted((root / "cases").rglob("*"))
        if p.is_file()
    }


def test_prepared_voxels_against_slow_references(tmp_path):
    manifest = cohort(tmp_path, 5)
    store = prepare(manifest, tmp_path / "store", window_hu=(-160, 240))
    assert store.site == "C2" and store.settings["target_mm"] == [2.0, 2.0, 2.0]
    assert [len(store.case_ids(s)) for s in ("training", "validation", "test")] == [3, 1, 1]
    case = store.open("case_3")
    hu, label = scan(3)
    upright, upright_label = (
        hu[::-1].transpose(0, 2, 1),
        label[::-1].transpose(0, 2, 1),
    )  # by hand, for this affine
    spacing_mm = (1.5, 3.0, 1.5)
    grid = np.meshgrid(
        *(np.arange(m) * 2.0 / s for m, s in zip(case.image.shape, spacing_mm, strict=True)),
        indexing="ij",
    )
    linear = scipy.ndimage.map_coordinates(
        upright.astype(np.float64), grid, order=1, mode="nearest"
    )
    np.testing.assert_allclose(
        case.image, np.clip((linear - 40) / 200, -1, 1), atol=1e-3
    )  # float16
    nearest = upright_label[
        tuple(
            np.rint(g).astype(int).clip(0, n - 1) for g, n in zip(grid, upright.shape, strict=True)
        )
    ]
    np.testing.assert_array_equal(case.label, nearest)
    assert {0, 1, 2} == set(np.unique(case.label))
    np.testing.assert_array_equal(case.runs.array(), nearest)
    np.testing.assert_array_equal(case.native_label(), label)
    np.testing.assert_array_equal(case.native.affine, AFFINE)
    assert not (tmp_path / "store/rejected.json").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "run experiments.prepare again"),
        ("[]", "run experiments.prepare again"),
        ('{"site": 5}', "run experiments.prepare again"),
        ("\0" * 40, "zero bytes"),
    ],
    ids=["cut short", "a list", "a wrong value", "zeros"],
)
def test_a_damaged_index_is_made_again_and_no_case_is(tmp_path, content, words):
    root = tmp_path / "store"
    manifest = cohort(tmp_path, 5)
    prepare(manifest, root)
    index, before = (root / "index.json").read_bytes(), stamps(root)
    (root / "index.json").write_text(content)
    with pytest.raises(ValueError, match=rf"index\.json: .*{words}"):
        case_store.CaseStore(root)
    prepare(manifest, root)
    assert (root / "index.json").read_bytes() == index and stamps(root) == before


def test_numbers_run_over_the_cohort(tmp_path):
    store = prepare(cohort(tmp_path, 5), tmp_path / "store")
    assert sorted(
        store.open(case_id).number for split in store.splits for case_id in store.case_ids(split)
    ) == [1, 2, 3, 4, 5]


def test_two_processes_give_the_same_store(tmp_path):
    manifest = cohort(tmp_path, 3)
    prepare(manifest, tmp_path / "one")
    prepare(manifest, tmp_path / "two", workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_finished_case_is_not_prepared_again(tmp_path):
    manifest = cohort(tmp_path, 3)
    root = tmp_path / "store"
    prepare(manifest, root)
    before = stamps(root)
    prepare(manifest, root)
    assert stamps(root) == before
    hu, _ = scan(7)
    nifti.write_volume(
        manifest.cases[1].image, Volume(hu, AFFINE)
    )  # another scan under the same name
    prepare(manifest, root)
    changed = {path.parent.name for path, stamp in stamps(root).items() if stamp != before[path]}
    assert changed == {"case_1"}


def test_a_case_whose_name_a_killed_run_did_not_sync_is_synced_before_it_counts(
    tmp_path, monkeypatch
):
    manifest, root = cohort(tmp_path, count=3), tmp_path / "store"
    prepare(manifest, root)
    synced = []
    monkeypatch.setattr(pipeline.atomic, "sync_directory", synced.append)
    prepare(manifest, root)
    assert root / "cases" in synced


def test_other_settings_prepare_every_case_again(tmp_path):
    manifest, root = cohort(tmp_path, 3), tmp_path / "store"
    old = prepare(manifest, root)
    new = prepare(manifest, root, target_mm=(3.0, 3.0, 3.0))
    assert new.open("case_0").image.shape != (0,) and new.settings["target_mm"] == [3.0, 3.0, 3.0]
    with pytest.raises(ValueError, match="case_0"):
        old.open("case_0")  # whoever still holds the old index is told, not served other voxels


def test_a_resumed_run_ends_in_the_same_store(tmp_path, monkeypatch):
    manifest = cohort(tmp_path, 4)
    prepare(manifest, tmp_path / "whole")
    root, write, written = tmp_path / "stopped", case_store.write_case, []

    def stop_at_third(*arguments, **keywords):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(arguments)
        write(*arguments, **keywords)

    monkeypatch.setattr(case_store, "write_case", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        prepare(manifest, root)
    monkeypatch.undo()
    (root / "cases" / ".partial-killed").mkdir()  # what a kill -9 would leave
    with pytest.raises(ValueError, match=r"index\.json"):
        case_store.CaseStore(root)
    before = stamps(root)
    prepare(manifest, root)
    after = stamps(root)
    assert all(after[path] == stamp for path, stamp in before.items()) and len(before) == 2 * 5
    assert contents(root) == contents(tmp_path / "whole")


def spoil(manifest):
    """Case 0: another grid; 1: NaN; 2: truncated; 3: unknown label; 4: missing; 5: good."""
    hu, label = scan(0)
    nifti.write_volume(manifest.cases[0].label, Volume(label[:, :, 1:], AFFINE))
    broken = hu.astype(np.float32)
    broken[1, 2, 3] = np.nan
    nifti.write_volume(manifest.cases[1].image, Volume(broken, AFFINE))
    content = manifest.cases[2].image.read_bytes()
    manifest.cases[2].image.write_bytes(content[: len(content) // 2])
    nifti.write_volume(manifest.cases[3].label, Volume(label * 3, AFFINE))
    manifest.cases[4].label.unlink()


@pytest.mark.parametrize("workers", [1, 2])
def test_every_bad_case_is_named_and_does_not_stop_the_others(tmp_path, workers):
    manifest, root = cohort(tmp_path, 6), tmp_path / "store"
    spoil(manifest)
    with pytest.raises(
        ValueError, match=r"(?s)5 of 6 cases refused.*correct or exclude these.*--nostrict"
    ) as caught:
        prepare(manifest, root, workers=workers)
    with pytest.raises(ValueError, match=r"refused cases; .*rejected\.json .*--nostrict"):
        case_store.CaseStore(root)
    rejected = json.loads((root / "rejected.json").read_text())
    assert [r["case_id"] for r in rejected] == ["case_0", "case_1", "case_2", "case_3", "case_4"]
    assert [r["rule"] for r in rejected] == ["G05", "F07", "F03", "L02", "F01"]
    for case, found, bad in zip(
        manifest.cases[:5], rejected, ("label", "image", "image", "label", "label"), strict=True
    ):
        assert found["file"] == str(getattr(case, bad))
        assert found["file"] in found["problem"] and found["problem"] in str(caught.value)
    assert sorted(p.name for p in (root / "cases").iterdir()) == ["case_5"]


def test_the_same_scan_under_two_names_is_refused_also_in_a_later_run(tmp_path):
    manifest, root = cohort(tmp_path, 4), tmp_path / "store"
    hu, label = scan(1)
    again = manifest.cases[3]
    # saved by other software: another axis order and type
    nifti.write_volume(
        again.image,
        Volume(
            hu[::-1].astype(np.float32),
            AFFINE @ np.diag([-1.0, 1, 1, 1]) + 19 * np.outer(AFFINE[:, 0], [0, 0, 0, 1]),
        ),
    )
    nifti.write_volume(
        again.label,
        Volume(
            label[::-1],
            AFFINE @ np.diag([-1.0, 1, 1, 1]) + 19 * np.outer(AFFINE[:, 0], [0, 0, 0, 1]),
        ),
    )
    for _ in range(2):  # the second run finds all cases done
        with pytest.raises(ValueError, match="1 of 4 cases refused"):
            prepare(manifest, root)
        rejected = json.loads((root / "rejected.json").read_text())
        assert [(r["case_id"], r["rule"]) for r in rejected] == [
            ("case_3", "X01")
        ] and "case_1" in rejected[0]["problem"]
    assert prepare(manifest, root, strict=False).case_ids() == ("case_0", "case_1", "case_2")


def test_without_strict_the_good_cases_make_the_store(tmp_path):
    manifest, root = cohort(tmp_path, 6), tmp_path / "store"
    spoil(manifest)
    store = prepare(manifest, root, strict=False)
    assert store.case_ids() == ("case_5",) and store.open("case_5").number == 1
    assert len(json.loads((root / "rejected.json").read_text())) == 5
    prepare(
        dataclasses.replace(manifest, excluded=tuple(f"case_{i}" for i in range(5))), root
    )  # the way out that the messages name
    assert not (root / "rejected.json").exists()


def test_a_cohort_without_a_usable_label_is_refused_with_the_numbers(tmp_path):
    manifest = cohort(tmp_path, 3)
    bare = tuple(dataclasses.replace(case, label=None) for case in manifest.cases)
    manifest = dataclasses.replace(manifest, cases=bare, excluded=("case_1",))
    with pytest.raises(ValueError, match="of 3 listed cases, 2 have no label and 1 are excluded"):
        prepare(manifest, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_with_every_case_refused_there_is_no_store(tmp_path):
    manifest = cohort(tmp_path, 1)
    manifest.cases[0].image.write_bytes(b"")
    with pytest.raises(ValueError, match="every case was refused"):
        prepare(manifest, tmp_path / "store", strict=False)


def test_an_impossible_split_is_refused_before_the_work(tmp_path):
    with pytest.raises(ValueError, match="needs 420 cases, the cohort has 2"):
        prepare(cohort(tmp_path, 2), tmp_path / "store", split_counts=(252, 84, 84))
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("name", "value"), [("target_mm", (1, 1)), ("target_mm", (1, 0, 1)), ("window_hu", (250, -200))]
)
def test_impossible_settings_are_refused_before_the_work(tmp_path, name, value):
    with pytest.raises(ValueError, match=name):
        prepare(cohort(tmp_path, 1), tmp_path / "store", **{name: value})
    assert not (tmp_path / "store").exists()


def test_scans_without_a_label_are_left_out(tmp_path):
    manifest = cohort(tmp_path, 3)
    unlabelled = dataclasses.replace(
        manifest, cases=(dataclasses.replace(manifest.cases[0], label=None), *manifest.cases[1:])
    )
    assert prepare(unlabelled, tmp_path / "store").case_ids() == ("case_1", "case_2")


def test_label_values_of_the_manifest_are_used(tmp_path):
    manifest = cohort(tmp_path, 1)
    _, label = scan(0)
    organs = np.where(label == 1, 7, np.where(label == 2, 9, 4)).astype(np.uint8)
    nifti.write_volume(manifest.cases[0].label, Volume(organs, AFFINE))
    store = prepare(dataclasses.replace(manifest, label_values={7: 1, 9: 2}), tmp_path / "store")
    np.testing.assert_array_equal(store.open("case_0").native_label(), label)


def test_a_label_in_another_axis_order_is_brought_to_the_scans(tmp_path):
    manifest = cohort(tmp_path, 1)
    plain = prepare(manifest, tmp_path / "plain").open("case_0")
    _, label = scan(0)
    upright = geometry.to_ras(Volume(label, AFFINE))
    nifti.write_volume(
        manifest.cases[0].label, Volume(np.ascontiguousarray(upright.array), upright.affine)
    )
    turned = prepare(manifest, tmp_path / "turned").open("case_0")
    np.testing.assert_array_equal(turned.native_label(), label)
    np.testing.assert_array_equal(turned.label, plain.label)


def test_a_real_abdominal_ct(tmp_path):
    folder = os.environ.get("REAL_CT_FOLDER")
    if not folder or not pathlib.Path(folder).is_dir():
        pytest.skip(
            "REAL_CT_FOLDER names no folder with ct.nii.gz and organs.nii.gz (7 = pancreas)"
        )
    ct, organs = pathlib.Path(folder) / "ct.nii.gz", pathlib.Path(folder) / "organs.nii.gz"
    store = prepare(
        CaseManifest("C1", (Case("real", ct, organs),), label_values={7: 1}),
        tmp_path / "store",
        target_mm=(1.5, 1.5, 1.5),
    )
    case = store.open("real")
    inside = 25 + 225 * np.asarray(case.image, np.float32)[np.asarray(case.label) == 1]
    hu, values = (np.asarray(nibabel.load(path).dataobj) for path in (ct, organs))
    assert (
        abs(np.median(inside) - np.median(hu[values == 7])) < 15
    )  # interpolation at the edges apart, the organ kept its HU
    native = case.native_label()
    restored = resampling.restore_labels(np.asarray(case.label), case.native, case.target_mm)
    assert 2 * np.sum(native & restored) / (native.sum() + restored.sum()) > 0.97
    nifti.write_labels_like(tmp_path / "mask.nii.gz", restored, ct)
    written, scan_itself = nifti.read_labels(tmp_path / "mask.nii.gz"), nifti.read_ct(ct)
    assert (
        written.shape == scan_itself.shape
        and written.affine.tobytes() == scan_itself.affine.tobytes()
    )


def test_any_error_of_a_case_refuses_it_alone_and_is_written_as_it_ends(tmp_path, monkeypatch):
    manifest, read, seen = cohort(tmp_path, 5), nifti.read_ct, []

    def failing(path, *arguments):
        if (tmp_path / "store/rejected.json").exists():
            seen.append(
                [r["case_id"] for r in json.loads((tmp_path / "store/rejected.json").read_text())]
            )
        if path.name == "1.nii.gz":
            raise TypeError("unsupported operand")
        return read(path, *arguments)

    monkeypatch.setattr(nifti, "read_ct", failing)
    store = prepare(manifest, tmp_path / "store", strict=False)
    assert (
        set(store.case_ids()) == {"case_0", "case_2", "case_3", "case_4"}
        and seen == [["case_1"]] * 3
    )
    (rejected,) = json.loads((tmp_path / "store/rejected.json").read_text())
    assert (
        rejected["rule"] == "F09"
        and rejected["file"].endswith("1.nii.gz")
        and "TypeError: unsupported operand" in rejected["problem"]
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_the_error_of_a_full_disk_names_the_file_the_space_and_what_stays(tmp_path, workers):
    manifest, root = cohort(tmp_path, 5), tmp_path / "store"
    (root / "cases").mkdir(parents=True)
    (root / "cases" / "case_3").write_text(
        "a file where a folder must be made: no case can be renamed to it"
    )
    with pytest.raises(ValueError, match="cannot be written") as caught:
        prepare(manifest, root, workers=workers)
    text = str(caught.value)
    assert (
        str(root / "cases/case_3") in text
        and "GB are free there" in text
        and "need about" in text
        and "run again" in text
    )
    finished = [path.name for path in sorted((root / "cases").iterdir()) if path.is_dir()]
    assert not (root / "index.json").exists()
    if (
        workers == 1
    ):  # of two, one may still be at work on another case when the other finds the disk full
        assert {"case_0", "case_1"} <= set(finished) and not list(root.rglob(".partial-*"))
    before = {
        path: time
        for path, time in stamps(root).items()
        if path.parent.name in finished and path.parent.name.startswith("case_")
    }
    (root / "cases" / "case_3").unlink()
    assert len(prepare(manifest, root, workers=workers).case_ids()) == 5
    assert (
        before and {path: time for path, time in stamps(root).items() if path in before} == before
    )


def test_the_error_of_a_full_disk_says_what_the_cases_left_need(tmp_path, monkeypatch):
    manifest, root, case_need = cohort(tmp_path, 5), tmp_path / "store", pipeline.budget.case_need
    monkeypatch.setattr(
        pipeline.budget,
        "case_need",
        lambda *given: dataclasses.replace(case_need(*given), disk_bytes=10**9),
    )
    (root / "cases").mkdir(parents=True)
    (root / "cases" / "case_3").write_text("a file where a folder must be made")
    with pytest.raises(ValueError, match="cannot be written") as caught:
        prepare(manifest, root)
    finished = sum(path.is_dir() for path in (root / "cases").iterdir())
    assert f"the remaining cases need about {5 - finished}.00 GB" in str(caught.value)


def test_a_failed_write_does_not_refuse_the_case(tmp_path, monkeypatch):
    def full(path, shape, slabs):
        raise OSError(errno.ENOSPC, "No space left on device")

    manifest = cohort(tmp_path, 3)
    monkeypatch.setattr(case_store, "_save_image", full)
    with pytest.raises(
        ValueError,
        match=r"case_0.image\.npy: cannot be written \(No space left on device\).*"
        "0 finished cases are kept",
    ):
        prepare(manifest, tmp_path / "store", strict=False)
    assert not list((tmp_path / "store/cases").iterdir())


def test_a_label_without_orientation_lies_where_the_manifest_says(tmp_path):
    manifest = cohort(tmp_path, 3)
    without_orientation(manifest.cases[0].label)
    with pytest.raises(ValueError, match=r"0\.nii\.gz: its header gives no orientation"):
        prepare(manifest, tmp_path / "store")
    axes = "".join(nibabel.aff2axcodes(AFFINE))
    told = dataclasses.replace(
        manifest,
        cases=(dataclasses.replace(manifest.cases[0], orientation=axes), *manifest.cases[1:]),
    )
    expected = prepare(cohort(tmp_path / "as it was", 3), tmp_path / "expected")
    for case_id in expected.case_ids():
        one, other = prepare(told, tmp_path / "store").open(case_id), expected.open(case_id)
        np.testing.assert_array_equal(one.label, other.label)
        np.testing.assert_array_equal(one.image, other.image)


def test_a_case_that_an_earlier_release_prepared_by_a_guess_is_refused(tmp_path):
    manifest = cohort(tmp_path, 3)
    prepare(manifest, tmp_path / "store")
    without_orientation(manifest.cases[1].image)
    case_file = tmp_path / "store/cases/case_1/case.json"
    value = json.loads(case_file.read_text())
    value["sources"]["image"] = sources.file_sha256(
        manifest.cases[1].image
    )  # as if it had been prepared from this file
    case_file.write_text(json.dumps(value))
    with pytest.raises(ValueError, match="G01"):
        prepare(manifest, tmp_path / "store")


@pytest.mark.parametrize(
    "edit",
    [(42, "3h", 32767, 32767, 1000), (280, "f", 3e9), (108, "f", float("inf"))],
    ids=["dim", "srow", "offset"],
)
def test_a_wrong_size_in_one_header_does_not_stop_a_cohort(tmp_path, edit):
    manifest, (offset, kind, *values) = cohort(tmp_path, 4), edit
    for path in (manifest.cases[2].image, manifest.cases[2].label):
        raw = bytearray(gzip.decompress(path.read_bytes()))
        struct.pack_into("<" + kind, raw, offset, *values)
        path.write_bytes(gzip.compress(bytes(raw)))
    pipeline.estimate(manifest, tmp_path / "store", target_mm=TARGET_MM)
    store = prepare(manifest, tmp_path / "store", strict=False)
    assert set(store.case_ids()) == {"case_0", "case_1", "case_3"}
