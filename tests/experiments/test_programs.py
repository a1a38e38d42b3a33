"""The programs as a user starts them: files, processes, TLS; killed, mixed and given wrong input."""

import csv
import pathlib
import re
import shutil
import signal
import sys
import zipfile

import numpy as np
import pytest

from c2fnas import named_weights
from experiments.results import table1_values
from experiments.run.processes import ProgramFailed
from preprocessing import nifti
from runkit import private
from tests import forked
from tests.experiments import programs
from tests.experiments.study import CASES, Study, scan
from tests.preprocessing import dicom_files

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    made = Study(tmp_path_factory.mktemp("study"))
    made.prepare()
    made.train_baselines()
    return made


@pytest.fixture(scope="module")
def finished(study):
    """The store of an undisturbed run; the sites' folders are kept as they were before it."""
    shutil.copytree(study.folder / "sites", study.folder / "sites before")
    store = study.folder / "store"
    with study.group(fresh=("server", "join C1")) as group:
        server, port = study.serve(group, store)
        sites = [study.join(group, site, port) for site in CASES]
        group.wait([*sites, server], "federation")
    return store


def _restore_sites(study):
    shutil.rmtree(study.folder / "sites")
    shutil.copytree(study.folder / "sites before", study.folder / "sites")


def test_every_model_is_scored_at_every_site_and_makes_the_table(finished):
    rows = table1_values.read_rows(finished / "rows.jsonl")
    models = {
        "C1_baseline",
        "C2_baseline",
        "C1_FL_local",
        "C2_FL_local",
        "FL_global",
        "FL_best_global",
    }
    assert {(row["model"], row["site"], row["grid"]) for row in rows} == {
        (model, site, grid) for model in models for site in CASES for grid in ("training", "native")
    }
    table = table1_values.table(rows)
    assert set(table) == {*models, "Average"}
    mean = np.mean([table[model].percent["C1_pancreas"] for model in models - {"FL_best_global"}])
    assert table["Average"].percent["C1_pancreas"] == pytest.approx(mean)


def test_nothing_that_was_sent_or_kept_names_a_case_or_a_path(study, finished):
    words = [
        str(study.folder),
        "nii.gz",
        *(f"{site}_{number}" for site in CASES for number in range(CASES[site])),
    ]
    for path in finished.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not [word for word in words if word.encode() in content], path


def test_site_keeps_its_picture_and_the_best_of_its_own_models(study, finished):
    for site in CASES:
        assert (study.site_folder(site) / "figures" / "comparison.png").read_bytes()[
            :4
        ] == b"\x89PNG"
        best, _ = named_weights.load(study.site_folder(site) / "federated" / "best.safetensors")
        lent, _ = named_weights.load(finished / "models" / f"{site}_FL_local.safetensors")
        assert all(np.array_equal(best[name], lent[name]) for name in best)


def test_what_the_programs_keep_is_private_to_their_account(study, finished):
    for folder in (study.kits, finished, *(study.site_folder(site) for site in CASES)):
        assert list(private.open_to_others(folder)) == []


def test_a_site_and_the_server_killed_in_mid_run_end_with_the_same_bits(study, finished):
    _restore_sites(study)
    store = study.folder / "store killed"
    checkpoint = study.site_folder("C2") / "federated" / "checkpoint" / "checkpoint.safetensors"
    with study.group() as group:
        server, port = study.serve(group, store)
        one, other = (study.join(group, site, port) for site in CASES)
        group.wait_for(
            checkpoint.exists, other, "first epoch", timeout_s=300
        )  # C2 is inside round 1
        for program in (other, server):
            program.process.send_signal(signal.SIGKILL)
            program.process.wait()
        server, again = study.serve(group, store, port=port)
        assert again == port
        group.wait([one, study.join(group, "C2", port), server], "federation")
    for name in (
        "global/round_001.safetensors",
        "global/round_002.safetensors",
        "models/C2_FL_local.safetensors",
    ):
        expected, _ = named_weights.load(finished / name)
        found, _ = named_weights.load(store / name)
        assert all(np.array_equal(expected[key], found[key]) for key in expected), name
    assert table1_values.table(
        table1_values.read_rows(store / "rows.jsonl")
    ) == table1_values.table(table1_values.read_rows(finished / "rows.jsonl"))


