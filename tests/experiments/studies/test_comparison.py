import dataclasses
import re

import pytest

from experiments.run import run_cost
from experiments.studies import (
    comparison,
    html_report,
    runner,
    study_file,
    study_results,
)
from experiments.studies import faults as study_faults
from tests.experiments import run_folder
from tests.experiments.studies.small_study import CONFIG, leave_run, parse, read

SITES = {
    "C1": {"cohort": {"C1": 30}, "split": [18, 6, 6]},
    "C2": {"cohort": {"C2": 34}, "split": [20, 7, 7]},
    "C3": {"cohort": {"C1": 10}, "split": [6, 2, 2]},
}
POINTS = [
    {"label": "fedavg", "settings": {"aggregation": "fedavg"}},
    {
        "label": "fedavg-stuck",
        "settings": {"aggregation": "fedavg"},
        "fault": {"C3": "stuck"},
        "against": "fedavg",
    },
    {"label": "median", "settings": {"aggregation": "median"}},
    {
        "label": "median-stuck",
        "settings": {"aggregation": "median"},
        "fault": {"C3": "stuck"},
        "against": "median",
    },
]
CHANGES = {"axis": "rule and fault", "margin": 10, "points": POINTS, "sites": SITES}


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([(50.0, 60.0), (70.0, 60.0)], "kept"),  # 10 below is within a margin of 10
        ([(49.9, 60.0), (10.0, 60.0)], "lost"),
        ([(49.9, 60.0), (50.0, 60.0)], "mixed"),
        ([(15.0, 19.9), (70.0, 60.0)], "no basis"),
        ([(15.0, 20.0), (70.0, 60.0)], "kept"),
        ([(50.0, 60.0), (None, 60.0)], "unfinished"),
        ([(50.0, None)], "unfinished"),
        ([], "unfinished"),
    ],
)
def test_outcomes_by_hand(pairs, expected):
    assert comparison.outcome(pairs, 10.0) == expected


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """Three seeds; the stuck site costs fedavg 40 points of the pancreas, and the median 0 to 2.

    One run of the median is missing.
    """
    tmp_path = tmp_path_factory.mktemp("study")
    study = read(tmp_path, seeds=[1, 2, 3], **CHANGES)
    for seed in study.seeds:
        for label, lower in (
            ("fedavg", 0.0),
            ("fedavg-stuck", 0.4 + 0.01 * seed),
            ("median", 0.0),
            ("median-stuck", 0.01 * (seed - 1)),
        ):
            if (label, seed) == ("median", 3):
                continue
            rows = [
                {**row, "dice_pancreas": max(0.0, row["dice_pancreas"] - lower)}
                for row in run_folder.rows()
            ]
            leave_run(tmp_path / label / f"seed{seed}", seed, rows)
    configs = {
        (point.label, seed): dataclasses.replace(CONFIG, seed=seed)
        for point in study.points
        for seed in study.seeds
    }
    return study_results.collect(study, tmp_path, configs)


def test_differences_outcomes_and_verdicts_of_a_study(content):
    points = {point["label"]: point for point in content["comparison"]["points"]}
    # The Average of FL_global is (mean of 5 pancreas Dice, 0.74 + mean of 3 tumour Dice, 0.4) / 2,
    # so a pancreas that is 41 points worse costs 20.5.
    assert points["fedavg"]["by_seed"]["1"] == pytest.approx(100 * (0.74 + 0.4) / 2)
    assert points["fedavg-stuck"]["differences"] == {
        "1": pytest.approx(-20.5),
        "2": pytest.approx(-21.0),
        "3": pytest.approx(-21.5),
    }
    assert points["fedavg-stuck"]["outcome"] == "lost" and "outcome" not in points["fedavg"]
    verdict = points["fedavg-stuck"]["verdict"]
    assert verdict["rule"] == "not_less" and verdict["margin"] == 10
    assert verdict["interval"]["estimate"] == pytest.approx(-21.0) and verdict["trainings"] == 3
    # Holm multiplies by 1, as the other comparison lacks a training; -21 is far below -10
    assert verdict["verdict"] == "contradicted"
    assert points["median-stuck"]["outcome"] == "unfinished"
    assert points["median-stuck"]["verdict"]["verdict"] == "not measured"


def test_the_table_of_what_survives(content):
    head, lines = comparison.grid(content["comparison"])
    assert head == ["aggregation rule", "none", "stuck"]
    assert [line[0] for line in lines] == ["fedavg", "median"]
    assert lines[0][1] == "57.0" and lines[0][2] == "36.0, lost"
    assert lines[1][2].endswith(", unfinished")
    text = study_results.markdown(content)
    assert "| fedavg | 57.0 | 36.0, lost |" in text and "## What is kept" in text
    assert "kept: in every seed at most 10 points below" in text


def test_the_page_says_which_site_is_bad_and_how(content, tmp_path):
    page, text = html_report.study_page(content, tmp_path), study_results.markdown(content)
    for shown in (page, text):
        assert shown.index("What is kept") < shown.index("C3 is bad on purpose")
        assert "stuck: the bad site sends the first model that it received" in shown
        assert "scaled: the bad site" not in shown  # no point has it
    sound = {"points": [{**p, "fault": {}} for p in content["comparison"]["points"]]}
    assert comparison.faults_text(sound) == []


