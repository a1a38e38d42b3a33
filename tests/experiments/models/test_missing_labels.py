"""A federated site that does not label every class: the effect of its local round on that class."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

from c2fnas import named_weights
from experiments import configuration
from experiments.models import builders, site_trainer
from experiments.results.report_words import REPORTS
from federated.security import report_filter
from preprocessing import nifti
from preprocessing.case_list import Case, CaseManifest
from preprocessing.case_store import CaseStore
from preprocessing.preparation import pipeline
from tests.experiments import study
from tests.experiments.models.test_site_trainer import tiny

HEALTHY, UNDRAWN = ({"pancreas": "complete", "tumour": word} for word in ("absent", "unlabelled"))
_TUMOUR = ("end/classifier/kernel", "end/classifier/bias")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A healthy hospital: its manifest says so."""
    folder, cases = tmp_path_factory.mktemp("site"), []
    for number in range(4):
        image, label = (folder / f"{kind}{number}.nii" for kind in ("image", "label"))
        for path, volume in zip((image, label), study.scan("C1", number), strict=True):
            nifti.write_volume(path, volume)
        cases.append(Case(f"case{number}", image, label))
    listed = CaseManifest("C1", tuple(cases), declared=HEALTHY)
    return pipeline.prepare(
        listed, folder / "cases", target_mm=(3.0, 3.0, 3.0), split_seed=1, split_counts=(2, 1, 1)
    )


@pytest.fixture
def config(tmp_path):
    (tmp_path / "genotype.json").write_text(json.dumps(study.GENOTYPE))
    return dataclasses.replace(tiny(tmp_path / "genotype.json"), num_rounds=1, local_epochs=2)


def after_a_round(config, store, folder):
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    missing = builders.missing_labels(config, store)
    site = site_trainer.SegmentationTrainer(
        config, store, folder, label="C1_FL_local", strategy=strategy, missing=missing
    )
    assert site.labels == HEALTHY
    before = named_weights.read(builders.build_network(config))
    return before, site.train(before, 1)[0]


def test_a_round_with_a_restricted_loss_leaves_the_weights_of_the_class_bit_for_bit(
    config, store, tmp_path
):
    before, after = after_a_round(
        dataclasses.replace(config, missing_labels="restricted"), store, tmp_path / "restricted"
    )
    for name in _TUMOUR:
        assert after[name][..., 2].tobytes() == before[name][..., 2].tobytes()
        assert (after[name][..., :2] != before[name][..., :2]).any()


def test_with_what_the_received_model_sees_as_targets_they_move(config, store, tmp_path):
    before, after = after_a_round(
        dataclasses.replace(config, missing_labels="distil"), store, tmp_path / "distil"
    )
    assert all((after[name][..., 2] != before[name][..., 2]).any() for name in _TUMOUR)


def test_the_treatment_is_part_of_the_plan_and_a_plan_without_one_is_that_of_an_earlier_release(
    config,
):
    assert "missing_labels" not in configuration.plan(config, {})["training"]
    other = dataclasses.replace(config, missing_labels="distil")
    assert configuration.plan(other, {})["training"]["missing_labels"] == "distil"
    with pytest.raises(ValueError, match="missing_labels is 'ignore'; expected 'background'"):
        dataclasses.replace(config, missing_labels="ignore")
    assert not np.array_equal(configuration.plan(config, {}), configuration.plan(other, {}))


def test_candidates_are_lent_by_a_site_that_lacks_a_class_and_scored_on_validation_and_test_cases(
    config, store, tmp_path
):
    config = dataclasses.replace(
        config, num_rounds=3, local_epochs=1, validation_every=1, shared_candidates=2
    )
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    site = site_trainer.SegmentationTrainer(
        config, store, tmp_path / "site", label="C1_FL_local", strategy=strategy
    )
    weights, after = named_weights.read(builders.build_network(config)), {}
    for number in (1, 2, 3):
        weights = after[number] = {
            name: array.copy() for name, array in site.train(weights, number)[0].items()
        }
    lent = site.local_models()
    assert set(lent) == {"C1_FL_local", "C1_FL_local_r001", "C1_FL_local_r003"}
    for number in (1, 3):
        for name, array in lent[f"C1_FL_local_r{number:03d}"].items():
            np.testing.assert_array_equal(array, after[number][name])
    rows = site.evaluate("C1_FL_local_r003", lent["C1_FL_local_r003"])
    numbers = {
        grid: [store.open(case_id).number for case_id in store.case_ids(split)]
        for split, grid in (("validation", "validation"), ("test", "training"))
    }
    assert [(row["grid"], row["case"]) for row in rows] == [
        (grid, case) for grid, cases in numbers.items() for case in cases
    ]
    assert (
        list(
            report_filter.checked_rows(
                rows, vocabulary=REPORTS, site="C1", models=["C1_FL_local_r003"]
            )
        )
        == rows
    )
    assert not list(
        (tmp_path / "site").glob("examples/*r003*")
    )  # the site's figures show the table's models
    keeps = site_trainer.SegmentationTrainer(
        config, store, tmp_path / "site", label="C1_FL_local", strategy=strategy, lend_local=False
    )
    assert keeps.local_models() == {}


def test_a_site_with_all_labels_lends_no_candidates(config, store, tmp_path):
    complete = CaseStore(store.root)
    complete.declared = {"pancreas": "complete", "tumour": "complete"}
    config = dataclasses.replace(config, shared_candidates=2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    site = site_trainer.SegmentationTrainer(
        config, complete, tmp_path / "site", label="C2_FL_local", strategy=strategy
    )
    site.train(named_weights.read(builders.build_network(config)), 1)
    assert set(site.local_models()) == {"C2_FL_local"}


def test_only_a_site_whose_patients_are_healthy_sends_validation_cases_and_their_scores(
    config, store, tmp_path
):
    config = dataclasses.replace(config, shared_candidates=1)
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    weights = named_weights.read(builders.build_network(config))
    for declared, names in (
        (HEALTHY, {"training", "native", "validation"}),
        (UNDRAWN, {"training", "native"}),
    ):
        labelled = CaseStore(store.root)
        labelled.declared = declared
        site = site_trainer.SegmentationTrainer(
            config, labelled, tmp_path / "site", label="C1_FL_local", strategy=strategy
        )
        rows = site.evaluate("FL_global", weights)
        assert {row["grid"] for row in rows} == names
        assert all(
            0 <= row["score_tumour"] <= 1000
            and row["false_components_tumour"]
            == (row["components_tumour"] if declared == HEALTHY else None)
            for row in rows
        )
        assert all(
            (row["score_tumour"] > 0) == (row["volume_ml_tumour"] > 0)
            for row in rows
            if row["grid"] == "training"
        )
        assert (
            list(
                report_filter.checked_rows(
                    rows, vocabulary=REPORTS, site="C1", models=["FL_global"]
                )
            )
            == rows
        )
        # Every site sends validation rows of the plan's candidates, not every one their scores.
        candidate = site.evaluate("C1_FL_local_r001", weights)
        assert {"score_tumour" in row for row in candidate if row["grid"] == "validation"} == {
            declared == HEALTHY
        }
