"""`predict` as a user starts it: files it does not replace, its records, and unusual names."""

import csv
import dataclasses
import hashlib
import json
import os
import shutil
import unicodedata

import numpy as np
import pytest

from c2fnas import model_folder
from c2fnas.scores.healthy_gate import HealthyGate
from experiments.models import scan_prediction
from preprocessing import nifti
from tests import forked
from tests.c2fnas import tiny
from tests.experiments.study import scan
from tests.preprocessing import dicom_files
from tests.preprocessing.nifti_files import without_orientation


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny.save_model(folder)
    return folder


def run(*flags, cwd=forked.ROOT):
    return forked.run("experiments.predict", "--threads=1", *flags, folder=cwd)


def scans(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        nifti.write_volume(folder / "tmp.nii.gz", scan("C1", number)[0])
        os.rename(
            folder / "tmp.nii.gz",
            os.path.join(
                os.fsencode(folder), name if isinstance(name, bytes) else os.fsencode(name)
            ),
        )


def digests(folder):
    return {
        p: (hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_mtime_ns)
        for p in folder.rglob("*")
        if p.is_file()
    }


def table(path):
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as stream:
        return {os.path.basename(row["scan"]): row for row in csv.DictReader(stream)}


REPLACING = [
    ["--image=scans", "--output=scans"],
    ["--image=scans/a.nii.gz", "--output=./scans/../scans/a.nii.gz"],
    ["--image=scans/a.nii.gz", "--output=link/A.NII.GZ"],
    ["--list=list.txt", "--output=link"],
    ["--image=scans/b.nii", "--output=scans"],  # b.nii.gz would lie among the scans
    ["--list=list.txt", "--output=masks", "--volumes=list.txt"],
    ["--image=scans/a.nii.gz", "--output=mask.nii.gz", "--volumes=hard.nii.gz"],
    ["--image=scans/a.nii.gz", "--output=mask.nii.gz", "--volumes=scans/a.nii.gz/volumes.csv"],
    ["--image=series", "--output=series/mask.nii.gz"],
    [
        "--image=two",
        "--output=masks",
        "--probabilities",
    ],  # p.nii.gz's probabilities would replace the mask of p.tumour.nii.gz
    ["--image=two/p.nii.gz", "--output=two/p.nii.gz"],
    ["--image=alias.nii.gz", "--output=scans/a.nii.gz"],
]


def errors_of(runs, folder):
    """Returns the error of each run, all of them in one process; none gets as far as its model."""
    done = forked.run("tests.experiments.predict_errors", json.dumps(runs), folder=folder)
    errors = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('"')]
    assert len(errors) == len(runs), done.stderr
    return errors


def test_no_output_replaces_an_input_and_the_model_is_not_even_loaded(tmp_path):
    scans(tmp_path / "scans", "a.nii.gz", "c.nii.gz")
    scans(tmp_path / "two", "p.nii.gz", "p.tumour.nii.gz")
    (tmp_path / "scans" / "c.nii.gz").rename(tmp_path / "scans" / "b.nii")
    (tmp_path / "link").symlink_to("scans")
    (tmp_path / "alias.nii.gz").symlink_to("scans/a.nii.gz")
    os.link(tmp_path / "scans" / "a.nii.gz", tmp_path / "hard.nii.gz")
    (tmp_path / "list.txt").write_text("scans/a.nii.gz\n")
    dicom_files.save(tmp_path / "series", dicom_files.slices(scan("C1", 3)[0]))
    before = digests(tmp_path)
    errors = errors_of(REPLACING, tmp_path)
    for flags, error in zip(REPLACING, errors, strict=True):
        said = (
            "would replace it",
            "is the folder of the scans",
            "two outputs would have the same name",
        )
        assert any(words in error for words in said), f"{flags}: {error}"
    assert digests(tmp_path) == before
    done = run("--model=nowhere", *REPLACING[0], cwd=tmp_path)
    assert (
        done.returncode == 1
        and done.stderr.count("error: ") == 1
        and "Traceback" not in done.stderr
    )


