import dataclasses
import json
import resource

import numpy as np
import pytest

from preprocessing import case_store
from preprocessing.case_store import CaseStore
from preprocessing.foreground import LabelBox
from preprocessing.volume import Grid

SETTINGS = {"target_mm": [1.0, 1.5, 2.0], "window_hu": [-200.0, 250.0], "label_values": None}
NATIVE = Grid(
    (6, 5, 4), np.array([[-0.1, 0, 0, 1 / 3], [0, 0.7, 0, 2], [0, 0, 5, 3], [0, 0, 0, 1]])
)


def case_arrays(seed=0):
    rng = np.random.default_rng(seed)
    native = np.zeros(NATIVE.shape, dtype=np.uint8)
    native[1:4, 2:4, 1:3] = rng.integers(1, 3, (3, 2, 2))
    image = rng.uniform(-1, 1, (7, 8, 9)).astype(np.float16)
    return image, rng.integers(0, 3, (7, 8, 9)).astype(np.uint8), native


def write(root, case_id, seed=0, settings=SETTINGS, sources=None, empty=0):
    image, label, native = case_arrays(seed)
    sources = {"image": f"{seed}", "label": f"{seed}"} if sources is None else sources
    case_store.write_case(
        root,
        case_id,
        image=[image[:3], image[3:]],
        label=LabelBox.of(label * (1 - empty)),
        native_label=LabelBox.of(native * (1 - empty)),
        native=NATIVE,
        sources=sources,
        settings=settings,
    )
    return sources


def store_of(root, count=3, site="C2"):
    sources = {f"case_{i}": write(root, f"case_{i}", seed=i) for i in range(count)}
    splits = {"training": ["case_1"], "validation": ["case_2"], "test": ["case_0"]}
    case_store.write_index(
        root, site=site, seed=5, settings=SETTINGS, splits=splits, sources=sources
    )
    return CaseStore(root)


def test_what_is_written_is_read(tmp_path):
    store = store_of(tmp_path)
    assert (store.site, store.seed, store.settings) == ("C2", 5, SETTINGS)
    assert store.case_ids() == ("case_0", "case_1", "case_2") and store.case_ids("validation") == (
        "case_2",
    )
    case = store.open("case_1")
    image, label, native = case_arrays(1)
    assert (case.case_id, case.number, case.target_mm) == ("case_1", 2, (1.0, 1.5, 2.0))
    assert (
        isinstance(case.image, np.memmap)
        and case.image.dtype == np.float16
        and case.image.flags.c_contiguous
    )
    np.testing.assert_array_equal(case.image, image)
    np.testing.assert_array_equal(case.label, label)
    assert [case.runs.voxel(k) for k in range(case.runs.count())] == [
        i for i, v in enumerate(label.ravel()) if v > 0
    ]
    np.testing.assert_array_equal(case.native_label(), native)
    assert case.native.shape == NATIVE.shape
    assert (
        case.native.affine.tobytes() == NATIVE.affine.tobytes()
    )  # through JSON with the same bits


def test_a_scan_without_foreground_keeps_an_empty_native_label(tmp_path):
    write(tmp_path, "a", sources={}, empty=1)
    case_store.write_index(
        tmp_path, site="C1", seed=0, settings=SETTINGS, splits={}, sources={"a": {}}
    )
    case = CaseStore(tmp_path).open("a")
    assert case.runs.count() == 0 and not case.label.any()
    np.testing.assert_array_equal(case.native_label(), np.zeros(NATIVE.shape))


def test_nothing_on_disk_is_pickled_or_says_where_it_came_from(tmp_path):
    store_of(tmp_path)
    for path in tmp_path.rglob("*.json"):
        assert str(tmp_path) not in path.read_text() and ".nii" not in path.read_text()
    for path in tmp_path.rglob("*.np[yz]"):
        np.load(path, allow_pickle=False)


def test_more_cases_than_file_handles_can_be_held(tmp_path):
    store = store_of(tmp_path)
    case, (soft, hard) = store.open("case_0"), resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, hard), hard))
    try:
        cases = [
            dataclasses.replace(case, fingerprint=f"{i}") for i in range(400)
        ]  # as if 400 cases were written, in less time
        assert {c.image.shape + c.label.shape for c in cases} == {(7, 8, 9, 7, 8, 9)}
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_new_version_of_a_case_is_read_and_not_the_map_of_the_old_one(tmp_path):
    np.testing.assert_array_equal(store_of(tmp_path).open("case_0").image, case_arrays(0)[0])
    sources = write(tmp_path, "case_0", seed=6)
    case_store.write_index(
        tmp_path, site="C2", seed=5, settings=SETTINGS, splits={}, sources={"case_0": sources}
    )
    np.testing.assert_array_equal(CaseStore(tmp_path).open("case_0").image, case_arrays(6)[0])