def test_a_site_that_is_bad_on_purpose_sends_what_its_fault_says(study, finished):
    """The experiment's program in place of join.

    C1 trains on other patients' labels; C2 is stuck at the model of round 0.
    """
    _restore_sites(study)
    store, module = study.folder / "store bad", "experiments.faulty_site"
    with study.group() as group:
        server, port = study.serve(group, store, max_change_ratio=0)
        sites = [
            study.join(group, site, port, module=module, lend=False, fault=fault)
            for site, fault in (("C1", "labels_shuffled"), ("C2", "stuck"))
        ]
        group.wait([*sites, server], "federation")
    assert "event=faulty_site EXPERIMENT: this site sends the first" in sites[1].log.read_text()
    initial, _ = named_weights.load(study.initial)
    first, _ = named_weights.load(store / "global" / "round_001.safetensors")
    sound, _ = named_weights.load(finished / "global" / "round_001.safetensors")
    (kept,) = store.glob("**/round_002/*C2*.safetensors")
    update, _ = named_weights.load(kept)
    assert all(np.array_equal(update[key], initial[key]) for key in initial)
    # C1 counts 3 of 7, C2's part of the mean is the initial model, unlike in the sound run
    assert any(not np.array_equal(first[key], sound[key]) for key in first)
    (kept,) = store.glob("**/round_002/*C1*.safetensors")
    update, _ = named_weights.load(kept)
    assert any(not np.array_equal(update[key], first[key]) for key in first)


def test_a_baseline_killed_in_mid_round_ends_with_the_same_bits(study):
    folder = _copy_of_cases(study, "C2")
    arguments = study.flags(site_folder=folder, initial_model=study.initial, threads=1)
    with study.group() as group:
        program = group.start("killed", "experiments.train_local", arguments)
        group.wait_for(
            (folder / "baseline" / "checkpoint" / "checkpoint.safetensors").exists,
            program,
            "first epoch",
            timeout_s=300,
        )
        program.process.send_signal(signal.SIGKILL)
        program.process.wait()
        group.wait([group.start("again", "experiments.train_local", arguments)], "baseline")
    for name in ("checkpoint/checkpoint.safetensors", "best.safetensors"):
        expected, _ = named_weights.load(study.site_folder("C2", "baseline") / name)
        found, _ = named_weights.load(folder / "baseline" / name)
        assert all(np.array_equal(expected[key], found[key]) for key in expected), name


def test_one_site_of_each_stack_federate(study, finished):
    other = _other_stack()
    _restore_sites(study)
    store = study.folder / "store mixed"
    with study.group() as group:
        server, port = study.serve(group, store)
        sites = [study.join(group, "C1", port, python=other), study.join(group, "C2", port)]
        group.wait([*sites, server], "federation")
    expected, _ = named_weights.load(finished / "global" / "round_001.safetensors")
    found, _ = named_weights.load(store / "global" / "round_001.safetensors")
    # The same patches and noise reach both stacks; their kernels round differently, and Adam's
    # first steps are the size of the rate whatever the gradient, so single weights may differ by a
    # few of them.
    differences = np.concatenate(
        [np.abs(expected[name] - found[name]).ravel() for name in expected]
    )
    assert np.median(differences) < 1e-3 and differences.max() < 0.2
    assert (store / "global" / "round_002.safetensors").exists() and len(
        table1_values.read_rows(store / "rows.jsonl")
    ) == 24


def _other_stack() -> str:
    """Returns the Python of an environment of the other stack, as `make` names them, or skips."""
    addons = sys.version_info < (3, 12)
    for python in sorted((ROOT / ".venv").glob("py3.*/bin/python")):
        minor = int(python.parts[-3].split(".")[1])
        if (minor >= 12) == addons and (python.parents[1] / ".ready").exists():
            return str(python)
    pytest.skip(
        f"no environment of the other stack below {ROOT / '.venv'}: make one with PYTHON=python3.{12 if addons else 11} make install"
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 4}, "training.batch_size: server 2, site 4"),
        ({"filters": 8}, "genotype.filters: server 4, site 8"),
    ],
)
def test_a_site_with_another_plan_is_refused_with_what_differs(study, changes, words):
    with study.group() as group:
        _, port = study.serve(group, study.folder / f"store {words[:8]}")
        site = study.join(
            group, "C1", port, lend=False, **{"site_folder": _copy_of_cases(study, "C1"), **changes}
        )
        with pytest.raises(ProgramFailed, match=words):
            group.wait([site], "joining")


def _copy_of_cases(study, site):
    """Returns a site's folder with nothing but its prepared cases."""
    target = study.folder / "other" / site
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(study.folder / "sites" / site / "cases", target / "cases")
    return target


