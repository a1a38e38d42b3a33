import dataclasses
import types

import numpy as np
import pytest

from c2fnas import genotype, model_folder, named_weights
from c2fnas.scores.healthy_gate import HealthyGate
from experiments.configuration import ExperimentConfig
from experiments.models import model_folders
from experiments.results import gated_rows
from federated.site.journal import Journal
from federated.site.private_arrays import PrivateArrays
from federated.tensors import tensor_files
from federated.tensors.weights import specs_of
from preprocessing.volume import Grid
from runkit import atomic, events
from tests.experiments import programs, run_folder
from tests.experiments.study import GENOTYPE

SPACINGS = {"C1": [(0.7, 0.8, 1.0), (0.6, 0.9, 0.8)], "C2": [(0.68, 0.68, 5.0)]}


class Store:
    """A prepared site as far as a model's description reads it: its training cases' grids."""

    def __init__(self, root):
        self.site = root.parent.name
        self.declared = {"pancreas": "complete", "tumour": "absent"} if self.site == "C1" else None
        self._grids = [
            Grid((500, 400, 60), np.diag([-x, y, z, 1.0])) for x, y, z in SPACINGS[self.site]
        ]

    def case_ids(self, split):
        return tuple(range(len(self._grids))) if split == "training" else (0,)

    def open(self, case_id):
        return types.SimpleNamespace(native=self._grids[case_id])


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(model_folders, "CaseStore", Store)
    atomic.write_json(tmp_path / "genotype.json", GENOTYPE)
    config = ExperimentConfig(
        profile="tiny", seed=5, genotype=str(tmp_path / "genotype.json"), filters=4, vae="none", latent_size=4, classifier_bias="zero",
        class_prior=(0.9, 0.08, 0.02), spacing_mm=(3.0, 3.0, 3.0), window_hu=(-200.0, 250.0), patch_size=(16, 16, 8), patches_per_case=1,
        foreground_fraction=0.5, batch_size=2, learning_rate=0.01, final_learning_rate=0.001, kl="voxels", num_rounds=3, local_epochs=2,
        inference_window=(16, 16, 8), inference_overlap=0.25, inference_blending="constant",
    )  # fmt: skip
    genes = genotype.Genotype.from_json(GENOTYPE)

    def weights(value):
        shapes = {c.name: (*c.kernel, c.channels_in, c.channels_out) for c in genes.convolutions()}
        return {name: np.full(shape, value, np.float32) for name, shape in shapes.items()}

    for site in SPACINGS:
        atomic.write_json(tmp_path / "sites" / site / "cases" / "index.json", {})
    files = [
        "sites/C1/baseline/best",
        "sites/C2/baseline/best",
        "sites/C1/federated/best",
        "server/global/round_009",
        "server/global/round_010",
    ]
    for value, file in enumerate(files):
        named_weights.save(tmp_path / f"{file}.safetensors", weights(value))
    return tmp_path, config


def test_every_final_model_of_a_run_becomes_a_folder_that_says_what_is_behind_it(run):
    folder, config = run
    written = model_folders.write_run(folder, config, run_folder.rows())
    assert [path.name for path in written] == [
        "C1_baseline",
        "C2_baseline",
        "C1_FL_local",
        "FL_global",
    ]  # no other weights are there
    models = {path.name: model_folder.load(path) for path in written}
    assert {name: float(model.weights["end/classifier/kernel"].max()) for name, model in models.items()} == {
        # the last round, not the first in a list
        "C1_baseline": 0, "C2_baseline": 1, "C1_FL_local": 2, "FL_global": 4
    }  # fmt: skip
    alone, together = models["C2_baseline"].training_data, models["FL_global"].training_data
    assert alone["cases"] == {"C2": {"training": 1, "validation": 1, "test": 1}} and alone[
        "view_mm"
    ][2] == [300.0, 300.0]
    assert (
        together["view_mm"] == [[300.0, 350.0], [272.0, 360.0], [48.0, 300.0]]
        and together["epochs"] == 6
    )
    scores = models["C2_baseline"].scores
    assert (
        scores["test cases of C2"]["dice_tumour"]["mean"] == pytest.approx(0.5)
        and scores["test cases of C2"]["dice_tumour"]["cases"] == 3
    )
    assert scores["test cases of C1"]["dice_tumour"]["cases"] == 0
    assert models["FL_global"].plan["inference"]["window"] == [16, 16, 8]


def test_a_model_folder_names_the_devices_of_its_training_where_they_are_known(run):
    folder, config = run
    for part, card in (("C1/baseline", "Card A"), ("C1/federated", "Card B")):
        history = events.EventLog(folder / "sites" / part / "history.jsonl")
        history.append("devices", devices=[card, card])
    written = model_folders.write_run(folder, config, run_folder.rows())
    data = {path.name: model_folder.load(path).training_data.get("devices") for path in written}
    # C2's trainings are of a release that did not record them.
    assert data == {
        "C1_baseline": {"C1": "Card A"},
        "C2_baseline": None,
        "C1_FL_local": {"C1": "Card B"},
        "FL_global": {"C1": "Card B"},
    }
    card = (folder / "models" / "C1_baseline" / "model_card.md").read_text()
    assert "* devices:\n  * C1: Card A\n" in card


