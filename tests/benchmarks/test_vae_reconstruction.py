import json
import pathlib

from tests.benchmarks import vae_reconstruction

DOCS = pathlib.Path(__file__).parents[2] / "docs"


def row(site, branch, mean_image, patch_mean):
    return {"site": site, "branch": branch, "mean_image": mean_image, "patch_mean": patch_mean}


def test_the_table_gives_the_range_over_runs():
    found = [row("C1", 0.204, 0.3, 0.25), row("C2", 0.1, 0.5, 0.4), row("C1", 0.196, 0.32, 0.25)]
    assert vae_reconstruction.table(found).splitlines()[2:] == [
        "| the branch of the global model | 0.20 | 0.10 |",
        "| the mean image | 0.30 to 0.32 | 0.50 |",
        "| the patch's own mean | 0.25 | 0.40 |",
    ]


def test_the_table_of_the_documentation_is_that_of_the_measured_results():
    text = (DOCS / "training.md").read_text(encoding="utf-8")
    mark = "<!-- table: results/vae_reconstruction.json -->\n"
    found = text.partition(mark)[2].partition("\n\n")[0]
    results = (DOCS / "results" / "vae_reconstruction.json").read_text(encoding="utf-8")
    assert found == vae_reconstruction.table(json.loads(results)["found"])
