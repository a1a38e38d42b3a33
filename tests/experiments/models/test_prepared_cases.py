"""Prepared cases that do not match the plan: every difference is named.

This holds wherever cases are trained on or scored.
"""

import json
import pathlib
import re

import numpy as np
import pytest

from experiments.configuration import ExperimentConfig
from experiments.models import prepared_cases
from federated.security import provisioning
from preprocessing import case_store
from preprocessing.foreground import LabelBox
from preprocessing.volume import Grid
from runkit import atomic
from tests import forked

ROOT = pathlib.Path(__file__).parents[3]
OTHER = {"target_mm": [2.5, 2.5, 5.0], "window_hu": [-1000.0, 1000.0], "label_values": None}
SAME = {"target_mm": [3.0, 3.0, 3.0], "window_hu": [-200.0, 250.0], "label_values": {"7": 1}}


def make_store(root, settings, site="C1", cases=5):
    names = [f"case{number}" for number in range(1, cases + 1)]
    label = LabelBox.of(np.ones((4, 4, 4), np.uint8))
    for name in names:
        case_store.write_case(
            root, name, image=[np.zeros((4, 4, 4), np.float16)], label=label, native_label=label, native=Grid((4, 4, 4), np.eye(4)),
            sources={"image": name}, settings=settings,
        )  # fmt: skip
    splits = {"training": names[:-2], "validation": names[-2:-1], "test": names[-1:]}
    sources = {name: {"image": name} for name in names}
    case_store.write_index(
        root, site=site, seed=5, settings=settings, splits=splits, sources=sources
    )
    return root


def change_index(root, change):
    index = atomic.read_json(root / "index.json")
    change(index)
    atomic.write_json(root / "index.json", index)


def config(**changes):
    values = {
        "profile": "tiny", "seed": 5, "genotype": "c2fnas", "filters": 4, "vae": "none", "latent_size": 4,
        "classifier_bias": "zero", "class_prior": (0.9, 0.08, 0.02), "spacing_mm": (3.0, 3.0, 3.0),
        "window_hu": (-200.0, 250.0), "patch_size": (16, 16, 8), "patches_per_case": 1, "foreground_fraction": 0.5,
        "batch_size": 2, "learning_rate": 0.01, "final_learning_rate": 0.001, "kl": "voxels", "num_rounds": 5,
        "local_epochs": 1, "inference_window": (16, 16, 8), "inference_overlap": 0.25, "inference_blending": "constant",
    }  # fmt: skip
    return ExperimentConfig(**{**values, **changes})


def found(root, planned=None):
    return prepared_cases.differences(case_store.record_of(root), planned)


def test_cases_of_the_plan_are_opened_with_whatever_label_values_the_site_has(tmp_path):
    root = make_store(tmp_path, SAME)
    assert found(root, config()) == [] and prepared_cases.open_store(root, config()).site == "C1"


def test_each_difference_is_named_with_both_values_and_the_remedy(tmp_path):
    root = make_store(tmp_path, OTHER)
    with pytest.raises(ValueError) as error:
        prepared_cases.open_store(root, config())
    for words in (
        str(root),
        "spacing_mm: the prepared cases have 2.5 x 2.5 x 5, the plan 3 x 3 x 3",
        "window_hu: the prepared cases have -1000 to 1000, the plan -200 to 250",
        "prepare them again",
        "flag file that they were prepared with",
    ):
        assert words in str(error.value)
    assert found(root) == []  # without a plan there is nothing to differ from
    assert len(found(root, config(spacing_mm=(2.5, 2.5, 5.0)))) == 1


def test_classes_and_format_are_compared_too(tmp_path):
    root = make_store(tmp_path, SAME)
    change_index(
        root, lambda index: index.update(classes={"0": "background", "1": "liver"}, format=1)
    )
    assert found(root) == [
        "format: the prepared cases have 1, this release 2",
        "classes: the prepared cases have 0 background, 1 liver, the plan 0 background, 1 pancreas, 2 tumour",
    ]
    changed = make_store(tmp_path / "values", {**SAME, "label_values": {"7": 4}})
    assert re.search("label_values: value 7 of the label files became class 4", found(changed)[0])