def test_a_global_model_is_one_model_per_site_where_sites_keep_arrays(run):
    folder, config = run
    config = dataclasses.replace(config, keep_at_site=("head",))
    name = "end/classifier/kernel"
    for value, site in ((11, "C1"), (12, "C2")):
        journal = Journal(folder / "sites" / site / "federated" / "journal")
        file = folder / "server" / "global" / "round_010.safetensors"
        arrays, _ = tensor_files.load(file)
        own = PrivateArrays(journal, config.share_rules.of(arrays), specs_of(arrays))
        own.keep("round_010", {name: np.full_like(arrays[name], value)})
    written = model_folders.write_run(folder, config, run_folder.rows())
    names = ["C1_baseline", "C2_baseline", "C1_FL_local", "FL_global_C1", "FL_global_C2"]
    assert [path.name for path in written] == names
    models = {path.name: model_folder.load(path) for path in written}
    for site, value in (("C1", 11), ("C2", 12)):
        model = models[f"FL_global_{site}"]
        assert set(np.unique(model.weights[name])) == {value}
        others = [a for key, a in model.weights.items() if not key.startswith("end/classifier/")]
        assert all((array == 4).all() for array in others)
        assert model.training_data["private_arrays"] == {f"of {site}": "end/classifier/*"}
        assert list(model.scores) == [f"test cases of {site}"]
        card = (folder / "models" / f"FL_global_{site}" / "model_card.md").read_text()
        assert f"* private arrays:\n  * of {site}: end/classifier/*" in card
    assert models["C1_FL_local"].training_data["private_arrays"].keys() == {"of C1"}
    assert "private_arrays" not in models["C1_baseline"].training_data


def test_a_global_model_is_packaged_with_the_arrays_of_a_named_site_or_not_at_all(run):
    folder, config = run
    config = dataclasses.replace(config, keep_at_site=("head",))
    source, site = folder / "server" / "best.safetensors", folder / "sites" / "C2"
    arrays, _ = tensor_files.load(folder / "server" / "global" / "round_010.safetensors")
    tensor_files.save(source, arrays, {"plan": "{}"})
    settings = {"target_mm": [3.0, 3.0, 3.0], "window_hu": [-200.0, 250.0]}
    index = {
        "site": "C2",
        "seed": 1,
        "settings": settings,
        "splits": {},
        "numbers": {},
        "sources": {},
    }
    atomic.write_json(site / "cases" / "index.json", index)
    flags = [
        f"--genotype={folder / 'genotype.json'}",
        "--filters=4",
        "--vae=none",
        "--keep_at_site=head",
        f"--weights={source}",
        "--name=FL_best_global",
        f"--output={folder / 'packaged'}",
    ]
    refused = programs.run("package", *flags)
    assert refused.returncode == 1 and not (folder / "packaged").exists()
    assert "give a site's folder as --private_arrays to complete it" in refused.stderr
    with pytest.raises(ValueError, match="give the folder of a site that took part"):
        model_folders.of_site(source, "FL_best_global", site, config)
    journal = Journal(site / "federated" / "journal")
    with pytest.raises(ValueError, match="this site has trained no round"):
        model_folders.of_site(source, "FL_best_global", site, config)
    name = "end/classifier/kernel"
    own = PrivateArrays(journal, config.share_rules.of(arrays), specs_of(arrays))
    own.keep("round_010", {name: np.full_like(arrays[name], 12)})
    done = programs.run("package", *flags, f"--private_arrays={site}")
    assert done.returncode == 0, done.stderr
    model = model_folder.load(folder / "packaged")
    assert set(np.unique(model.weights[name])) == {12}
    assert model.training_data["private_arrays"] == {"of C2": "end/classifier/*"}


def test_the_gate_goes_into_the_folder_of_its_model_with_the_scores_that_it_leaves(run):
    folder, config = run
    rows = [
        {**row, "score_tumour": 3.0 if row["site"] == "C2" else 1.0} for row in run_folder.rows()
    ]
    healthy = next(
        row
        for row in rows
        if row["model"] == "FL_global" and row["site"] == "C1" and row["grid"] == "training"
    )
    rows += [
        {**healthy, "case": 10 + i, "grid": "validation", "score_tumour": 0.5 * i} for i in range(4)
    ]
    model_folders.write_run(folder, config, gated_rows.resolve(rows))
    gate = model_folder.load(folder / "models" / "FL_global").gate
    assert HealthyGate.from_json(gate) == HealthyGate(threshold=1.5, patients=4)
    assert model_folder.load(folder / "models" / "C2_baseline").gate == {}
    scores = model_folder.load(folder / "models" / "FL_global").scores
    assert scores["test cases of C2 with the healthy gate"]["dice_tumour"]["mean"] == pytest.approx(
        0.4
    )
    card = (folder / "models" / "FL_global" / "model_card.md").read_text()
    assert (
        "is at most 1.50" in card
        and "fitted on 4 validation cases" in card
        and "at most 20 % are expected" in card
    )
    assert "gate" not in (folder / "models" / "C2_baseline" / "model_card.md").read_text()


def test_tables_of_cases_and_means(tmp_path):
    model_folders.write_tables(tmp_path, run_folder.rows())
    assert len((tmp_path / "cases.csv").read_text().splitlines()) == 1 + 5 * 5 * 2
    lines = (tmp_path / "scores.csv").read_text().splitlines()
    assert lines[0] == "model,site,grid,measure,class,unit,mean,low,high,cases"
    assert any(
        line.startswith("C2_baseline,C2,training,dice,tumour,,0.5") and line.endswith(",3")
        for line in lines
    )


def test_a_training_without_a_validation_has_no_best_model(tmp_path):
    trainer = types.SimpleNamespace(best_score=None)
    with pytest.raises(ValueError, match="C1_baseline has no validated model yet; train"):
        model_folders.write_best(tmp_path / "model", "C1_baseline", trainer, None, None)
    assert not (tmp_path / "model").exists()
