"""The declaration of a site's labels: its words, and that contradicting labels are refused."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from preprocessing import case_store, declared_labels, manifest, nifti, rules
from preprocessing.case_list import Case, CaseManifest
from preprocessing.checks import survey
from tests.preprocessing.preparation.test_pipeline import cohort, prepare, stamps

HEALTHY = {"pancreas": "complete", "tumour": "absent"}
BOTH = {"pancreas": "complete", "tumour": "complete"}
UNDRAWN = {"pancreas": "complete", "tumour": "unlabelled"}


def test_missing_classes_and_classes_known_to_be_absent():
    assert declared_labels.missing(None) == () and not declared_labels.known_absent(None)
    assert declared_labels.missing(BOTH) == () and not declared_labels.known_absent(BOTH)
    assert declared_labels.missing(HEALTHY) == (2,) and declared_labels.known_absent(HEALTHY)
    assert declared_labels.missing(UNDRAWN) == (2,) and not declared_labels.known_absent(UNDRAWN)
    assert [declared_labels.is_absent(one, "tumour") for one in (None, BOTH, HEALTHY, UNDRAWN)] == [
        False,
        False,
        True,
        False,
    ]
    assert (
        declared_labels.text(HEALTHY) == "pancreas complete, tumour absent"
        and declared_labels.text(None) == "not declared"
    )


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ({"pancreas": "complete"}, "for each of pancreas, tumour"),
        ({"pancreas": "complete", "liver": "absent"}, "for each of pancreas, tumour"),
        (
            {"pancreas": "complete", "tumour": "none"},
            "'none'; expected one of complete, absent, unlabelled",
        ),
        ({"pancreas": "absent", "tumour": "unlabelled"}, "nothing to train on"),
        (["tumour"], "for each of pancreas, tumour"),
    ],
)
def test_an_invalid_declaration_is_refused(declared, words):
    with pytest.raises(ValueError, match=words):
        declared_labels.check(declared)


def test_declarations_of_several_hospitals_are_merged():
    assert declared_labels.merged([HEALTHY, BOTH]) == BOTH  # whoever has a tumour is drawn with it
    assert declared_labels.merged([HEALTHY, HEALTHY]) == HEALTHY
    assert declared_labels.merged([BOTH, UNDRAWN]) == UNDRAWN
    assert declared_labels.merged([BOTH, None]) is None and declared_labels.merged([]) is None


def test_a_manifest_keeps_its_declaration(tmp_path):
    case = Case("a", tmp_path / "a.nii.gz", tmp_path / "al.nii.gz")
    manifest.write(tmp_path / "manifest.json", CaseManifest("C1", (case,), declared=HEALTHY))
    assert json.loads((tmp_path / "manifest.json").read_text())["declared_labels"] == HEALTHY
    assert manifest.read(tmp_path / "manifest.json").declared == HEALTHY
    text = (tmp_path / "manifest.json").read_text().replace("absent", "nowhere")
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(
        rules.IntegrityError, match=r"manifest.json: declared_labels has 'nowhere'.*\[M05"
    ):
        manifest.read(tmp_path / "manifest.json")


def test_a_label_that_shows_what_is_declared_absent_is_refused_and_the_others_go_on(tmp_path):
    cases, tumours = cohort(tmp_path, 7), {"case_2", "case_5"}
    for case in cases.cases:
        if case.case_id not in tumours:
            label = nifti.read_labels(case.label)
            healthy = np.where(label.array == 2, 1, label.array).astype(np.uint8)
            nifti.write_volume(case.label, dataclasses.replace(label, array=healthy))
    undeclared = prepare(cases, tmp_path / "store")
    assert undeclared.declared is None and set(undeclared.case_ids()) == {
        case.case_id for case in cases.cases
    }
    made = stamps(tmp_path / "store")
    healthy = dataclasses.replace(cases, declared=HEALTHY)
    store = prepare(healthy, tmp_path / "store", strict=False)
    assert set(store.case_ids()) == {case.case_id for case in cases.cases} - tumours
    assert store.declared == HEALTHY == case_store.record_of(tmp_path / "store").declared
    rejected = json.loads((tmp_path / "store/rejected.json").read_text())
    assert {entry["case_id"]: entry["rule"] for entry in rejected} == dict.fromkeys(tumours, "L07")
    assert all(
        "shows tumour, which the manifest declares to be in no label" in entry["problem"]
        for entry in rejected
    )
    assert (
        stamps(tmp_path / "store") == made
    )  # the declaration is no reason to prepare a case again
    found = survey.survey(healthy)
    assert {finding.case.case_id for finding in found if not finding.usable} == tumours
    assert {error.rule for finding in found for error in finding.errors} == {"L07"}


def test_a_store_of_an_earlier_release_declares_nothing(tmp_path):
    prepare(cohort(tmp_path, 5), tmp_path / "store")
    index = json.loads((tmp_path / "store/index.json").read_text())
    del index["declared_labels"]
    (tmp_path / "store/index.json").write_text(json.dumps(index))
    assert case_store.CaseStore(tmp_path / "store").declared is None


def test_only_unlabelled_classes_are_undrawn():
    assert declared_labels.undrawn(None) == declared_labels.undrawn(HEALTHY) == ()
    assert declared_labels.undrawn({"pancreas": "complete", "tumour": "unlabelled"}) == ("tumour",)
