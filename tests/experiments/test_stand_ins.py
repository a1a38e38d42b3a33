"""From downloaded archives to prepared sites and Table 1, on tiny synthetic copies.

The copies have the same layout as the archives.
"""

import json
import os

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="DICOM needs pydicom: pip install -e '.[dicom]'")

from experiments.studies import study_file, study_results  # noqa: E402
from preprocessing import nifti, splits  # noqa: E402
from preprocessing.case_store import CaseStore  # noqa: E402
from preprocessing.volume import Volume  # noqa: E402
from runkit import atomic  # noqa: E402
from tests.experiments import programs  # noqa: E402
from tests.experiments.study import FLAGS as TINY_FLAGS  # noqa: E402
from tests.experiments.study import GENOTYPE, scan  # noqa: E402
from tests.preprocessing.dicom_files import save, slices  # noqa: E402
from tests.preprocessing.layouts.test_pancreas_ct import AFFINE, CT, HEALTHY  # noqa: E402

LISTS = study_file._FLAGFILES.parent / "splits"
# one or more of each split of the committed lists, by what the lists say
NIH = {split: atomic.read_json(LISTS / "nih_pancreas_ct.json")[split] for split in splits.SPLITS}
MSD = {split: atomic.read_json(LISTS / "msd_task07.json")[split] for split in splits.SPLITS}


@pytest.mark.parametrize(("lists", "counts"), [(NIH, (48, 16, 16)), (MSD, (165, 58, 58))])
def test_a_committed_list_has_the_designs_counts_and_every_case_once(lists, counts):
    assert tuple(len(lists[split]) for split in splits.SPLITS) == counts
    everyone = [case_id for split in splits.SPLITS for case_id in lists[split]]
    assert len(set(everyone)) == sum(counts)
    # drawn by the product's own rule with seed 1, so nobody chose them
    assert {name: tuple(ids) for name, ids in lists.items()} == splits.split_cases(
        everyone, seed=1, counts=counts
    )
    assert not {"PANCREAS_0025", "PANCREAS_0070"} & set(everyone)


def nih_archive(folder):
    """Pancreas-CT: DICOM trees, labels with wrong headers and turned axes, repeated cases."""
    numbers = [
        int(case_id[-4:])
        for split, count in zip(splits.SPLITS, (2, 1, 1), strict=True)
        for case_id in NIH[split][:count]
    ]
    for shift, number in enumerate(
        [*numbers, 25, 70]
    ):  # every patient lies a little further to the side
        healthy = np.roll(HEALTHY, shift, axis=0)
        series = slices(Volume(np.roll(CT.array, shift, axis=0), AFFINE), series=f"1.2.{number}")
        save(
            folder
            / f"Pancreas-CT/PANCREAS_{number:04d}/11-24-2015-PANCREAS{number:04d}-59677/Pancreas-18957",
            series,
        )
        label = healthy[:, ::-1] if number % 2 else healthy[::-1]
        path = folder / f"TCIA_pancreas_labels-02-05-2017/label{number:04d}.nii.gz"
        nifti.write_volume(path, Volume(np.ascontiguousarray(label), np.eye(4)))
    return [f"PANCREAS_{number:04d}" for number in numbers]


def msd_archive(folder):
    """Task07_Pancreas: ./ in paths, test scans as plain strings, macOS's ._ files beside images."""
    ids = [
        case_id
        for split, count in zip(splits.SPLITS, (2, 1, 1), strict=True)
        for case_id in MSD[split][:count]
    ]
    training = []
    for number, case_id in enumerate(ids):
        for kind, volume in zip(("imagesTr", "labelsTr"), scan("C2", number), strict=True):
            nifti.write_volume(folder / kind / f"{case_id}.nii.gz", volume)
        atomic.write_bytes(folder / "imagesTr" / f"._{case_id}.nii.gz", b"\x00\x05\x16\x07")
        training.append(
            {"image": f"./imagesTr/{case_id}.nii.gz", "label": f"./labelsTr/{case_id}.nii.gz"}
        )
        training.append(
            {"image": f"./imagesTr/._{case_id}.nii.gz", "label": f"./labelsTr/._{case_id}.nii.gz"}
        )
    atomic.write_json(
        folder / "dataset.json",
        {"name": "PANCREAS", "labels": {"0": "background", "1": "pancreas", "2": "cancer"}, "training": training,
         "test": ["./imagesTs/pancreas_002.nii.gz"], "numTraining": 281, "numTest": 139, "modality": {"0": "CT"}},
    )  # fmt: skip
    return ids


def run(program, *flags):
    done = programs.run(program, *flags)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def downloads(tmp_path_factory):
    folder = tmp_path_factory.mktemp("downloads")
    nih, msd = nih_archive(folder), msd_archive(folder / "Task07_Pancreas")
    run("list_cases", "--layout=pancreas_ct", "--site=C1", f"--images={folder / 'Pancreas-CT'}",
        f"--labels={folder / 'TCIA_pancreas_labels-02-05-2017'}", f"--output={folder / 'C1' / 'manifest.json'}")  # fmt: skip
    return folder, {"C1": nih, "C2": msd}


def test_archives_become_sites_with_the_committed_splits(downloads, tmp_path):
    folder, ids = downloads
    study = study_file.read(LISTS.parent / "studies" / "stand_ins.json", folder)
    for name, site in study.points[0].sites.items():
        arguments = [
            f"--manifest={study.data / site['manifest']}",
            f"--split_list={study.home / site['split_list']}",
            f"--site={name}",
        ]
        run(
            "prepare",
            *arguments,
            f"--site_folder={tmp_path / name}",
            "--spacing_mm=3,3,3",
            "--workers=1",
        )
        store = CaseStore(tmp_path / name / "cases")
        assert store.site == name and set(store.case_ids()) == set(ids[name])
        lists = NIH if name == "C1" else MSD
        assert {split: set(store.case_ids(split)) for split in splits.SPLITS} == {
            s: set(lists[s]) & set(ids[name]) for s in splits.SPLITS
        }
        values = {
            int(v) for case_id in store.case_ids() for v in np.unique(store.open(case_id).label)
        }
        assert values == ({0, 1} if name == "C1" else {0, 1, 2})


@pytest.mark.skipif(
    "STAND_INS_TO_TABLE" not in os.environ,
    reason="two minutes of programs: set STAND_INS_TO_TABLE=1 to walk on to Table 1",
)
def test_the_walk_ends_at_table_1(downloads, tmp_path):
    folder, _ = downloads
    atomic.write_json(tmp_path / "genotype.json", GENOTYPE)
    flags = {
        **TINY_FLAGS,
        "genotype": tmp_path / "genotype.json",
        "num_rounds": 1,
        "local_epochs": 1,
    }
    atomic.write_text(
        tmp_path / "tiny.flags",
        "".join(f"--{name}={value}\n" for name, value in flags.items() if name != "seed"),
    )
    study = json.loads((LISTS.parent / "studies" / "stand_ins.json").read_text())
    for site in study["sites"].values():
        site["split_list"] = str(LISTS / os.path.basename(site["split_list"]))
    atomic.write_json(tmp_path / "study.json", {**study, "profile": "tiny.flags"})
    run("study", f"--study={tmp_path / 'study.json'}", f"--data={folder}", f"--runs={tmp_path}")
    content = study_results.read(tmp_path / "stand_ins")
    assert all(run["state"] == "finished" for run in content["runs"])
    assert {"FL_global", "pooled", "FL_global_no_vae", "Average"} <= set(content["table"])
    run("verify", f"--run={tmp_path / 'stand_ins'}")
