"""The documentation pages: links resolve, and commands, flags and files exist."""

from __future__ import annotations

import functools
import json
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("federated/**/*.md")],
    key=lambda path: path.relative_to(ROOT),
)
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
_OF_ABSL = {"help", "flagfile"}
_PACKAGES = ("c2fnas", "experiments", "federated", "preprocessing", "runkit")
_OF_OTHER_PROGRAMS = {"ct", "enable-supernode-auth", "isolation"}  # of a benchmark, of Flower
_NOT_THERE = {"study.flags", "utils.py"}  # written by the reader; named as what there is not


def prose(page: pathlib.Path) -> str:
    """Returns a page without its blocks of code."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def spans(page: pathlib.Path) -> list[str]:
    """Returns the pieces of code within the text of a page."""
    return re.findall(r"`([^`\n]+)`", prose(page))


def commands(page: pathlib.Path) -> Iterator[tuple[str, str]]:
    """Yields (module, arguments) of every `python -m module arguments` on a page."""
    text = re.sub(r"\\\n\s*", " ", page.read_text(encoding="utf-8"))
    yield from re.findall(r"-m ((?:experiments|tests)\.[\w.]+)([^\n`#;|]*)", text)


def anchors(page: pathlib.Path) -> set[str]:
    """Returns the anchors that GitHub makes of the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@functools.cache
