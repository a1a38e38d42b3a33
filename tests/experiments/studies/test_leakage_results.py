import dataclasses

import numpy as np
import pytest

from experiments.results.statistics import membership_rates
from experiments.results.statistics.membership_rates import Stratum
from experiments.run import run_cost
from experiments.run import stages as run_stages
from experiments.run.run_folder import RunFolder
from experiments.run.run_plan import MEMBERSHIP, NONMEMBERS
from experiments.studies import html_report, leakage_results, runner, study_file, study_results
from federated.privacy.policy import PrivacyPolicy
from runkit import atomic
from tests.experiments import run_folder
from tests.experiments.studies.small_study import (
    CONFIG,
    FakePrograms,
    configs,
    leave_run,
    parse,
    read,
)

POINTS = [{"label": "plain"}, {"label": "other", "baselines": False, "against": "plain"}]
CHANGES = {"axis": "setting", "margin": 10, "nonmembers": 100, "points": POINTS}


def entry(model, kind, number, attack, strata):
    return {
        "model": model,
        "kind": kind,
        "round": number,
        "attack": attack,
        **membership_rates.summary(list(strata.values())),
        "scores": {
            site: {"members": list(one.members), "nonmembers": list(one.others)}
            for site, one in strata.items()
        },
    }


def stratum(seed, shift, members=8):
    rng = np.random.default_rng(seed)
    return Stratum(rng.normal(shift, 1, members), rng.normal(0, 1, 100))


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Two seeds of two points; members are recognised at `plain` and not at `other`."""
    folder = tmp_path_factory.mktemp("study")
    study = read(folder, **CHANGES)
    for place, (label, shift) in enumerate((("plain", 2.0), ("other", 0.0))):
        for seed in study.seeds:
            run, number = folder / label / f"seed{seed}", 100 * place + 10 * seed
            leave_run(run, seed, run_folder.rows())
            attacks = [
                entry("FL_global", "global", 4, "loss", {"C1": stratum(number, 0.0)}),
                entry("FL_global", "global", 13, "loss", {"C1": stratum(number + 1, shift)}),
                entry("C1_update", "update", 13, "update", {"C1": stratum(number + 2, shift)}),
                entry("C2_update", "update", 13, "update", {"C2": stratum(number + 3, shift, 6)}),
            ]
            content = {"format": membership_rates.FORMAT, "attacks": attacks}
            atomic.write_json(run / "membership" / "membership.json", content)
    return folder, study, study_results.collect(study, folder, configs(study))


def line(content, point, model, number):
    (found,) = [
        one
        for one in content["leakage"]["lines"]
        if (one["point"], one["model"], one["round"]) == (point, model, number)
    ]
    return found


def test_sites_and_seeds_are_pooled_as_strata(measured):
    _, _, content = measured
    assert content["leakage"]["seeds"] == {"plain": 2, "other": 2}
    found = line(content, "plain", "site's update", 13)
    parts = [stratum(10 * seed + 2, 2.0) for seed in (1, 2)]
    parts += [stratum(10 * seed + 3, 2.0, 6) for seed in (1, 2)]
    expected = membership_rates.area(parts)
    assert found["members"] == 2 * 8 + 2 * 6 and found["nonmembers"] == 400
    assert found["auc"]["estimate"] == pytest.approx(expected.estimate)
    assert found["auc"]["low"] == pytest.approx(expected.low)


def test_points_are_compared_at_their_last_round(measured):
    _, _, content = measured
    against = content["leakage"]["against"]
    assert [(one["point"], one["model"], one["verdict"]) for one in against] == [
        ("other", "FL_global", "hidden"),
        ("other", "site's update", "hidden"),
    ]
    assert against[0]["without"] == line(content, "plain", "FL_global", 13)["auc"]


@pytest.mark.parametrize(
    ("with_it", "without", "expected"),
    [
        ((0.45, 0.6), (0.7, 0.9), "hidden"),
        ((0.51, 0.69), (0.7, 0.9), "reduced"),
        ((0.51, 0.71), (0.7, 0.9), "not reduced"),
        ((0.6, 0.9), (0.5, 0.9), "nothing to hide"),
    ],
)
def test_verdicts_by_hand(with_it, without, expected):
    ends = [{"low": low, "high": high} for low, high in (with_it, without)]
    assert leakage_results.compare(*ends) == expected


@pytest.mark.parametrize(
    ("areas", "expected"),
    [
        ([(0.5, 0.6), (0.61, 0.7)], "matters"),
        ([(0.61, 0.7), (0.5, 0.6)], "matters"),
        ([(0.5, 0.6), (0.55, 0.7), (0.61, 0.8)], "matters"),
        ([(0.5, 0.6), (0.6, 0.7)], "undecided"),
        ([(0.5, 0.6), (None, None)], "undecided"),
        ([], "undecided"),
    ],
)
def test_rounds_matter_if_two_intervals_do_not_overlap(areas, expected):
    assert leakage_results.matters({"low": low, "high": high} for low, high in areas) == expected


def test_the_first_points_rounds_have_a_table(measured):
    _, _, content = measured
    head, rows = leakage_results.by_round(content["leakage"])
    assert head == ["Model", "Attack", "Round 4#", "Round 13#", "Rounds"]
    found = [line(content, "plain", "FL_global", number)["auc"] for number in (4, 13)]
    cells = [f"{a['estimate']:.2f} [{a['low']:.2f}, {a['high']:.2f}]" for a in found]
    assert rows == [["FL_global", "loss", *cells, leakage_results.matters(found)]]
    assert "## Leakage by round" in study_results.markdown(content)


def test_the_report_has_the_tables_and_pictures(measured):
    folder, study, content = measured
    text = study_results.markdown(content)
    assert "## What the models give away" in text
    assert text.count("| plain | FL_global | 13 | loss |") == 1
    assert "| plain | FL_global | 4 |" not in text  # the table shows last rounds
    assert "| other | plain | site's update | update |" in text and "| hidden |" in text
    page = html_report.study_page(content, folder)
    assert "What the models give away" in page
    # one picture per model over the points, one over the rounds
    assert leakage_results.section(content["leakage"]).count("data:image/png") == 2 + 1
    bare = leakage_results.collect(study, [], folder)
    assert "No run has been measured yet." in leakage_results.markdown(bare)
    assert "No run has been measured yet" in leakage_results.section(bare)


def test_a_result_of_a_newer_release_is_refused(measured, tmp_path):
    _, study, _ = measured
    atomic.write_json(tmp_path / "r" / "membership" / "membership.json", {"format": 99})
    with pytest.raises(ValueError, match="has format 99"):
        leakage_results.collect(study, [{"label": "plain", "folder": "r"}], tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"format": 1}',
        '{"attacks": [{}]}',
        '{"attacks": [{"kind": "global", "model": "m", "round": 1, "attack": "loss"}]}',
        '{"attacks": [{"kind": "global", "model": "m", "round": 1, "attack": "loss", "scores": []}]}',
        '{"attacks": [{"kind": "global", "model": "m", "round": 1, "attack": "loss", "scores": '
        '{"C1": {"members": [], "nonmembers": [1]}}}]}',
    ],
)
def test_a_result_that_the_program_did_not_write_is_named(measured, tmp_path, content):
    _, study, _ = measured
    file = tmp_path / "r" / "membership" / "membership.json"
    atomic.write_text(file, content)
    with pytest.raises(
        ValueError, match=r"membership\.json: not .*; restore it, or remove the fold"
    ):
        leakage_results.collect(study, [{"label": "plain", "folder": "r"}], tmp_path)


def test_a_study_measures_every_run_once_and_keeps_the_updates_for_it(tmp_path):
    study, runs = read(tmp_path, **CHANGES), tmp_path / "runs" / "s"
    specs = {
        (p.label, seed): study_file.run_spec(study, p, seed, runs, parse)
        for p in study.points
        for seed in study.seeds
    }
    kept = runs / "plain" / "seed1" / "server" / "kept"
    for number in (12, 13):
        (kept / f"round_{number:03d}").mkdir(parents=True)
    programs = FakePrograms()
    assert runner.run(study, specs, after_each=lambda: None, programs=programs) == []
    assert programs.started.count("membership membership") == 4
    assert programs.flags["serve server"]["keep_updates"] == str(CONFIG.num_rounds)
    assert [folder.name for folder in kept.iterdir()] == ["round_013"]
    cohorts = tmp_path / "runs" / "cohorts"
    scans = [f for f in programs.all_flags if f.get("output") == str(cohorts / "C1-100-seed900002")]
    assert [(made["cases"], made["seed"]) for made in scans] == [("100", "900002")]
    flags = programs.flags["membership membership"]
    assert flags["run"] == str(runs / "other" / "seed2")
    prepared = cohorts / "C1-100-seed900002-prepared-3x3x3mm--200to250hu" / "C1"
    assert flags["nonmembers"].startswith(f"C1:{prepared},")
    made = [f["split"] for f in programs.all_flags if f.get("site_folder") == str(prepared)]
    assert made == ["0,0,100"]  # once for all runs of the seed
    programs.started.clear()
    assert runner.run(study, specs, after_each=lambda: None, programs=programs) == []
    assert programs.started == []


def test_a_kill_while_updates_are_removed_does_not_ask_for_them_again(tmp_path, monkeypatch):
    study, runs = read(tmp_path, **{**CHANGES, "seeds": [1]}), tmp_path / "runs" / "s"
    spec = study_file.run_spec(study, study.points[0], 1, runs, parse)
    kept = spec.folder / "server" / "kept"
    for number in (12, 13, 14):
        (kept / f"round_{number:03d}").mkdir(parents=True)

    class Measured(FakePrograms):
        def start(self, name, module, arguments, **named):
            if module == "experiments.membership":
                atomic.write_text(spec.folder / "membership" / "membership.html", "page")
            return super().start(name, module, arguments, **named)

    programs = Measured()

    def stages():
        run = RunFolder(spec.folder, spec.flags_text, programs=programs)
        run_stages.Stages(spec, run).membership()

    with monkeypatch.context() as killed:
        killed.setattr(run_stages.shutil, "rmtree", raises(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            stages()
    stages()
    assert programs.started.count("membership membership") == 1
    assert [folder.name for folder in kept.iterdir()] == ["round_014"]


def raises(error):
    def fail(*_, **__):
        raise error

    return fail


def test_the_cost_counts_non_members_once_per_seed(tmp_path):
    study, runs = read(tmp_path, **CHANGES), tmp_path / "runs" / "s"
    specs = {(p.label, 1): study_file.run_spec(study, p, 1, runs, parse) for p in study.points}
    costs = runner._costs(specs)
    first, second = (costs[label, 1][NONMEMBERS] for label in ("plain", "other"))
    assert second == 0 < first
    other = dataclasses.replace(specs["other", 1].config, spacing_mm=(5.0, 5.0, 5.0))
    specs["other", 1] = dataclasses.replace(specs["other", 1], config=other)
    assert 0 < runner._costs(specs)["other", 1][NONMEMBERS] < first / 5
    assert costs["plain", 1][MEMBERSHIP] > 0
    plain = dataclasses.replace(specs["plain", 1], nonmembers=0)
    assert MEMBERSHIP not in run_cost.estimated_seconds(plain)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"nonmembers": "many"}, "`nonmembers` is 'many'; expected a number of patients"),
        ({"nonmembers": -1}, "`nonmembers` is -1"),
        ({"axis": None, "margin": None, "points": POINTS[:1]}, "`nonmembers` is given without"),
    ],
)
def test_a_study_file_that_cannot_be_measured_is_refused(tmp_path, changes, match):
    with pytest.raises(ValueError, match=match):
        read(tmp_path, **{**CHANGES, **changes})


def test_sites_of_mixed_hospitals_have_no_non_members(tmp_path):
    sites = {
        "C1": {"cohort": {"C1": 30}, "split": [18, 6, 6]},
        "C2": {"cohort": {"C1": 20, "C2": 20}, "split": [20, 7, 7]},
    }
    study = read(tmp_path, **{**CHANGES, "sites": sites})
    with pytest.raises(ValueError, match=r"site C2: membership inference needs .* one hospital"):
        study_file.run_spec(study, study.points[0], 1, tmp_path, parse)


def test_the_disk_holds_the_scans_of_non_members_once_per_seed(tmp_path):
    study, runs = read(tmp_path, **CHANGES), tmp_path / "runs" / "s"
    spec = study_file.run_spec(study, study.points[0], 1, runs, parse)
    none = dataclasses.replace(spec, nonmembers=0)
    made, shared = (
        run_cost.disk_bytes(spec, others=others) - run_cost.disk_bytes(none)
        for others in (True, False)
    )
    assert made == pytest.approx(200 * 17e6) and shared == 0


def test_a_model_that_passes_no_filter_is_not_taken_for_a_filtered_one(measured):
    folder, study, content = measured
    words = "stays at its site in: other; its lines"
    assert words not in study_results.markdown(content)
    policy = PrivacyPolicy(filter="percentile", percentile=75.0)
    points = [study.points[0], dataclasses.replace(study.points[1], privacy={"C1": policy})]
    filtered = dataclasses.replace(study, points=tuple(points))
    found = leakage_results.collect(filtered, content["runs"], folder)
    assert words in "".join(leakage_results.markdown(found))
    assert words in leakage_results.section(found)
