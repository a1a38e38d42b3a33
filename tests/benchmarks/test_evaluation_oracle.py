"""The attack on scores is right where its answer is known, and works with a site's own scoring."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from c2fnas import named_weights
from c2fnas.sliding_window import WindowConfig
from experiments.models import builders
from experiments.models.case_evaluation import CaseEvaluation
from experiments.models.model_evaluator import ModelEvaluator
from tests.benchmarks import evaluation_oracle as oracle
from tests.experiments import study
from tests.experiments.models.membership import measured_run
from tests.experiments.models.test_site_trainer import tiny


def organ(seed=1, shape=(12, 9, 10)):
    grid = np.indices(shape) - np.array([5, 4, 5])[:, None, None, None]
    ball = (grid**2).sum(0) < 12
    return ball & (np.random.default_rng(seed).uniform(size=shape) < 0.9)


def test_a_region_is_answered_with_its_dice():
    truth, region = organ(), (slice(2, 7), slice(1, 6), slice(0, 5))
    mask = np.zeros(truth.shape, bool)
    mask[region] = True
    assert oracle.asker(oracle.counts_of(truth))(region) == pytest.approx(
        oracle.dice(mask, truth), rel=1e-12
    )
    assert oracle.asker(oracle.counts_of(truth), digits=2)(region) == round(
        oracle.dice(mask, truth), 2
    )


def test_one_model_tells_the_volume_and_enough_models_every_voxel():
    truth = organ()
    drawn, volume = oracle.draw(oracle.asker(oracle.counts_of(truth)), truth.shape, 1)
    assert volume == pytest.approx(truth.sum(), rel=1e-9) and not drawn.any()
    drawn, _ = oracle.draw(oracle.asker(oracle.counts_of(truth)), truth.shape, 5000)
    np.testing.assert_array_equal(drawn, truth)


def test_more_models_draw_better_and_rounding_draws_worse():
    truth = organ(shape=(24, 18, 20))
    exact = [
        oracle.dice(oracle.draw(oracle.asker(oracle.counts_of(truth)), truth.shape, k)[0], truth)
        for k in (8, 60)
    ]
    assert exact[0] < exact[1]
    coarse, _ = oracle.draw(oracle.asker(oracle.counts_of(truth), digits=2), truth.shape, 60)
    assert oracle.dice(coarse, truth) < exact[1]


def test_the_volume_in_a_row_draws_better_than_a_rounded_dice_of_everything():
    truth = np.zeros((40, 40, 40), bool)
    truth[3:9, 5:12, 4:10] = True  # 252 voxels; the Dice of everything, 0.0079, is rounded to 0.01
    ask = oracle.asker(oracle.counts_of(truth), digits=2)
    known = oracle.stated(252.0, 0.027, 2)  # 6.804 ml are 6.8 ml
    assert known == pytest.approx(6.8 / 0.027)
    drawn = [oracle.draw(ask, truth.shape, 60, volume)[0] for volume in (None, known)]
    assert oracle.dice(drawn[0], truth) + 0.1 < oracle.dice(drawn[1], truth)


def test_the_table_of_the_threat_model_is_that_of_the_measured_results():
    docs = pathlib.Path(__file__).parents[2] / "docs"
    found = json.loads((docs / "results" / "evaluation_oracle.json").read_text())["found"]
    text = (docs / "threat-model.md").read_text(encoding="utf-8")
    table = text.partition("<!-- table: results/evaluation_oracle.json -->\n")[2].partition("\n\n")[
        0
    ]
    cells = [[cell.strip() for cell in line.strip("| ").split("|")] for line in table.split("\n")]
    assert cells[2:] == [
        [
            str(own["report_digits"]),
            f"{own['volume_error_percent']:.1f} %",
            *(
                f"{own['dice_of_drawn_organ'][models]:.2f}"
                for models in ("16", "64", "256", "1024")
            ),
        ]
        for own in found
    ]
    drawn = {own["report_digits"]: own["dice_of_drawn_organ"] for own in found}
    page = (docs / "privacy.md").read_text(encoding="utf-8")
    for digits, models in ((0, "64"), (2, "64"), (0, "1024"), (2, "1024")):
        assert f"{drawn[digits][models]:.2f}" in page


def test_a_crafted_model_reveals_the_volume_through_the_rows_of_a_site(tmp_path):
    """The classifier's weights are 0 and its bias says pancreas: Dice = 2 V / (V + N)."""
    genotype = tmp_path / "genotype.json"
    genotype.write_text(json.dumps(study.SHALLOW))
    config = dataclasses.replace(tiny(genotype), num_rounds=0)
    store = measured_run.store(tmp_path / "C1", "C1", range(2), (0, 0, 2))
    site = ModelEvaluator(
        config, store, tmp_path / "out", strategy=tf.distribute.MirroredStrategy(["CPU:0"])
    )
    weights = named_weights.read(builders.build_network(config))
    (bias,) = [name for name in weights if weights[name].shape == (3,)]
    weights[bias.replace("bias", "kernel")][:] = 0
    weights[bias][:] = (0, 100, 0)
    rows = [row for row in site.evaluate("crafted", weights) if row["grid"] == "training"]
    assert len(rows) == 2
    for row, case_id in zip(rows, store.case_ids("test"), strict=True):
        label = np.asarray(store.open(case_id).label)
        volume = oracle.volume_of(row["dice_pancreas"], label.size)
        assert round(volume) == (label == 1).sum() > 0


def test_rows_describe_what_a_model_makes_of_the_scan_and_so_the_scan(tmp_path):
    """As the threat model says: the volume counts voxels, the score is a mean of their values."""
    store = measured_run.store(tmp_path / "C1", "C1", range(2), (0, 0, 2))
    (case, _) = cases = [store.open(case_id) for case_id in store.case_ids("test")]
    image = np.asarray(case.image, np.float32)
    limit = np.float32(np.quantile(image, 0.7))

    def rows(logits, name="crafted"):
        evaluation = CaseEvaluation(
            store,
            {"test": cases, "validation": cases[1:]},
            lambda images: np.stack(logits(images[..., 0]), axis=-1).astype(np.float32),
            WindowConfig(size=(16, 16, 16), overlap=0.5, multiple=4),
            examples=tmp_path / "examples",
            example_cases=0,
            candidate_rounds=[1],
            label="C1",
        )
        return evaluation.rows(name)

    def brighter(values):
        return np.zeros_like(values), np.where(values > limit, 1, -1), np.full_like(values, -9)

    first = rows(brighter)[0]
    marked = first["volume_ml_pancreas"] * 1000 / np.prod(case.target_mm)
    assert round(marked) == (image > limit).sum() > 0

    first = rows(lambda values: (np.zeros_like(values), values - 99, values + 2))[0]
    millilitre = np.sort(image, axis=None)[-round(1000 / np.prod(case.target_mm)) :]
    assert first["score_tumour"] == pytest.approx(np.mean(millilitre + 2), rel=1e-5)

    # And of validation cases, if the server names the model like a candidate of the plan's.
    assert {row["grid"] for row in rows(brighter)} == {"training", "native"}
    assert "validation" in {row["grid"] for row in rows(brighter, "C9_FL_local_r001")}
