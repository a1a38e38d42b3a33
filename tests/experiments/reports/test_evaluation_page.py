import csv
import html.parser
import json
import shutil

import numpy as np
import pytest

from experiments.reports import evaluation_page
from federated import simulation
from federated.audit.chain import BrokenChain
from federated.audit.log import AuditLog
from federated.tensors import tensor_files
from runkit import events
from tests.experiments import evaluated_store, run_folder
from tests.experiments.evaluated_store import MODELS, PLAN, WEIGHTS, Site


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return evaluated_store.leave(tmp_path_factory.mktemp("evaluation"))


@pytest.fixture(scope="module")
def written(store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    evaluation_page.write(folder, evaluation_page.document(store))
    return folder


CELLS = {  # model -> Dice in per cent at C1 (pancreas), C2 (pancreas, tumour), everywhere
    "C1_baseline": ("85.0 [21.5, 100.0], n = 2", "–", "50.0 [25.2, 74.8], n = 3"),
    "FL_global": ("80.0 [12.6, 96.8], n = 2", "–"),
}


def test_the_same_table_stands_in_markdown_and_html(written):
    markdown = (written / "evaluation.md").read_text(encoding="utf-8")
    page = Cells()
    page.feed((written / "evaluation.html").read_text(encoding="utf-8"))
    for model, cells in CELLS.items():
        assert f"| {model} | {' | '.join(cells)} | " in markdown
        assert [model, *cells] in [row[: 1 + len(cells)] for row in page.rows]
    head = "| Model | C1 pancreas | C1 tumour | C2 pancreas | C2 tumour | all sites pancreas | all sites tumour |"
    assert head in markdown and markdown.startswith("# Evaluation of 2 models at 2 sites\n")
    assert head.strip("| ").split(" | ") in page.rows
    assert "The evaluation is finished." in markdown and "Patients" in markdown
    assert "Dice on each scan's own grid" in markdown
    assert "Surface Dice" not in markdown.replace("both kinds of Dice", "")  # no row has it


def test_json_holds_the_rows_the_models_and_the_log_that_they_are_checked_against(written, store):
    content = json.loads((written / "evaluation.json").read_text(encoding="utf-8"))
    assert content["cases"] and len(content["cases"]) == len(run_folder.rows(MODELS))
    digests = {
        name: tensor_files.file_digest(
            tensor_files.TensorFile(store / "models" / f"{name}.safetensors")
        )
        for name in MODELS
    }
    assert content["models"] == digests and content["plan"] == PLAN
    assert content["sites"] == {
        "C1": {"reported": True, "cases": 2, "missing": {}},
        "C2": {"reported": True, "cases": 3, "missing": {}},
    }
    log = (store / "events.jsonl").read_text().splitlines()
    assert content["audit"]["lines"] == len(log)
    assert content["audit"]["head"] == json.loads(log[-1])["hash"]


def test_csv_holds_every_measure(written):
    with open(written / "evaluation.csv", encoding="utf-8", newline="") as stream:
        lines = list(csv.DictReader(stream))
    (line,) = (
        one
        for one in lines
        if (one["model"], one["site"], one["grid"], one["measure"], one["class"])
        == ("C1_baseline", "all sites", "training", "dice", "pancreas")
    )
    assert float(line["mean"]) == pytest.approx(0.64) and line["cases"] == "5"
    assert {"truth_ml", "volume_ml", "score"} <= {one["measure"] for one in lines}


def test_a_row_that_was_changed_gives_no_table(store, tmp_path):
    shutil.copytree(store, tmp_path / "store")
    rows = tmp_path / "store" / "rows.jsonl"
    rows.write_text(rows.read_text().replace('"dice_pancreas": 0.9', '"dice_pancreas": 0.99', 1))
    with pytest.raises(BrokenChain, match="rows of site 'C1'"):
        evaluation_page.document(tmp_path / "store")


def shortened(store, folder):
    """A copy of a store whose log is in small segments, the first of which have been removed."""
    shutil.copytree(store, folder)
    path = folder / "events.jsonl"
    records = list(events.EventLog(path).read())
    path.unlink()
    log = AuditLog(path, segment_bytes=1000, keep_segments=1)
    for record in records:
        chained = ("time", "event", "line", "previous", "hash", "signature")
        log.append(
            record["event"], **{key: value for key, value in record.items() if key not in chained}
        )
    return folder


def test_a_log_whose_first_segments_were_removed_gives_the_same_report(store, tmp_path):
    few = evaluation_page.document(shortened(store, tmp_path / "store"))
    whole = evaluation_page.document(store)
    removed, audit = few["audit"]["removed_lines"], few.pop("audit")
    first = next(events.EventLog(tmp_path / "store" / "events.jsonl").read())
    assert removed == first["line"] - 1 > 0 == whole.pop("audit")["removed_lines"]
    assert few == whole and len(few["models"]) == len(few["sites"]) == 2
    text = evaluation_page.markdown({**few, "audit": audit})
    assert f"Lines 1 to {removed} of it were removed by the server's setting. Release" in text


class TrainingSite(Site):
    """Sends the number of the round as its weights, and scores those of round 1 highest."""

    def score(self, weights):
        return {"dice": 1.0 / (1.0 + abs(float(weights["stem/kernel"][0]) - 1.0))}

    def train(self, weights, round_number):
        return {"stem/kernel": np.full(3, round_number, np.float32)}, {}

    def local_models(self):
        return {f"{self._name}_baseline": WEIGHTS}

    def evaluate(self, model_name, weights):
        known = "FL_global" if model_name == "FL_best_global" else model_name
        return [{**row, "model": model_name} for row in super().evaluate(known, weights)]


def test_so_does_the_log_of_a_training_run_although_the_round_of_its_best_model_is_gone(tmp_path):
    initial = tmp_path / "initial.safetensors"
    tensor_files.save(
        initial, {"stem/kernel": np.full(3, 9, np.float32)}, {"plan": json.dumps(PLAN)}
    )
    trainers = {name: TrainingSite(name) for name in ("C1", "C2")}
    simulation.run(trainers, initial, tmp_path / "run", num_rounds=3)
    whole = evaluation_page.document(tmp_path / "run" / "server")
    ones = tensor_files.save(tmp_path / "ones.safetensors", {"stem/kernel": np.ones(3, np.float32)})
    assert whole["models"]["FL_best_global"] == ones
    few = evaluation_page.document(shortened(tmp_path / "run" / "server", tmp_path / "few"))
    rounds, audit = few["audit"]["removed_rounds"], few.pop("audit")
    assert rounds == 3 and whole.pop("audit")["removed_rounds"] == 0
    assert few == whole and len(few["models"]) == 4
    text = evaluation_page.markdown({**few, "audit": audit})
    assert "rounds up to 3 and the choice of the best model are not checked" in text


class WorseWithEveryRound(TrainingSite):
    def train(self, weights, round_number):
        return {"stem/kernel": np.full(3, 1 + round_number, np.float32)}, {}


def test_an_initial_model_that_scores_best_is_among_the_models(tmp_path):
    initial = tmp_path / "initial.safetensors"
    digest = tensor_files.save(
        initial, {"stem/kernel": np.ones(3, np.float32)}, {"plan": json.dumps(PLAN)}
    )
    trainers = {name: WorseWithEveryRound(name) for name in ("C1", "C2")}
    done = simulation.run(trainers, initial, tmp_path / "run", num_rounds=2)
    assert done.best_round == 0
    content = evaluation_page.document(tmp_path / "run" / "server")
    assert content["models"]["FL_best_global"] == digest
    assert evaluation_page.title(content) == "Evaluation of 4 models at 2 sites"


def test_a_run_in_progress_says_what_is_missing(store, tmp_path, written):
    content = json.loads((written / "evaluation.json").read_text(encoding="utf-8"))
    content = {**content, "finished": False}
    content["sites"]["C3"] = {"reported": False, "cases": 0}
    text = evaluation_page.markdown(content)
    assert "still running" in text and "No rows came from C3." in text
    assert "| C3 | 0 | missing |" in text


@pytest.mark.parametrize(
    ("omits", "cases", "missing"),
    [
        (lambda row: row["model"] == "FL_global" and row["case"] > 1, 3, {"FL_global": 2}),
        (lambda row: row["model"] == "C1_baseline", 3, {"C1_baseline": 3}),
        (lambda row: row["case"] == 2, 2, {"C1_baseline": 1, "FL_global": 1}),
        (lambda row: True, 0, {"C1_baseline": 3, "FL_global": 3}),
    ],
)
def test_a_site_that_leaves_out_cases_or_models_is_named(tmp_path, omits, cases, missing):
    """It could choose what a model's mean is over, and make one model look better than another."""
    content = evaluation_page.document(evaluated_store.leave(tmp_path, omits))
    assert content["sites"] == {
        "C1": {"reported": True, "cases": 2, "missing": {}},
        "C2": {"reported": True, "cases": cases, "missing": missing},
    }
    listed = ", ".join(
        f"{model} {count} {'case' if count == 1 else 'cases'}" for model, count in missing.items()
    )
    text = evaluation_page.markdown(content)
    assert f"| C2 | {cases} | received; without a row: {listed} |" in text
    assert "C2 sent rows of only some models or cases" in text
    assert "C2 sent rows of only some models or cases" in evaluation_page.html(content)


def test_the_page_says_that_a_models_own_gate_is_not_applied(written):
    for kind in ("md", "html"):
        text = (written / f"evaluation.{kind}").read_text(encoding="utf-8")
        assert "the healthy gate that a model's folder may hold is not applied here" in (
            text.replace("&#x27;", "'")
        )
        assert "only some models or cases" not in text


class Cells(html.parser.HTMLParser):
    """Collects the cells of all tables, row by row."""

    def __init__(self):
        super().__init__()
        self.rows, self._inside = [], False

    def handle_starttag(self, tag, attrs):
        assert tag not in ("script", "link", "img")
        if tag == "tr":
            self.rows.append([])
        self._inside = tag in ("td", "th")

    def handle_data(self, data):
        if self._inside:
            self.rows[-1].append(data)
            self._inside = False
