"""Study files: the runs that one defines, and invalid files."""

import pytest

from experiments.run import stages as run_stages
from experiments.studies import runner, study_file
from tests.experiments.studies.small_study import FILE, parse, read


def test_a_file_gives_a_run_for_every_point_and_seed(tmp_path):
    study = read(tmp_path)
    spec = study_file.run_spec(study, study.points[1], 2, tmp_path / "runs" / "s", parse)
    assert spec.flags_text.split("\n")[1:] == ["--seed=2", "--vae=none"] and not spec.baselines
    assert (
        spec.folder == tmp_path / "runs" / "s" / "no_vae" / "seed2"
        and spec.cohorts == tmp_path / "runs" / "cohorts"
    )
    assert [(site.name, site.split, site.cohort_seed) for site in spec.sites] == [
        ("C1", (18, 6, 6), 2),
        ("C2", (20, 7, 7), 2),
    ]
    assert "C1 18/6/6; C2 20/7/7" in spec.notes[0]


def test_further_sites_have_other_patients_and_two_hospitals_can_share_a_site(tmp_path):
    sites = {**FILE["sites"], "C3": {"cohort": {"C1": 5, "C2": 7}}}
    study = read(tmp_path, points=[{"label": "three", "sites": sites}])
    third = study_file.run_spec(study, study.points[0], 1, tmp_path / "s", parse).sites[2]
    assert third.cohort_seed not in (1, 2) and third.counts == (8, 2, 2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seeds": [1, 1]}, r"s\.json: `seeds` is \[1, 1\]"),
        ({"pictures": "yes"}, "`pictures` is 'yes'; expected 'synthetic', 'public' or 'private'"),
        ({"seed": 3}, "the study has unknown keys seed"),
        (
            {"points": [{"label": "a", "stack": "new"}]},
            "point a: `stack` is 'new'; expected 'own' or 'other'",
        ),
        (
            {"points": [{"label": "a", "threads_per_site": 0}]},
            "point a: `threads_per_site` is 0; expected a number of at least 1",
        ),
        (
            {"points": [{"label": "a", "environment": {"X": 1}}]},
            r"point a: `environment` is \{'X': 1\}; expected names with texts as values",
        ),
        ({"points": [{"label": "a/b"}]}, "label of a point is 'a/b'"),
        ({"points": [{"label": "a"}, {"label": "a"}]}, "give each its own label"),
        (
            {"points": [{"label": "a", "beyond": ["magic"]}]},
            r"point a: `beyond` is \['magic'\]; expected a list with some of pooled",
        ),
        (
            {"points": [{"label": "a", "beyond": ["finetuned"], "baselines": False}]},
            "fine-tuning starts from the baselines",
        ),
        ({"sites": {"C1": {"cohort": {"C1": 5}}}}, "Table 1 needs C1 and C2"),
        (
            {"points": [{"label": "a"}, {"label": "b", "seeds": [1]}]},
            "point b: `seeds` is for a later point of a study with `variants`",
        ),
        (
            {"variants": True, "points": [{"label": "a", "seeds": [1]}]},
            "point a: `seeds` is for a later point",
        ),
        (
            {"variants": True, "points": [{"label": "a"}, {"label": "b", "seeds": [1, 7]}]},
            r"point b: `seeds` is \[1, 7\]; expected some of the study's",
        ),
        ({"name": ""}, "`name` is ''; expected letters, digits"),
        ({"phantom": "soft"}, "`phantom` is 'soft'; expected 'standard' or 'hard'"),
        (
            {"points": [{"label": "a", "privacy": {"C9": {}}}]},
            r"point a: `privacy` is \{'C9': \{\}\}; expected some of its sites' names, or '\*'",
        ),
        (
            {"points": [{"label": "a", "privacy": {"C1": "gaussian"}}]},
            "point a: `privacy` of C1 is 'gaussian'; expected settings",
        ),
        (
            {"points": [{"label": "a", "privacy": {"*": {"sigma": 1}}}]},
            r"`privacy` of \* has unknown keys sigma; known are accountant, budget",
        ),
        (
            {"points": [{"label": "a", "privacy": {"*": {"filter": "gaussian"}}}]},
            r"point a: `privacy` of \*: .*'gaussian', which needs privacy_clip",
        ),
        (
            {"points": [{"label": "a", "privacy": {"*": {"percentile": "75"}}}]},
            r"point a: `privacy` of \*: ",
        ),
        (
            {
                "sites": {
                    "C1": {"deformed": "m.json", "split": [1, 1, 1]},
                    "C2": {"cohort": {"C2": 5}},
                }
            },
            "`deformed` is for C1 and C2 together",
        ),
    ],
)
def test_a_wrong_file_is_refused_with_key_value_and_remedy(tmp_path, changes, words):
    with pytest.raises(ValueError, match=words):
        read(tmp_path, **changes)