def test_a_store_of_an_earlier_release_opens_and_what_it_records_is_compared(tmp_path):
    root = make_store(tmp_path, OTHER)
    change_index(root, lambda index: [index.pop(name) for name in ("classes", "format", "release")])
    assert (
        prepared_cases.open_store(
            root, config(spacing_mm=(2.5, 2.5, 5.0), window_hu=(-1000.0, 1000.0))
        ).site
        == "C1"
    )
    assert len(found(root, config())) == 2
    assert "by a release that did not record its name" in prepared_cases.describe(
        case_store.record_of(root)
    )


def test_cases_of_different_settings_in_one_store_are_refused(tmp_path):
    root = make_store(tmp_path / "one", SAME)
    make_store(tmp_path / "other", OTHER)
    for name in ("case2", "case4"):
        (root / "cases" / name / "case.json").write_bytes(
            (tmp_path / "other" / "cases" / name / "case.json").read_bytes()
        )
    (root / "cases" / "case5" / "case.json").unlink()
    problems = found(root, config())
    assert (
        "case 2 was made with target_mm [2.5, 2.5, 5.0], the index says [3.0, 3.0, 3.0]" in problems
    )
    assert "case 5 is missing or incomplete" in [*problems, *case_store.record_of(root).problems]
    assert {int(text.split()[1]) for text in case_store.record_of(root).problems} == {2, 4, 5}
    with pytest.raises(ValueError, match="case 4 was made with"):
        prepared_cases.open_store(root, config())


@pytest.fixture
def site(tmp_path):
    for name in ("C1", "C2"):
        make_store(tmp_path / name / "cases", OTHER, name)
    (tmp_path / "weights.safetensors").write_bytes(b"never read")
    provisioning.provision(tmp_path / "kits", "localhost", ("C1", "C2"))
    return tmp_path


PROGRAMS = {
    "train_local": ["--site_folder=C1", "--initial_model=weights.safetensors"],
    "train_pooled": [
        "--site_folders=C1,C2",
        "--initial_model=weights.safetensors",
        "--output=pooled",
    ],
    "join": ["--site_folder=C1", "--kit=kits/C1"],
    "score": ["--site_folder=C1", "--models=a:weights.safetensors", "--output=rows.jsonl"],
    "reconstructions": [
        "--site_folder=C1",
        "--weights=weights.safetensors",
        "--output=picture.png",
    ],
    "package": ["--site_folder=C1", "--weights=weights.safetensors", "--name=a", "--output=model"],
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_no_program_trains_on_or_scores_cases_of_another_plan(site, program):
    if program == "package":
        (site / "weights.safetensors").write_bytes(
            (ROOT / "tests" / "c2fnas" / "fixtures" / "c2fnas_sum.safetensors").read_bytes()
        )
    done = run(site, program, "--spacing_mm=3,3,3", *PROGRAMS[program])
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and last.startswith("error: ") and "C1/cases" in last, done.stderr
    assert "spacing_mm: the prepared cases have 2.5 x 2.5 x 5, the plan 3 x 3 x 3" in last
    assert "window_hu: the prepared cases have -1000 to 1000, the plan -200 to 250" in last


def test_the_doctor_compares_prepared_cases_with_the_plan(site):
    def finding(*flags):
        done = run(
            site,
            "doctor",
            "--kit=kits/C1",
            "--site_folder=C1",
            "--server=localhost:1",
            "--timeout=0.2",
            "--json",
            *flags,
        )
        (one,) = [
            finding for finding in json.loads(done.stdout) if finding["check"] == "prepared cases"
        ]
        return one

    wrong = finding("--profile=other", "--spacing_mm=3,3,3")
    assert wrong["state"] == "fault" and "prepare them again" in wrong["mend"]
    assert (
        "spacing_mm: the prepared cases have 2.5 x 2.5 x 5, the plan 3 x 3 x 3; window_hu"
        in wrong["found"]
    )
    right = finding("--profile=other", "--spacing_mm=2.5,2.5,5", "--window_hu=-1000,1000")
    assert (
        right["state"] == "good" and "5 of C1, 2.5 x 2.5 x 5 mm, -1000 to 1000 HU" in right["found"]
    )
    assert finding()["state"] == "skipped"
    (site / "C1" / "cases" / "index.json").unlink()
    assert finding()["state"] == "fault"


def run(folder, module, *flags):
    return forked.run(f"experiments.{module}", *flags, folder=folder)
