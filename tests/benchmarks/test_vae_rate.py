import json
import pathlib

from tests.benchmarks import vae_rate

DOCS = pathlib.Path(__file__).parents[2] / "docs"


def test_a_history_gives_the_dice_by_step_and_the_highest_reconstruction():
    history = [
        {"event": "epoch", "step": 10, "reconstruction": 7.5},
        {"event": "devices"},
        {"event": "epoch", "step": 20, "reconstruction": 0.5},
        {"event": "validation", "step": 20, "dice": 0.25},
    ]
    assert vae_rate.result(history) == {"dice": {"20": 0.25}, "highest_reconstruction": 7.5}
    assert vae_rate.result([{"event": "epoch", "step": 10}])["highest_reconstruction"] is None


def test_the_table_of_the_documentation_is_that_of_the_measured_results():
    text = (DOCS / "training.md").read_text(encoding="utf-8")
    found = text.partition("<!-- table: results/vae_rate.json -->\n")[2].partition("\n\n")[0]
    results = json.loads((DOCS / "results" / "vae_rate.json").read_text(encoding="utf-8"))
    assert results["seed"] > 100, "a seed for which no table is reported"
    assert found == vae_rate.table(results)
