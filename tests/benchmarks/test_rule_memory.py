import pathlib
import sys

import pytest

from tests.benchmarks import rule_memory


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_a_round_takes_less_memory_than_its_updates():
    """With 32 sites and a model of 2 MiB, under a rule that gathers all updates of a slab."""
    found = rule_memory.measure(["median"], sites=32, values=2**19, repetitions=1)
    ((growth,),) = found.values()
    assert 0 < growth < 32, "the updates have 64 MiB"


def test_the_table_states_what_the_updates_take_and_the_median_of_each_rule():
    lines = rule_memory.table(
        {(32, 2**18): {"a": [1.0, 9.0, 2.0], "b": [4.0]}, (3, 2**20): {"a": [5.0], "b": [6.0]}}
    ).splitlines()
    assert lines == [
        "| sites | model, MiB | all updates, MiB | a | b |",
        "|---|---|---|---|---|",
        "| 32 | 1.0 | 32 | 2.0 | 4.0 |",
        "| 3 | 4.0 | 12 | 5.0 | 6.0 |",
    ]


def test_the_table_of_the_documentation_is_that_of_the_measured_results():
    docs = pathlib.Path(__file__).parents[2] / "docs"
    text = (docs / "federation.md").read_text(encoding="utf-8")
    found = text.partition("<!-- table: results/rule_memory.json -->\n")[2].partition("\n\n")[0]
    assert found == rule_memory.table(rule_memory.read(docs / "results" / "rule_memory.json"))
