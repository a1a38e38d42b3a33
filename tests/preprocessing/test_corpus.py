import json
import pathlib

import numpy as np
import pytest

from preprocessing import geometry, manifest, rules
from preprocessing.checks import survey
from preprocessing.preparation import pipeline
from preprocessing.rules import IntegrityError
from tests.preprocessing import corpus, corpus_files


def refusals(path):
    try:
        listed = manifest.read(path)
    except IntegrityError as error:
        return [error], []
    found = survey.survey(listed)
    return [error for finding in found for error in finding.errors], [
        warning for finding in found for warning in finding.warnings
    ]


def test_the_corpus_is_large_and_its_names_differ():
    assert len(corpus.MALFORMED) >= 45 and len({kind.name for kind in corpus.MALFORMED}) == len(
        corpus.MALFORMED
    )
    assert {kind.group for kind in corpus.MALFORMED} == {"nifti", "dicom", "manifest", "cohort"}
    assert len(corpus.VALID) >= 48 + 15


@pytest.mark.parametrize("kind", corpus.MALFORMED, ids=lambda kind: kind.name)
def test_every_malformed_input_is_refused_by_its_rule_and_file(tmp_path, kind):
    path = corpus.write_kind(kind, tmp_path / "in")
    errors, _ = refusals(path)
    assert [error.rule for error in errors] == [kind.rule], [str(error) for error in errors]
    named = pathlib.Path(errors[0].file)
    assert named.is_relative_to(tmp_path) and errors[0].file.endswith(kind.file)
    text = str(errors[0])
    assert (
        errors[0].file in text and kind.rule in text and errors[0].fix in text and "\n" not in text
    )
    assert rules.BY_ID[kind.rule].severity == "error"


@pytest.mark.parametrize("kind", corpus.VALID, ids=lambda kind: kind.name)
def test_every_odd_but_valid_input_is_accepted(tmp_path, kind):
    errors, warnings = refusals(corpus.write_kind(kind, tmp_path / "in"))
    assert [str(error) for error in errors] == []
    assert {warning.rule for warning in warnings} <= {"C08"}, [str(warning) for warning in warnings]


def test_bad_cases_do_not_stop_a_preparation(tmp_path):
    kinds = [kind for kind in corpus.MALFORMED if kind.group in ("nifti", "dicom")]
    good = next(kind for kind in corpus.VALID if kind.name == "DICOM as JPEG 2000")
    cases = []
    for number, kind in enumerate([*kinds[:60], good, *kinds[60:]]):
        listed = json.loads(corpus.write_kind(kind, tmp_path / f"in{number}").read_text())["cases"][
            0
        ]
        for key in ("image", "label"):
            listed[key] = f"in{number}/{listed[key]}"
        cases.append({**listed, "case_id": "good" if kind is good else f"bad_{number}"})
    (tmp_path / "manifest.json").write_text(json.dumps({"site": "C2", "cases": cases}))
    store = pipeline.prepare(
        manifest.read(tmp_path / "manifest.json"),
        tmp_path / "store",
        target_mm=(3.0, 3.0, 3.0),
        split_seed=1,
        strict=False,
    )
    assert store.case_ids() == ("good",)
    np.testing.assert_array_equal(
        store.open("good").native_label() > 0,
        geometry.from_ras(corpus_files.LABEL.array, store.open("good").native) > 0,
    )
    rejected = json.loads((tmp_path / "store" / "rejected.json").read_text())
    assert [r["rule"] for r in rejected] == [kind.rule for kind in kinds]
    kept = [
        p for p in (tmp_path / "store").rglob("*") if p.is_file() and p.name != "rejected.json"
    ]  # the site's own list of what to mend
    assert not [p for p in kept if str(tmp_path).encode() in p.read_bytes()]
