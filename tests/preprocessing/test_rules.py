import pathlib
import pickle
import re

import pytest

from preprocessing import rules

DOCS = pathlib.Path(__file__).parents[2] / "docs" / "data.md"


def test_docs_and_code_list_the_same_rules():
    listed = re.findall(
        r"^\| ([A-Z]\d\d) \| ([a-z-]+)( \(warning\))? \|", DOCS.read_text(), re.MULTILINE
    )
    assert listed == [
        (rule.id, rule.name, " (warning)" if rule.severity == "warning" else "")
        for rule in rules.RULES
    ]


def test_ids_and_names_are_distinct():
    assert len(rules.BY_ID) == len(rules.RULES) == len({rule.name for rule in rules.RULES})
    assert all(re.fullmatch(r"[FGLCDMXN]\d\d", rule.id) for rule in rules.RULES)


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.id)
def test_every_rule_has_a_demand_and_a_remedy_and_survives_pickling(rule):
    error = rules.broken(rule, "scan_7.nii.gz", "what was found")
    assert str(error) == f"scan_7.nii.gz: what was found [{rule.id} {rule.name}]; {rule.fix}"
    assert rule.demand and rule.fix and "\n" not in rule.demand + rule.fix
    copy = pickle.loads(pickle.dumps(error))  # the way from a worker process
    assert (copy.rule, copy.file, copy.problem, copy.fix, str(copy)) == (
        rule.id,
        error.file,
        error.problem,
        error.fix,
        str(error),
    )


def test_only_judgements_can_be_accepted():
    assert {rule.id for rule in rules.RULES if rule.acceptable} == {
        "L05",
        "C04",
        "C05",
        "C06",
        "C07",
    }