def test_a_point_chooses_its_phantom_and_the_standard_one_is_not_recorded(tmp_path):
    study = read(tmp_path, points=[{"label": "standard"}, {"label": "hard", "phantom": "hard"}])
    standard, hard = (
        study_file.run_spec(study, point, 1, tmp_path / "s", parse) for point in study.points
    )
    assert [site.phantom for site in (*standard.sites, *hard.sites)] == [
        "standard",
        "standard",
        "hard",
        "hard",
    ]
    assert (
        "hard synthetic cohort" in hard.notes[0] and "Data: synthetic cohort" in standard.notes[0]
    )
    folders = [
        cohort.name for spec in (standard, hard) for cohort in run_stages._cohorts(spec.sites[1])
    ]
    assert folders == ["C2-34-seed1", "C2-hard-34-seed1"]
    texts = [runner._sites_text(spec) for spec in (standard, hard)]
    # as in an earlier release, so that its runs can be resumed
    assert "phantom" not in texts[0]
    assert "--phantom=C1:hard\n--phantom=C2:hard\n" in texts[1]


def test_every_committed_study_file_is_valid(tmp_path):
    files = sorted(study_file._FLAGFILES.parent.glob("studies/*.json"))
    assert {
        "demo",
        "local_epochs",
        "imbalance",
        "sites",
        "tumour_share",
        "phantom",
        "real_anatomy",
    } <= {file.stem for file in files}
    for file in files:
        study = study_file.read(file)
        for point in study.points:
            assert study_file.run_spec(study, point, 1, tmp_path, parse).sites


PERCENTILE = {"filter": "percentile", "percentile": 75}


def test_a_point_gives_every_site_a_policy_or_some_of_them(tmp_path):
    study = read(
        tmp_path,
        points=[
            {"label": "some", "baselines": False, "privacy": {"C2": PERCENTILE}},
            {
                "label": "all",
                "baselines": False,
                "privacy": {"*": PERCENTILE, "C1": {"filter": "clip", "clip_norm": 1}},
            },
        ],
    )
    some, every = (
        study_file.run_spec(study, point, 1, tmp_path / "s", parse) for point in study.points
    )
    assert [site.privacy.filter for site in (*some.sites, *every.sites)] == [
        "none",
        "percentile",
        "clip",
        "percentile",
    ]
    texts = [runner._sites_text(spec) for spec in (some, every)]
    given = "--privacy_filter=percentile,--privacy_percentile=75"
    assert f"--privacy=C2:{given}" in texts[0] and "--privacy=C1" not in texts[0]
    assert "--privacy=C1:--privacy_filter=clip" in texts[1]


def test_a_site_with_a_policy_lends_no_baseline(tmp_path):
    study = read(tmp_path, points=[{"label": "a", "privacy": {"*": PERCENTILE}}])
    with pytest.raises(ValueError, match=r"site C1 has a privacy policy.*`baselines` to false"):
        study_file.run_spec(study, study.points[0], 1, tmp_path / "s", parse)