def flags_of_programs() -> dict[str, set[str]]:
    """Returns the flags of every program, read by importing each of them in one other process."""
    code = (
        "import importlib, json\n"
        "from absl import flags\n"
        "from experiments import __main__ as listed\n"
        "found = {}\n"
        "builtin = set(flags.FLAGS)\n"
        "for name in [name for names in listed.GROUPS.values() for name in names]:\n"
        "    importlib.import_module(f'experiments.{name}')\n"
        "    found[name] = sorted(set(flags.FLAGS) - builtin)\n"
        "    for flag in found[name]: delattr(flags.FLAGS, flag)\n"
        "print(json.dumps(found))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return {name: set(flags) for name, flags in json.loads(done.stdout).items()}


@functools.cache
def sources() -> set[str]:
    """Returns all files of the source, as paths below the root."""
    return {
        str(path.relative_to(ROOT))
        for folder in (*_PACKAGES, "examples", "tests")
        for path in (ROOT / folder).rglob("*")
    }


def exists(flag: str, flags: set[str]) -> bool:
    return flag in flags | _OF_ABSL or flag.removeprefix("no") in flags


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_within_the_repository_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", prose(page))):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path) if path else page
        assert linked.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(linked), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_runs_a_program_that_has_its_flags(page):
    for module, arguments in commands(page):
        package, _, name = module.partition(".")
        path = ROOT / module.replace(".", "/")
        found = path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()
        assert found, f"{page.name}: {module}"
        if package == "experiments":
            flags = flags_of_programs()[name]
            for flag in re.findall(r"--(\w+)", arguments):
                assert exists(flag, flags), f"{page.name}: {module} has no flag --{flag}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_flag_in_the_text_is_one_of_a_program(page):
    known = set().union(*flags_of_programs().values())
    for span in spans(page):
        program = re.match(r"(?:experiments\.)?(\w+) --", span)
        own = flags_of_programs().get(program[1], known) if program else known
        for flag in re.findall(r"(?:^| )--([\w-]+)", span):
            if flag not in _OF_OTHER_PROGRAMS:
                assert exists(flag, own), f"{page.name}: no program has the flag of {span!r}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_of_the_source_that_is_named_exists(page):
    for span in spans(page):
        if re.fullmatch(r"[\w/.-]+\.(?:py|proto|flags)", span) and span not in _NOT_THERE:
            assert any(f"/{path}".endswith(f"/{span}") for path in sources()), (
                f"{page.name}: {span}"
            )


def test_every_target_and_study_of_make_exists():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z0-9]+):", makefile, re.MULTILINE))
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\bmake ([a-z0-9]+)\b(?= +[A-Z]+=|`|  +#|$)", text, re.MULTILINE):
            assert target in targets, f"{page.name}: make {target}"
        for study in re.findall(r"\bSTUDY=(\w+)", text):
            assert (ROOT / "experiments" / "studies" / f"{study}.json").is_file(), study


def table_of(name):
    """Returns the cells of the table that docs/reproduction.md marks as that of a file."""
    text = (ROOT / "docs" / "reproduction.md").read_text(encoding="utf-8")
    table = text.partition(f"<!-- table: results/{name} -->\n")[2].partition("\n\n")[0]
    cells = [[cell.strip() for cell in line.strip("| ").split("|")] for line in table.split("\n")]
    return cells[2:]


def test_what_is_said_of_the_demo_follows_from_its_study():
    study = json.loads((ROOT / "docs" / "results" / "study.json").read_text(encoding="utf-8"))
    text = " ".join((ROOT / "docs" / "reproduction.md").read_text(encoding="utf-8").split())
    by_seed = {
        name: {column: list(cell["by_seed"].values()) for column, cell in columns.items()}
        for name, columns in study["table"].items()
    }

    def mean(name, column):
        values = by_seed[name][column]
        return sum(values) / len(values)

    def above(name, other, column="average"):
        return f"{mean(name, column) - mean(other, column):.1f}"

    def differences(name, other):
        pairs = zip(by_seed[name]["average"], by_seed[other]["average"], strict=True)
        return [one - two for one, two in pairs]

    kept = 100 * mean("C1_FL_local", "C2_tumour") / mean("FL_global", "C2_tumour")
    assert f"C1_FL_local keeps {kept:.0f} % of FL_global's tumour Dice" in text
    ahead = above("FL_global", "C2_baseline")
    by_training = [f"{points:+.1f}" for points in differences("FL_global", "C2_baseline")]
    said = f"{ahead} points above C2_baseline's; by seed: {', '.join(by_training[:-1])} and"
    assert f"FL_global's Average is {said} {by_training[-1]}." in text
    higher, *lower = differences("FL_global_no_vae", "FL_global")
    said = f"{higher:.1f} points higher in seed 1, {-lower[0]:.1f} points lower in seed 2, where"
    assert f"Without it FL_global's Average is {said}" in text
    assert f"learned badly, and {-lower[1]:.1f} lower in seed 3" in text
    judged = {verdict["key"]: verdict for verdict in study["verdicts"]}
    assert judged["vae_helps"]["verdict"] == "undecided"
    ahead = above("pooled", "FL_global")
    pooled, federated = (
        study["table"][name]["average"]["by_seed"] for name in ("pooled", "FL_global")
    )
    behind = {
        seed: federated[seed] - pooled[seed] for seed in pooled if federated[seed] > pooled[seed]
    }
    ((seed, points),) = behind.items()
    said = f"{ahead} points above FL_global on average, but {points:.1f} points below it in seed {seed}"
    assert said in text
    assert "lower Dice, as in the paper; they find as many" in text
    for name in ("C1_FL_local", "C2_FL_local", "FL_global"):
        assert mean(name, "C2_tumour") < mean("C2_baseline", "C2_tumour")
        found = study["patients"][name]["tumours_found"]
        assert found == study["patients"]["C2_baseline"]["tumours_found"]
    gated = study["patients"]["FL_global_gated"]
    alarmed = round(gated["specificity"]["count"] * (1 - gated["specificity"]["estimate"]))
    lost = round(gated["sensitivity"]["count"] * (1 - gated["sensitivity"]["estimate"]))
    cost = above("FL_global", "FL_global_gated", "C2_tumour")
    assert (alarmed, lost) == (0, 3)
    assert (
        f"none of 18 for FL_global, and costs {cost} points of tumour Dice and three of 21" in text
    )
    first_four = [verdict["verdict"] for verdict in study["verdicts"][:4]]
    assert first_four == ["undecided"] * 4
    named = [v["claim"] for v in study["verdicts"] if v["verdict"] != "undecided"]
    assert len(named) == 1 and "gone" in named[0]


def test_the_table_of_the_tuning_is_that_of_its_runs():
    expected = []
    for run in json.loads((ROOT / "docs" / "results" / "tuning.json").read_text())["runs"]:
        settings, rows = run["settings"], run["rows"]
        assert run["seed"] > 100 and settings["vae_rate"] == 0.03
        evidence = " with evidence" if settings["absence_evidence"] else ""
        cells = [
            str(run["seed"]),
            f"{settings['num_rounds']} x {settings['local_epochs']}",
            str(settings["batch_size"]),
            settings["missing_labels"] + evidence,
            str(settings["vae_weight"]),
            settings["aggregation"],
        ]
        for row, column in (
            ("C2_baseline", "average"),
            ("FL_global", "C2_tumour"),
            ("FL_global", "average"),
            ("C1_FL_local", "C2_tumour"),
            ("C1_FL_local", "average"),
        ):
            cells.append(f"{rows[row][column]:.1f}" if row in rows else "–")
        expected.append(cells)
    assert table_of("tuning.json") == expected


def test_the_comparison_of_losses_is_that_of_the_tuning():
    runs = json.loads((ROOT / "docs" / "results" / "tuning.json").read_text())["runs"]
    text = (ROOT / "docs" / "reproduction.md").read_text(encoding="utf-8")
    demo = (ROOT / "experiments" / "flagfiles" / "demo.flags").read_text()
    same = {
        name: type(value)(re.search(rf"^--{name}=(.+)$", demo, re.M)[1])
        for name, value in runs[0]["settings"].items()
        if name in ("num_rounds", "local_epochs", "batch_size", "vae_rate")
    } | {"aggregation": "fedavg", "vae_weight": 1}
    for label, missing, evidence in (
        ("distil with evidence", "distil", True),
        ("exclude", "exclude", False),
        ("restricted", "restricted", False),
    ):
        settings = {**same, "missing_labels": missing, "absence_evidence": evidence}
        rows = {run["seed"]: run["rows"] for run in runs if run["settings"] == settings}
        assert sorted(rows) == [101, 102, 103, 104, 105]
        averages = [row["FL_global"]["average"] for row in rows.values()]
        local, joint = (
            sum(row[name]["C2_tumour"] for row in rows.values())
            for name in ("C1_FL_local", "FL_global")
        )
        cells = f"{sum(averages) / 5:.1f} | {min(averages):.1f} | {100 * local / joint:.0f} %"
        assert f"| {label} | {cells} |" in text


def test_the_genotype_that_is_shown_is_one_and_the_command_writes_a_built_in_one():
    from c2fnas import genotype

    text = (ROOT / "docs" / "network.md").read_text(encoding="utf-8")
    shown = re.search(r"<!-- genotype -->\n```json\n(.*?)```", text, re.DOTALL)
    mine = genotype.Genotype.from_json(json.loads(shown[1]))
    assert (mine.name, len(mine.cells), mine.depth) == ("mine", 4, 2)
    code = re.search(r'python -c "(.*?)" > mine\.json', text)[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert genotype.Genotype.from_json(json.loads(done.stdout)) == genotype.load("c2fnas")


def test_the_words_that_are_quoted_for_a_claims_power_are_those_of_the_page():
    quoted = re.findall(r'\("(\w+) [\d.]+ \([\d.]+ after Holm\)"\)', prose_of("verdicts.md"))
    printed = re.findall(r"(\w+) [\d.]+ \([\d.]+ after Holm\)", prose_of("reproduction.md"))
    assert quoted and set(quoted) <= set(printed)


def test_the_differences_that_a_study_can_show_are_those_of_all_claims_of_today():
    """Further claims make Holm's correction stricter."""
    from tests.benchmarks import verdict_rates

    def points(value: float) -> str:
        return "none" if value > 100 else f"{value:.0f}"

    expected = []
    for trainings in (3, 5, 10):
        for where, patients in (("both sites", 13), ("one site, 6", 6)):
            found = [verdict_rates.detectable(trainings, patients, sd) for sd in (3.0, 5.0, 8.0)]
            cells = [f"{points(alone)} ({points(after)})" for alone, after in found]
            expected.append("| " + " | ".join([str(trainings), where, *cells]) + " |")
    text = (ROOT / "docs" / "verdicts.md").read_text(encoding="utf-8")
    assert "\n".join(expected) in text
    assert f"correction over the {verdict_rates.PARTS} parts of all claims" in text


def prose_of(name: str) -> str:
    return prose(ROOT / "docs" / name)