def test_an_evaluation_without_training_gives_the_rows_of_the_federation(study, finished, tmp_path):
    """Two models that were trained apart, at both sites; one of them under a name of its own."""
    store, sites = study.folder / "store evaluation", {}
    models = {f"{site}_baseline": study.site_folder(site, "baseline") / "model" for site in CASES}
    given = ",".join(
        str(path) if name == "C1_baseline" else f"FL_global:{path}" for name, path in models.items()
    )
    with study.group() as group:
        flags = {"num_rounds": 0, "models": given, "initial_model": ""}
        server, port = study.serve(group, store, **flags)
        for site in CASES:
            sites[site] = _copy_of_cases(study, site)
        joined = [
            study.join(group, site, port, lend=False, num_rounds=0, site_folder=folder)
            for site, folder in sites.items()
        ]
        group.wait([*joined, server], "evaluation")
        report = group.start(
            "report",
            "experiments.evaluation_report",
            [f"--store={store}", f"--output={tmp_path / 'report'}"],
        )
        audit = group.start(
            "audit",
            "experiments.audit",
            [f"--store={store}", f"--authority={study.kits}/C1/ca.pem"],
        )
        group.wait([report, audit], "report")
    names = {"C1_baseline": "C1_baseline", "FL_global": "C2_baseline"}
    ours = table1_values.read_rows(store / "rows.jsonl")
    theirs = table1_values.read_rows(finished / "rows.jsonl")
    assert {row["model"] for row in ours} == set(names)
    assert _by_case([{**row, "model": names[row["model"]]} for row in ours]) == _by_case(
        [row for row in theirs if row["model"] in models]
    )
    for folder in sites.values():  # nothing of a training, and the pictures stay here
        assert not (folder / "federated").exists() or not list((folder / "federated").iterdir())
        assert (folder / "figures" / "evaluation.png").exists()
    logs = study.folder / "logs"
    assert "given models that match the log: C1_baseline, FL_global" in _log(logs, "audit")
    assert "2 given models, sites C1, C2" in _log(logs, "server")
    page = (tmp_path / "report" / "evaluation.html").read_text(encoding="utf-8")
    assert "Evaluation of 2 models at 2 sites" in page and str(study.folder) not in page


def _by_case(rows):
    return sorted(rows, key=lambda row: (row["model"], row["site"], row["grid"], row["case"]))