def test_a_folder_without_an_index_is_not_a_store(tmp_path):
    write(tmp_path, "case_0")
    with pytest.raises(ValueError, match=rf"{tmp_path.name}.*index\.json"):
        CaseStore(tmp_path)


@pytest.mark.parametrize("given", ["sites", "sites/C1/cases"])
def test_a_folder_above_or_below_the_sites_folder_is_answered_with_the_right_ones(tmp_path, given):
    for site in ("C1", "C2"):
        (tmp_path / "sites" / site / "cases").mkdir(parents=True)
        (tmp_path / "sites" / site / "cases" / "index.json").write_text("{}")
    with pytest.raises(ValueError, match="give one of the folders with prepared cases: ") as error:
        CaseStore(tmp_path / given / "cases")
    meant = [tmp_path / "sites" / site for site in ("C1", "C2")]
    named = str(error.value).split("prepared cases: ")[1]
    assert named == ", ".join(map(str, meant if given == "sites" else meant[:1]))


def test_unknown_names_are_refused(tmp_path):
    store = store_of(tmp_path)
    with pytest.raises(ValueError, match="'case_9'"):
        store.open("case_9")
    with pytest.raises(ValueError, match=r"'tests'.*training, validation, test"):
        store.case_ids("tests")


@pytest.mark.parametrize("change", ["settings", "sources", "gone", "cut short"])
def test_a_case_that_is_not_the_indexed_one_is_refused(tmp_path, change):
    store = store_of(tmp_path)
    folder = case_store.case_folder(tmp_path, "case_1")
    if change == "settings":
        write(tmp_path, "case_1", seed=1, settings={**SETTINGS, "target_mm": [2.0, 2.0, 2.0]})
    elif change == "sources":
        write(tmp_path, "case_1", seed=8)
    elif change == "gone":
        (folder / "case.json").unlink()
    else:
        (folder / "case.json").write_text('{"case_id"')
    with pytest.raises(ValueError, match=r"case_1.*run the preparation again"):
        store.open("case_1")
    store.open("case_0")


def test_a_kill_while_writing_leaves_the_earlier_case(tmp_path, monkeypatch):
    store = store_of(tmp_path)

    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(case_store, "_save_image", killed)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, "case_1", seed=9)
    monkeypatch.undo()
    np.testing.assert_array_equal(store.open("case_1").image, case_arrays(1)[0])
    assert sorted(p.name for p in (tmp_path / "cases").iterdir()) == ["case_0", "case_1", "case_2"]


def test_an_image_of_another_size_than_its_label_is_refused(tmp_path):
    image, label, native = case_arrays()
    with pytest.raises(ValueError, match=r"case_7.*432 voxels.*504"):
        case_store.write_case(
            tmp_path,
            "case_7",
            image=[image[:6]],
            label=LabelBox.of(label),
            native_label=LabelBox.of(native),
            native=NATIVE,
            sources={},
            settings=SETTINGS,
        )
    assert not list((tmp_path / "cases").iterdir())


def test_label_slabs_without_foreground_are_holes(tmp_path):
    label = np.zeros((64, 64, 64), dtype=np.uint8)
    label[30:33, 10:20, 5:9] = 1
    image = np.zeros(label.shape, dtype=np.float16)
    native = LabelBox.of(case_arrays()[2])
    case_store.write_case(
        tmp_path,
        "a",
        image=[image],
        label=LabelBox.of(label),
        native_label=native,
        native=NATIVE,
        sources={},
        settings=SETTINGS,
    )
    file = tmp_path / "cases/a/label.npy"
    np.testing.assert_array_equal(np.load(file), label)
    if file.stat().st_blocks * 512 > file.stat().st_size:
        pytest.skip("this file system has no holes")
    assert file.stat().st_blocks * 512 < 64**3 / 4


def test_the_same_case_gives_the_same_bytes(tmp_path):
    for root in (tmp_path / "a", tmp_path / "b"):
        write(root, "case_0")
    files = sorted(
        p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file()
    )
    assert len(files) == 5
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_fingerprint_depends_on_sources_and_settings_only():
    one = case_store.fingerprint({"image": "1", "label": "2"}, SETTINGS)
    assert one == case_store.fingerprint(
        {"label": "2", "image": "1"}, json.loads(json.dumps(SETTINGS))
    )
    assert one != case_store.fingerprint({"image": "2", "label": "1"}, SETTINGS)
    assert one != case_store.fingerprint(
        {"image": "1", "label": "2"}, {**SETTINGS, "window_hu": [-200.0, 251.0]}
    )
