import dataclasses
import itertools
import json
import re

import pytest

from experiments.studies import html_report, privacy_results, study_results
from federated.privacy.policy import EPSILON, PrivacyPolicy
from tests.experiments import run_folder
from tests.experiments.studies.small_study import CONFIG, leave_run, read

GAUSSIAN = {"filter": "gaussian", "clip_norm": 1, "noise": 7, "budget": 10, "tell_epsilon": True}
POINTS = [
    {"label": "none", "baselines": False},
    {
        "label": "part",
        "baselines": False,
        "privacy": {"*": {"filter": "percentile", "percentile": 75}},
    },
    {"label": "noise", "baselines": False, "privacy": {"*": GAUSSIAN}},
    {"label": "absurd", "baselines": False, "privacy": {"*": {**GAUSSIAN, "noise": 1e-3}}},
]


def push(site, round_number, received, **metrics):
    return {
        "event": "pushed",
        "site": site,
        "round": round_number,
        "bytes": 1000,
        "received": received,
        "metrics": metrics,
    }


EVENTS = {
    "none": [push("C1", 1, 1000, loss=0.5)],
    "part": [push("C1", 1, 250), push("C2", 1, 350)],
    "noise": [
        push("C1", 1, 1000, **{EPSILON: 1.25}),
        push("C1", 2, 1000, **{EPSILON: 2.5}),
        push("C2", 1, 1000, **{EPSILON: 3.0}),
    ],
    "absurd": [push("C1", 1, 1000, **{EPSILON: 70_333.0})],
}


def test_what_the_log_says_of_each_site():
    assert privacy_results.told([*EVENTS["noise"], {"event": "pulled", "site": "C1"}]) == {
        "C1": {"updates": 2, "bytes": 2000, "received_bytes": 2000, "epsilon": 2.5},
        "C2": {"updates": 1, "bytes": 1000, "received_bytes": 1000, "epsilon": 3.0},
    }
    assert "epsilon" not in privacy_results.told(EVENTS["part"])["C1"]


def test_an_earlier_release_logged_neither_received_bytes_nor_metrics():
    assert privacy_results.told([{"event": "pushed", "site": "C1", "bytes": 5}]) == {
        "C1": {"updates": 1, "bytes": 5, "received_bytes": 0}
    }