def test_a_scan_that_is_named_twice_or_an_output_that_is_not_nifti_is_refused_by_name(tmp_path):
    scans(tmp_path / "scans", "a.nii.gz")
    scans(tmp_path / "other", "a.nii.gz")
    (tmp_path / "link").symlink_to("scans")
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfscans/a.nii.gz\r\nscans/a.nii.gz\r\n")
    twice = [
        ["--list=list.txt", "--output=masks"],
        ["--image=scans/a.nii.gz", "--image=link/a.nii.gz", "--output=masks"],
        ["--image=scans", "--list=list.txt", "--output=masks"],
    ]
    others = [
        ["--image=scans/a.nii.gz", f"--output=mask{suffix}"]
        for suffix in (".mha", ".NRRD", ".dcm", ".gz")
    ]
    same_name = ["--image=scans", "--image=other", "--output=masks"]
    errors = errors_of([*twice, *others, same_name], tmp_path)
    for error in errors[: len(twice)]:
        assert "a.nii.gz: is named more than once" in error
    for (_, output), error in zip(others, errors[len(twice) :], strict=False):
        assert f"{output.removeprefix('--output=')}, but masks are NIfTI" in error
    assert "scans of the same name: scans/a.nii.gz and other/a.nii.gz" in errors[-1]


def test_a_failed_extra_output_costs_no_mask_and_what_is_missing_is_made_again(tmp_path, model):
    folder, masks = tmp_path / "scans", tmp_path / "masks"
    scans(
        folder, "a.nii.gz", "b c.NII.GZ", b"d\xfc.nii.gz", unicodedata.normalize("NFD", "ö.nii.gz")
    )
    (folder / "broken.nii.gz").write_bytes((folder / "a.nii.gz").read_bytes()[:700])
    without_orientation(shutil.copy(folder / "a.nii.gz", folder / "unplaced.nii.gz"))
    (masks / "a.png").mkdir(parents=True)  # a folder where the picture must go
    (masks / "a.png" / "x").write_text("")
    flags = [
        f"--model={model}",
        f"--image={folder}",
        f"--output={masks}",
        "--overlay",
        "--probabilities",
    ]
    before = digests(folder)
    done = run(*flags)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert (
        "2 of 6 scans failed" in done.stderr
        and "1 of 6 scans have a mask but lack another requested output" in done.stderr
    )
    assert (
        "a.png: cannot be written" in done.stderr
        and "unplaced.nii.gz: its header gives no orientation" in done.stderr
    )
    rows = table(masks / "volumes.csv")
    assert len(rows) == 6 and all(
        rows[name]["pancreas_ml"]
        for name in rows
        if name not in ("broken.nii.gz", "unplaced.nii.gz")
    )
    assert (
        "a.png: cannot be written" in rows["a.nii.gz"]["note"]
        and rows["a.nii.gz"]["mask"]
        and not rows["broken.nii.gz"]["mask"]
    )
    made = {os.fsencode(path.name) for path in masks.glob("*.nii.gz")}
    assert {
        b"a.nii.gz",
        b"b c.nii.gz",
        b"d\xfc.nii.gz",
        "ö.nii.gz".encode(),
        b"a.tumour.nii.gz",
    } <= made
    assert digests(folder) == before

    shutil.rmtree(masks / "a.png")
    (folder / "broken.nii.gz").unlink()
    os.unlink(masks / "b c.pancreas.nii.gz")
    lines = (masks / "volumes.csv").read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if b"\xfc" not in line]  # its row was lost, its files were not
    (masks / "volumes.csv").write_bytes(
        b"".join([*kept, b"elsewhere/old.nii.gz,elsewhere/m.nii.gz,1.5,0,1,0,2.0,by hand\n"])
    )
    stamps = digests(masks)
    done = run(*flags, "--skip_existing", "--orientation=RAS")
    assert done.returncode == 0 and "2 of 5 scans already have all their outputs" in done.stderr, (
        done.stderr
    )
    again = table(masks / "volumes.csv")
    assert (
        again["old.nii.gz"]["note"] == "by hand"
        and len(again) == 7
        and again["a.nii.gz"]["note"] != rows["a.nii.gz"]["note"]
    )
    lost = next(name for name in rows if "\udcfc" in name)
    unknown = {key: rows[lost][key] for key in ("seconds", "tumour_score", "gate")}
    assert (
        again[lost] | unknown == rows[lost] and again[lost]["tumour_score"] == ""
    )  # made from the mask
    assert (
        again["unplaced.nii.gz"]["pancreas_ml"]
        and (masks / "a.png").is_file()
        and (masks / "b c.pancreas.nii.gz").exists()
    )
    now = digests(masks)
    untouched = [
        path for path in stamps if os.fsencode(path.name).startswith((b"d\xfc", "ö".encode()))
    ]
    assert len(untouched) == 8 and all(now[path] == stamps[path] for path in untouched)


def test_a_series_in_the_current_folder_names_its_mask_after_it(tmp_path, model):
    series = tmp_path / "patient 7"
    dicom_files.save(series, dicom_files.slices(scan("C1", 3)[0]))
    before = digests(series)
    done = run(f"--model={model}", "--image=.", "--output=../masks", cwd=series)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "masks" / "patient 7.nii.gz").exists() and digests(series) == before


