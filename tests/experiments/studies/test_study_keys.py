"""Whatever stands under a key of a study file, the study starts or is refused in one sentence."""

import json

import pytest

from experiments.studies import study_file, study_keys
from tests import wrong_values
from tests.experiments.studies.small_study import FILE, parse

EVERYTHING = {
    **FILE,
    "axis": "method",
    "margin": 10,
    "nonmembers": 100,
    "local_models": True,
    "variants": True,
    "phantom": "standard",
    "threads_per_site": 1,
    "settings": {"num_rounds": 2},
    "notes": ["a note"],
    "points": [
        {
            "label": "plain",
            "settings": {"vae": "none"},
            "rows": {"FL_global": "FL_plain"},
            "beyond": ["pooled"],
        },
        {
            "label": "faulty",
            "against": "plain",
            "baselines": False,
            "threads_per_site": 2,
            "environment": {"TF_ENABLE_ONEDNN_OPTS": "0"},
            "stack": "own",
            "phantom": "standard",
            "seeds": [2],
            "sites": FILE["sites"],
            "fault": {"C1": "stuck"},
            "privacy": {"*": {"filter": "percentile", "percentile": 75}},
        },
    ],
}


def started(folder, content):
    file = folder / "s.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    study = study_file.read(file)
    return [
        study_file.run_spec(study, point, seed, folder / "runs", parse)
        for point, seed in study.runs()
    ]


@pytest.mark.parametrize("path", wrong_values.places(EVERYTHING), ids=wrong_values.named)
def test_any_value_at_any_place_is_taken_or_refused_in_one_short_line(path, tmp_path):
    refused = 0
    for content in wrong_values.replaced(EVERYTHING, path):
        try:
            started(tmp_path, content)
        except ValueError as error:
            refused += 1
            told = str(error)
            # What contradicts another key is found when the run is made, which knows no file.
            assert told.startswith(f"{tmp_path / 's.json'}: ") or "set `baselines` to" in told, told
            assert "\n" not in told, told
            assert len(told) < 800 + len(str(tmp_path)), told
    assert refused >= 8, "hardly any value of another type is refused"


def test_the_whole_example_is_taken_and_has_every_key(tmp_path):
    assert len(started(tmp_path, EVERYTHING)) == 3
    assert set(EVERYTHING) == set(study_keys.STUDY)
    assert {key for point in EVERYTHING["points"] for key in point} == set(study_keys.POINT)


def test_a_split_that_needs_more_patients_than_the_cohort_has_is_refused(tmp_path):
    sites = {**FILE["sites"], "C1": {"cohort": {"C1": 20, "C2": 9}, "split": [18, 6, 6]}}
    with pytest.raises(ValueError, match=r"site C1: `split` is \[18, 6, 6\], which needs 30 pat"):
        started(tmp_path, {**FILE, "sites": sites})
    sites["C1"]["cohort"]["C2"] = 10
    assert started(tmp_path, {**FILE, "sites": sites})


def test_a_site_name_that_no_federation_admits_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"site name '\.\./C3' cannot be used"):
        started(tmp_path, {**FILE, "sites": {**FILE["sites"], "../C3": {"cohort": {"C1": 5}}}})
