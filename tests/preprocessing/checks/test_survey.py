import os
import signal

import numpy as np
import pytest

from preprocessing import nifti
from preprocessing.case_list import Case, CaseManifest
from preprocessing.checks import survey
from preprocessing.volume import Volume
from tests.preprocessing.corpus_files import AFFINE, CT, LABEL


def cohort(folder, count=3):
    cases = []
    for number in range(count):
        case = Case(f"case_{number}", folder / f"i{number}.nii.gz", folder / f"l{number}.nii.gz")
        label = LABEL.array.copy()
        label[28, 26, 14 + number] = 1
        nifti.write_volume(case.image, Volume(CT.array + np.int16(number), AFFINE))
        nifti.write_volume(case.label, Volume(label, AFFINE))
        cases.append(case)
    return CaseManifest("C2", tuple(cases))


def fails_for(name, error):
    read = nifti.read_ct

    def failing(path, *arguments, **keywords):
        if path.name == name:
            raise error
        return read(path, *arguments, **keywords)

    return failing


@pytest.mark.parametrize(
    "error",
    [
        TypeError("can't multiply"),
        KeyError("x"),
        RecursionError("deep"),
        OSError(5, "Input/output error"),
        MemoryError(),
    ],
)
def test_any_error_of_a_case_is_its_finding_and_does_not_stop_the_others(
    tmp_path, monkeypatch, error
):
    manifest = cohort(tmp_path)
    monkeypatch.setattr(nifti, "read_ct", fails_for("i1.nii.gz", error))
    found = survey.survey(manifest)
    assert [finding.usable for finding in found] == [True, False, True]
    (problem,) = found[1].errors
    assert problem.rule == "F09" and problem.file.endswith("i1.nii.gz") and "\n" not in str(problem)


def test_a_programming_error_keeps_its_stack_trace_in_the_log(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(nifti, "read_ct", fails_for("i0.nii.gz", ZeroDivisionError("by hand")))
    survey.survey(cohort(tmp_path, 1))
    (record,) = [r for r in caplog.records if r.exc_info]
    assert record.exc_info[0] is ZeroDivisionError


def test_findings_are_reported_as_cases_end(tmp_path, monkeypatch):
    manifest, told = cohort(tmp_path), []
    monkeypatch.setattr(
        nifti, "read_ct", fails_for("i2.nii.gz", KeyboardInterrupt())
    )  # what nobody may catch
    with pytest.raises(KeyboardInterrupt):
        survey.survey(
            manifest, each=lambda found: told.append([finding.case.case_id for finding in found])
        )
    assert told == [["case_0"], ["case_0", "case_1"]]


def look_at_or_die(case, label_values=None):
    """Replaces `survey.look_at`: a decoder that kills its process."""
    if case.case_id == "case_1":
        os.kill(os.getpid(), signal.SIGKILL)
    return survey.CheckFinding(case, ())


def test_a_case_that_kills_its_process_does_not_stop_the_others(tmp_path, monkeypatch):
    manifest = cohort(tmp_path)
    monkeypatch.setattr(survey, "look_at", look_at_or_die)
    found = survey.survey(manifest, workers=2)
    assert [finding.usable for finding in found] == [True, False, True]
    assert "the process that examined it was killed" in str(found[1].errors[0]) and found[1].errors[
        0
    ].file.endswith("i1.nii.gz")


def test_intermediate_reports_take_a_small_part_of_the_time(tmp_path, monkeypatch):
    cases = tuple(Case(f"case_{i}", tmp_path / f"{i}.nii.gz", None) for i in range(100))
    now, told = [0.0], []

    def look(case, label_values):
        now[0] += 1.0
        return survey.CheckFinding(case, ())

    def each(found):
        told.append(len(found))
        now[0] += 0.01 * len(found)  # writing takes longer, the more findings there are

    monkeypatch.setattr(survey, "look_at", look)
    survey.survey(CaseManifest("C1", cases), each=each, clock=lambda: now[0])
    assert told[:4] == [1, 2, 3, 4] and len(told) < 60
    assert sum(0.01 * count for count in told) < 0.06 * now[0]