def test_lists_in_other_encodings_give_their_scans_or_one_clear_error(tmp_path):
    scans(tmp_path, "Müller.nii.gz", b"d\xfc.nii.gz")
    for encoding in ("utf-8-sig", "utf-16", "latin-1"):
        (tmp_path / encoding).write_text("# scans\nMüller.nii.gz\r\n", encoding=encoding)
    (tmp_path / "bytes").write_bytes(b"d\xfc.nii.gz\n")  # what `ls` writes
    runs = [
        [f"--list={name}", "--output=masks"] for name in ("utf-8-sig", "utf-16", "bytes", "latin-1")
    ]
    errors = errors_of(runs, tmp_path)
    assert all("nowhere: no such folder" in error for error in errors[:3]), (
        errors
    )  # the model's: every scan was found before
    assert "latin-1: line 2 is not UTF-8, perhaps Latin-1" in errors[3]


@pytest.mark.parametrize("extra", ["probabilities", "overlay"])
def test_whatever_an_extra_output_raises_the_mask_counts(tmp_path, monkeypatch, extra):
    scans(tmp_path, "a.nii.gz")

    def broken(*arguments, **keywords):
        raise TypeError("a programming error")

    monkeypatch.setattr(scan_prediction, "_on_native_grid", broken)
    monkeypatch.setattr(scan_prediction.figures, "overlay", broken)
    settings = scan_prediction.PredictionSettings.of_plan(tiny.PLAN)
    found = scan_prediction.predict_scan(
        tmp_path / "a.nii.gz",
        tmp_path / "m.nii.gz",
        lambda patches: np.concatenate([0 * patches, 4 * patches, 8 * patches - 2.4], axis=-1),
        settings,
        probabilities=extra == "probabilities",
        overlay=tmp_path / "m.png" if extra == "overlay" else None,
    )
    assert (tmp_path / "m.nii.gz").exists() and found.volumes_ml["pancreas"] > 0
    assert (
        len(found.failed) == (2 if extra == "probabilities" else 1)
        and "TypeError: a programming error" in found.failed[0]
    )
    assert scan_prediction.describe_mask(tmp_path / "m.nii.gz").volumes_ml == found.volumes_ml


def test_a_folders_gate_is_applied_unless_told_not_to_and_one_that_is_not_there_cannot_be(
    tmp_path, model
):
    """The tiny network is untrained: a gate above every score stops whatever it marks."""
    gated = model_folder.load(model)
    gate = HealthyGate(threshold=1000.0, patients=6).to_json()
    model_folder.save(tmp_path / "gated", dataclasses.replace(gated, gate=gate))
    scans(tmp_path / "scans", "a.nii.gz")
    image = f"--image={tmp_path / 'scans'}"
    for name, flags in (("plain", ["--nogate"]), ("gate", [])):
        done = run(
            f"--model={tmp_path / 'gated'}",
            image,
            f"--output={tmp_path / name}",
            "--accept_small_view",
            *flags,
        )
        assert done.returncode == 0, done.stderr
    plain, gate = (table(tmp_path / name / "volumes.csv")["a.nii.gz"] for name in ("plain", "gate"))
    assert plain["tumour_score"] == gate["tumour_score"]
    marked = float(plain["tumour_score"]) > 0
    assert (
        plain["gate"] == ""
        and gate["gate"] == ("stopped" if marked else "")
        and float(gate["tumour_ml"]) == 0.0
    )
    for name, flag in (("plan", ""), ("overlap", "--overlap=0"), ("flips", "--flips=x")):
        done = run(
            f"--model={tmp_path / 'gated'}",
            image,
            f"--output={tmp_path / name}",
            "--accept_small_view",
            *([flag] if flag else []),
        )
        assert done.returncode == 0, done.stderr
        assert (f"the healthy gate was fitted without --{name}" in done.stderr) == bool(flag)
    refused = run(f"--model={model}", image, f"--output={tmp_path / 'none'}", "--gate")
    assert refused.returncode != 0 and "holds no healthy gate" in refused.stderr
    model_folder.save(
        tmp_path / "later",
        dataclasses.replace(
            gated, gate={**HealthyGate(threshold=1.0, patients=6).to_json(), "version": 9}
        ),
    )
    refused = run(f"--model={tmp_path / 'later'}", image, f"--output={tmp_path / 'none'}")
    assert refused.returncode != 0 and "use --nogate" in refused.stderr