def test_the_page_shows_rules_table_and_a_dot_for_every_run(content, tmp_path):
    page = html_report.study_page(content, tmp_path)
    assert "What is kept" in page and "36.0, lost" in page
    picture = comparison.picture(content["comparison"])
    circles = re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', picture)
    assert len(circles) == 11  # four points, three seeds, one run missing
    # 57 points: 220 + 0.57 * (760 - 220 - 16) = 518.7
    assert ("518.7", "19.0") in circles


def test_a_sweep_without_faults_has_no_table_of_faults(tmp_path):
    points = [{"label": "a"}, {"label": "b", "against": "a"}]
    study = read(tmp_path, seeds=[1], axis="rule", margin=5, points=points)
    content = comparison.collect(study, [])
    assert comparison.grid(content) is None
    assert [line[3] for line in comparison.lines_of(content)] == ["unfinished"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"axis": "a", "margin": 0}, "`margin` is 0; expected points of Dice, above 0"),
        ({"axis": "a", "margin": "5"}, "`margin` is '5'; expected points of Dice"),
        ({"margin": 5}, "`margin` is given without `axis`"),
        ({"axis": "a", "margin": 5}, "give it together with points that have `against`"),
        (
            {"points": [{"label": "a"}, {"label": "b", "against": "a"}]},
            "`margin` is None; give it together with points that have `against`",
        ),
        (
            {"axis": "a", "margin": 5, "points": [{"label": "b", "against": "a"}, {"label": "a"}]},
            "point b: `against` is 'a'; expected the label of an earlier point",
        ),
        (
            {
                "axis": "a",
                "margin": 5,
                "points": [{"label": "a"}, {"label": "b", "against": "a", "sites": SITES}],
            },
            "point b: `against` is 'a'; expected the label of an earlier point with the same sites",
        ),
    ],
)
def test_a_wrong_comparison_in_a_study_file_is_refused(tmp_path, changes, words):
    with pytest.raises(ValueError, match=words):
        read(tmp_path, **changes)


def test_a_cohort_that_runs_share_counts_once(tmp_path):
    points = [{"label": "a"}, {"label": "b", "settings": {"aggregation": "fedadam"}}]
    study = read(tmp_path, points=points, seeds=[1])
    specs = {
        (point.label, 1): study_file.run_spec(study, point, 1, tmp_path / "s", parse)
        for point in study.points
    }
    one, other = runner._costs(specs).values()
    assert other == {**one, "cohort": 0.0} and one["cohort"] > 0
    # 64 scans of 17 MB once; what a run keeps of them twice is 2 MB each
    spec = specs["a", 1]
    scans = run_cost.disk_bytes(spec) - run_cost.disk_bytes(spec, scans=False)
    assert scans == pytest.approx(64 * 15e6)
    both = run_cost.disk_bytes(spec) + run_cost.disk_bytes(spec, scans=False)
    assert f"at most {both / 2**30:.1f} GiB of disk" in runner.cost_text(study, tmp_path, specs)


def test_a_median_of_two_sites_is_refused_before_anything_runs(tmp_path):
    study = read(tmp_path, points=[{"label": "median", "settings": {"aggregation": "median"}}])

    def parsed(arguments):
        return dataclasses.replace(CONFIG, aggregation="median"), "\n".join(arguments)

    with pytest.raises(ValueError, match=r"needs at least 3 updates .* this run has 2 sites"):
        study_file.run_spec(study, study.points[0], 1, tmp_path, parsed)


@pytest.mark.parametrize("name", ["methods", "bad_site", "privacy"])
def test_the_studies_with_a_margin_take_at_most_two_hours(tmp_path, name):
    file = study_file._FLAGFILES.parent / "studies" / f"{name}.json"
    study = study_file.read(file)

    def parsed(arguments):
        values = dict(argument[2:].split("=", 1) for argument in arguments)
        numbers = {
            key: tuple(map(int, values[key].split(",")))
            for key in ("spacing_mm", "patch_size", "inference_window")
        }
        config = dataclasses.replace(
            CONFIG,
            **numbers,
            batch_size=2,
            local_epochs=1,
            validation_every=10,
            missing_labels="distil",
            filters=int(values.get("filters", 8)),
            num_rounds=int(values.get("num_rounds", 40)),
            aggregation=values.get("aggregation", "fedavg"),
            proximal_weight=float(values.get("proximal_weight", 0)),
        )
        return config, "\n".join(arguments)

    specs = {
        (point.label, seed): study_file.run_spec(study, point, seed, tmp_path, parsed)
        for point in study.points
        for seed in study.seeds
    }
    seconds = sum(sum(cost.values()) for cost in runner._costs(specs).values())
    assert seconds < 2 * 3600
    if name == "privacy":
        return
    rules = {spec.config.aggregation for spec in specs.values()}
    # with the three sites of bad_site, the trimmed mean is the median
    released = {"fedavg", "fedavgm", "fedadam", "median", "trimmed_mean"}
    assert rules == released - ({"trimmed_mean"} if name == "bad_site" else set())
    if name == "methods":  # FedProx differs from the point it is against in its weight alone
        for seed in study.seeds:
            proximal, average = (specs[label, seed].config for label in ("fedprox", "fedavg"))
            assert proximal.proximal_weight > 0
            assert dataclasses.replace(proximal, proximal_weight=0.0) == average
    if name == "bad_site":
        assert {(p.settings["aggregation"], *p.fault.values()) for p in study.points} == {
            (rule, *fault)
            for rule in rules
            for fault in ((), *((one,) for one in study_faults.FAULTS))
        }
