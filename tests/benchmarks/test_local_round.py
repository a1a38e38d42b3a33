import json
import pathlib

from tests.benchmarks import local_round

DOCS = pathlib.Path(__file__).parents[2] / "docs"


def test_the_table_has_a_line_per_model_and_a_column_per_round():
    rows = [
        {"model": model, "round": number, "C2": {"dice_tumour": dice}}
        for model, number, dice in (
            ("received", 11, 0.2),
            ("aggregated", 11, 0.9),
            ("received", 15, 0.4),
            ("background", 11, 0.0),
            ("background", 15, 0.001),
            ("distil, evidence", 11, 0.31),
            ("distil, evidence", 15, 0.32),
        )
    ]
    assert local_round.table({"rows": rows}).splitlines() == [
        "| tumour Dice (%) at C2 | round 11 | round 15 |",
        "|---|---:|---:|",
        "| global model that C1 received | 20.0 | 40.0 |",
        "| after C1's round, `background` | 0.0 | 0.1 |",
        "| `distil` with `--absence_evidence` | 31.0 | 32.0 |",
    ]


def test_the_table_of_the_documentation_is_that_of_the_measured_results():
    text = (DOCS / "missing-labels.md").read_text(encoding="utf-8")
    found = text.partition("<!-- table: results/local_round.json -->\n")[2].partition("\n\n")[0]
    results = json.loads((DOCS / "results" / "local_round.json").read_text(encoding="utf-8"))
    assert results["seed"] > 100, "a seed for which no table is reported"
    assert found == local_round.table(results)
