import pathlib

import pytest

from preprocessing import manifest, rules, survey
from preprocessing.rules import IntegrityError
from tests.preprocessing import corpus


def refusals(path):
    try:
        listed = manifest.read(path)
    except IntegrityError as error:
        return [error], []
    found = survey.survey(listed)
    return [error for finding in found for error in finding.errors], [warning for finding in found for warning in finding.warnings]


def test_the_corpus_is_large_and_its_names_differ():
    assert len(corpus.MALFORMED) >= 45 and len({kind.name for kind in corpus.MALFORMED}) == len(corpus.MALFORMED)
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
    assert errors[0].file in text and kind.rule in text and errors[0].fix in text and "\n" not in text
    assert rules.BY_ID[kind.rule].severity == "error"


@pytest.mark.parametrize("kind", corpus.VALID, ids=lambda kind: kind.name)
def test_every_odd_but_valid_input_is_accepted(tmp_path, kind):
    errors, warnings = refusals(corpus.write_kind(kind, tmp_path / "in"))
    assert [str(error) for error in errors] == []
    assert {warning.rule for warning in warnings} <= {"C08"}, [str(warning) for warning in warnings]
