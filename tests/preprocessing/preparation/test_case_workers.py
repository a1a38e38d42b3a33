import json
import os
import signal

import pytest

from preprocessing.case_list import Case
from preprocessing.preparation import case_preparation, case_workers
from tests.preprocessing.preparation.test_pipeline import cohort, prepare
from tests.preprocessing.test_budget import GB, need


def prepare_or_die(case, root, settings, **more):
    """Replaces `prepare_case`: a case kills its process in the middle of writing."""
    if case.case_id == "case_1":
        (root / "cases" / ".partial-half").mkdir(exist_ok=True)
        os.kill(os.getpid(), signal.SIGKILL)
    return case_preparation.prepare_case(case, root, settings, **more)


def test_a_case_that_kills_its_process_is_refused_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(case_workers, "_in_worker", prepare_or_die)
    store = prepare(cohort(tmp_path, 5), tmp_path / "store", workers=2, strict=False)
    assert set(store.case_ids()) == {"case_0", "case_2", "case_3", "case_4"} and not list(
        store.root.rglob(".partial-*")
    )
    (rejected,) = json.loads((store.root / "rejected.json").read_text())
    assert (rejected["case_id"], rejected["rule"]) == ("case_1", "F09") and rejected[
        "file"
    ].endswith("1.nii.gz")
    assert "the process that prepared it was killed" in rejected["problem"]


def test_a_case_that_fits_goes_first_and_any_case_if_it_is_alone():
    cases = [Case(name, None, None) for name in "abc"]
    needs = {"a": need(3.0), "b": need(1.0), "c": None}
    assert case_workers._next_fitting(cases, needs, 2 * GB, True).case_id == "b"
    assert case_workers._next_fitting(cases[:1], needs, 2 * GB, True) is None
    assert case_workers._next_fitting(cases[:1], needs, 2 * GB, False).case_id == "a"
    assert case_workers._next_fitting([], needs, 2 * GB, False) is None


@pytest.mark.parametrize("megavoxels", [(0.37,) * 9, (0.149,) * 7, (12.34, 0.06, 103.95)])
def test_the_bar_ends_at_its_total_whatever_the_sizes(megavoxels, capsys):
    needs = {
        str(n): need(1.0, native_voxels=round(1e6 * size)) for n, size in enumerate(megavoxels)
    }
    cases = [Case(name, None, None) for name in (*needs, "unreadable")]
    with case_workers.CohortBar("prepare C1", cases, {**needs, "unreadable": None}) as shown:
        for case in cases:
            shown.finished(case.case_id, refused=False)
    done, total = capsys.readouterr().err.split("C1: ")[1].split(" Mvoxel")[0].split(" of ")
    assert done == total
    assert float(total) == pytest.approx(sum(megavoxels), abs=0.05 * len(megavoxels))