@pytest.fixture(scope="module")
def study_folder(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("study")
    read(tmp_path, seeds=[1], axis="privacy policy", points=POINTS)
    for point in POINTS:
        folder = tmp_path / point["label"] / "seed1"
        leave_run(folder, 1, run_folder.rows())
        (folder / "server").mkdir()
        lines = [json.dumps({"time": 1.0, **event}) + "\n" for event in EVENTS[point["label"]]]
        (folder / "server" / "events.jsonl").write_text("".join(lines))
    return tmp_path


@pytest.fixture(scope="module")
def content(study_folder):
    study = read(study_folder, seeds=[1], axis="privacy policy", points=POINTS)
    configs = {(point.label, 1): dataclasses.replace(CONFIG, seed=1) for point in study.points}
    return study_results.collect(study, study_folder, configs)


def test_the_table_of_dice_against_epsilon_by_hand(content):
    # The Average of FL_global is (0.74 + 0.4) / 2 in each of these runs.
    assert privacy_results.lines_of(content["privacy"]) == [
        ["none", "no filter", "none", "100 %", "57.0"],
        ["part", "percentile 75", "none", "30 %", "57.0"],
        ["noise", "gaussian 7 x 1, delta 1e-05", "3.00", "100 %", "57.0"],
        ["absurd", "gaussian 0.001 x 1, delta 1e-05", "70,333", "100 %", "57.0"],
    ]
    text = study_results.markdown(content)
    assert "## Dice against epsilon" in text
    assert "| noise | gaussian 7 x 1, delta 1e-05 | 3.00 | 100 % | 57.0 |" in text


def test_the_page_shows_it_with_a_dot_for_every_run(content, study_folder):
    page = html_report.study_page(content, study_folder)
    assert "Dice against epsilon" in page and "70,333" in page
    picture = privacy_results.picture(content["privacy"])
    circles = re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', picture)
    assert len(circles) == 4
    # 57 points: 286 - 0.57 * (286 - 16) = 132.1. Epsilon 3 between 10^0 and 10^5, over 560 wide:
    # 50 + 560 * 0.4771 / 5 = 103.4; without a guarantee 740.
    assert circles == [
        ("740.0", "132.1"),
        ("740.0", "132.1"),
        ("103.4", "132.1"),
        ("592.9", "132.1"),
    ]


@pytest.mark.parametrize("told", [-1e30, 0.0, 5e-324, 1e-300, 1e30])
def test_no_number_that_a_site_may_tell_breaks_the_page(tmp_path, told):
    study = read(tmp_path, axis="a", points=[POINTS[2]])
    updates = privacy_results.told([push("C1", 1, 1000, **{EPSILON: told})])
    run = {"label": "noise", "seed": 1, "state": "finished", "rows": [], "updates": updates}
    run["rows"] = run_folder.rows()
    content = privacy_results.collect(study, [run])
    assert "Dice against epsilon" in privacy_results.section(content)


def test_a_study_without_policies_has_no_such_section(tmp_path):
    study = read(tmp_path, axis="a", points=[{"label": "a"}])
    assert privacy_results.collect(study, []) is None


def test_a_run_has_the_section_only_where_a_site_told_its_epsilon(study_folder):
    told = study_results.of_one_run(study_folder / "noise" / "seed1")
    assert told["privacy"]["points"][0]["epsilon"] == 3.0
    page = html_report.study_page(told, study_folder / "noise" / "seed1")
    assert "Dice against epsilon" in page and "reported by the sites" in page
    assert "privacy" not in study_results.of_one_run(study_folder / "part" / "seed1")


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ({}, "none"),
        ({"filter": "clip", "clip_norm": 0.5}, "clip to 0.5"),
        ({"filter": "svt", "gamma": 1.0, "epsilon3": 1.0, "budget": 9.0}, "svt 10 %, delta 0"),
    ],
)
def test_a_policy_in_words(policy, expected):
    assert privacy_results.words(PrivacyPolicy(**policy)) == expected


def test_a_site_that_tells_no_epsilon_is_not_passed_over(tmp_path):
    study = read(tmp_path, axis="a", points=[POINTS[2]])
    told = privacy_results.told([*EVENTS["noise"], push("C3", 1, 1000)])
    silent = privacy_results.told(EVENTS["part"])
    run = {"label": "noise", "seed": 1, "state": "finished", "rows": [], "updates": told}
    runs = [run, {**run, "seed": 2, "updates": silent}]
    assert [
        privacy_results.lines_of(privacy_results.collect(study, own))[0][2]
        for own in (runs[:1], runs, runs[1:])
    ] == ["3.00 (reported by 2 of 3 sites)", "3.00 (reported by 0 of 3 sites)", "none"]


@pytest.mark.parametrize("results", [[0.0], [40.0] * 5, [0.0, 0.1, 0.2, 99.9, 100.0, 100.0]])
def test_no_label_of_the_picture_covers_another_or_leaves_it(results):
    points = [
        {"label": f"point {i}", "epsilon": None, "by_seed": {"1": value, "2": value}}
        for i, value in enumerate(results)
    ]
    svg = privacy_results.picture({"points": points})
    height = float(re.search(r'viewBox="0 0 \d+ (\d+)"', svg).group(1))
    places = sorted(float(y) for y in re.findall(r'y="([\d.]+)"[^>]*>point \d', svg))
    assert len(places) == len(results) and places[0] > 0 and places[-1] < height
    assert all(later - earlier > 13 for earlier, later in itertools.pairwise(places))