def _log(folder, name):
    return (folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")


def test_a_wrong_credential_and_a_port_in_use_are_named(study):
    kit = study.folder / "forged"
    shutil.copytree(study.kits / "C1", kit, dirs_exist_ok=True)
    (kit / "credential").write_text("0" * 43 + "\n")
    with study.group() as group:
        _, port = study.serve(group, study.folder / "store forged")
        site = study.join(
            group, "C1", port, lend=False, kit=kit, site_folder=_copy_of_cases(study, "C1")
        )
        with pytest.raises(ProgramFailed, match=r"error: .*credential"):
            group.wait([site], "joining")
        with pytest.raises(ProgramFailed, match=f"port {port} .*in use"):
            study.serve(group, study.folder / "store second", port=port)


def test_a_server_whose_flags_are_not_the_models_says_what_differs(study):
    with (
        study.group() as group,
        pytest.raises(ProgramFailed, match=r"schedule\.num_rounds: the model has 2, the flags 3"),
    ):
        study.serve(group, study.folder / "store other rounds", num_rounds=3)


def test_scans_of_a_folder_are_segmented_and_a_broken_one_stops_no_other(study, tmp_path):
    model = study.site_folder("C2") / "baseline" / "model"
    assert "validation cases of C2" in (model / "model_card.md").read_text()
    scans, masks = tmp_path / "scans", tmp_path / "masks"
    scans.mkdir()
    image = study.folder / "scans" / "C2" / "image0.nii.gz"
    shutil.copy(image, scans / "whole.nii.gz")
    (scans / "broken.nii.gz").write_bytes(image.read_bytes()[:500])
    dicom_files.save(scans / "series", dicom_files.slices(nifti.read_ct(image)))
    flags = [
        f"--model={model}",
        f"--image={scans}",
        f"--output={masks}",
        "--threads=1",
        "--overlay",
        "--overlap=0.5",
    ]
    done = programs.fresh("predict", *flags)
    assert (
        done.returncode == 1
        and "broken.nii.gz" in done.stderr
        and "1 of 3 scans failed" in done.stderr
    ), done.stderr
    mask, ct = nifti.read_labels(masks / "whole.nii.gz"), nifti.read_ct(image)
    assert mask.shape == ct.shape and mask.affine.tobytes() == ct.affine.tobytes()
    assert (
        (masks / "whole.png").exists()
        and (masks / "series.nii.gz").exists()
        and not (masks / "broken.nii.gz").exists()
    )
    with open(masks / "volumes.csv", newline="") as stream:
        rows = {pathlib.Path(row["scan"]).name: row for row in csv.DictReader(stream)}
    voxel_ml = 2.5 * 2.5 * 5 / 1000
    assert float(rows["whole.nii.gz"]["pancreas_ml"]) == pytest.approx(
        np.count_nonzero(mask.array == 1) * voxel_ml, abs=1e-3
    )
    assert rows["broken.nii.gz"]["note"].startswith("failed: ") and rows["series"]["pancreas_ml"]

    labels = tmp_path / "labels"
    labels.mkdir()
    shutil.copy(study.folder / "scans" / "C2" / "label0.nii.gz", labels / "whole.nii.gz")
    done = programs.fresh(
        "evaluate",
        f"--prediction={masks}",
        f"--truth={labels}",
        f"--output={tmp_path / 'scores'}",
    )
    assert done.returncode == 1 and "holds no label of this name" in done.stderr, done.stderr
    assert "| dice | pancreas |" in (tmp_path / "scores" / "summary.md").read_text()
    assert (tmp_path / "scores" / "cases.csv").read_text().count("\n") == 2


def test_a_series_is_chosen_among_several_of_a_zip(study, tmp_path):
    image = nifti.read_ct(study.folder / "scans" / "C2" / "image0.nii.gz")
    with zipfile.ZipFile(tmp_path / "patient.zip", "w") as archive:
        for number, uid in enumerate(("1.2.3", "1.2.4"), start=1):
            made = dicom_files.slices(image, series=uid)
            for ds in made:
                ds.SeriesNumber, ds.SeriesDescription = number, "portal venous"
            dicom_files.save(tmp_path / uid, made)
            for path in (tmp_path / uid).iterdir():
                archive.write(path, f"{uid}/{path.name}")
    flags = [
        f"--model={study.site_folder('C2') / 'baseline' / 'model'}", f"--image={tmp_path / 'patient.zip'}", f"--output={tmp_path / 'm'}",
        "--threads=1", "--overlap=0.5",
    ]  # fmt: skip
    done = forked.run("experiments.predict", *flags)
    assert done.returncode == 1 and re.search(
        r"1\.2\.4 \(number 2, 'portal venous', \d+ slices\).*--series", done.stderr
    ), done.stderr
    done = forked.run("experiments.predict", *flags, "--series=2")
    assert (
        done.returncode == 0
        and nifti.read_labels(tmp_path / "m" / "patient.nii.gz").shape == image.shape
    ), done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["experiments.predict", "--image=none.nii.gz", "--output=m.nii.gz", "--model=none"],
            "none.nii.gz: no such file or folder",
        ),
        (["experiments.synthesize", "--output=x", "extra"], "unexpected argument 'extra'"),
    ],
)
def test_wrong_input_is_one_clear_line_and_an_exit_code(tmp_path, arguments, words):
    done = forked.run(*arguments, folder=tmp_path)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr

    assert re.search(words, done.stdout + done.stderr), done.stderr
    assert not list(tmp_path.rglob("*.safetensors")) and not list(tmp_path.rglob("*.nii.gz"))


def test_a_broken_scan_is_named_and_stops_no_other(study, tmp_path):
    folder = tmp_path / "scans"
    shutil.copytree(study.folder / "scans" / "C1", folder)
    whole = (folder / "image3.nii.gz").read_bytes()
    (folder / "image3.nii.gz").write_bytes(whole[: len(whole) // 2])
    _ct, mask = scan("C1", 1)
    nifti.write_volume(folder / "label1.nii.gz", type(mask)(mask.array[:-1], mask.affine))
    flags = study.flags(
        manifest=folder / "manifest.json", site_folder=tmp_path / "site", split="1,1,1"
    )
    done = forked.run("experiments.prepare", *flags)
    assert (
        done.returncode != 0
        and "image3.nii.gz" in done.stderr
        and "label1.nii.gz" in done.stderr
        and "Traceback" not in done.stderr
    )
    done = forked.run("experiments.prepare", *flags, "--nostrict", "--workers=1")
    assert done.returncode == 0 and "1 training, 1 validation, 1 test" in done.stdout
