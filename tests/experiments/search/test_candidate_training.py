"""A training alone: its scores, and that a stopped training gives the same result."""

import dataclasses
import functools

import numpy as np
import pytest
import tensorflow as tf

from c2fnas.genotype import Genotype
from c2fnas.scores import metrics
from c2fnas.training import NonFiniteLoss, Trainer
from experiments.configuration import ExperimentConfig
from experiments.models import builders
from experiments.search import candidate_training
from preprocessing.foreground import LabelBox
from runkit.randomness import generator
from tests.experiments.search.built_once import BuiltOnce, StoppedAt
from tests.experiments.study import SHALLOW

GENES = Genotype.from_json(SHALLOW)
CONFIG = ExperimentConfig(
    filters=4,
    vae="none",
    patch_size=(8, 8, 8),
    patches_per_case=1,
    batch_size=2,
    learning_rate=1e-2,
    final_learning_rate=1e-3,
    inference_window=(8, 8, 8),
)


@dataclasses.dataclass
class Case:
    case_id: str
    number: int
    image: np.ndarray
    label: np.ndarray

    @functools.cached_property
    def runs(self):
        return LabelBox.of(self.label).runs()


class Store:
    """A site in memory: two training cases, one for validation, one for tests.

    Attributes:
      opened: the cases that were asked for.
    """

    declared = None

    def __init__(self, site):
        self.site = site
        self.cases, self.opened = {}, set()
        for number in range(1, 5):
            label = np.zeros((10, 10, 10), np.uint8)
            label[3:6, 3:6, 3:6] = 1 + (number == 2)
            noise = generator(4, site, number).normal(size=label.shape)
            image = (0.2 * noise + 0.5 * label).clip(-1, 1).astype(np.float16)
            self.cases[f"{site}_{number}"] = Case(f"{site}_{number}", number, image, label)

    def case_ids(self, split=None):
        ids = tuple(self.cases)
        return {"training": ids[:2], "validation": ids[2:3], "test": ids[3:]}[split]

    def open(self, case_id):
        self.opened.add(case_id)
        return self.cases[case_id]


STORES = [Store("C1"), Store("C2")]


def train(folder):
    return candidate_training.train_and_score(
        CONFIG,
        GENES,
        STORES,
        folder,
        seed=3,
        steps=4,
        splits=("validation",),
        strategy=tf.distribute.get_strategy(),
        label="a candidate",
        checkpoint_every=2,
    )


def test_a_stopped_training_ends_with_the_same_scores(tmp_path, monkeypatch):
    monkeypatch.setattr(builders, "build_trainer", BuiltOnce())
    whole = train(tmp_path / "whole")
    assert not (tmp_path / "whole").exists()
    stopping = StoppedAt(Trainer.train, 2)
    monkeypatch.setattr(Trainer, "train", stopping)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "again")
    again = train(tmp_path / "again")
    assert stopping.stopped == 1 and again.rows == whole.rows
    assert [(row["site"], row["case"]) for row in whole.rows["validation"]] == [
        ("C1", 3),
        ("C2", 3),
    ]
    # a search never so much as opens a test case
    assert [store.opened for store in STORES] == [
        {f"{store.site}_{number}" for number in (1, 2, 3)} for store in STORES
    ]


def test_the_memory_of_networks_is_given_back_whatever_happens(monkeypatch):
    cleared = []
    monkeypatch.setattr(tf.keras.backend, "clear_session", lambda: cleared.append(1))
    assert candidate_training.released(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        candidate_training.released(lambda: 1 / 0)
    assert len(cleared) == 2


def test_a_training_that_diverged_scores_0_on_every_case(capsys):
    stores, splits = [Store("C1"), Store("C2")], ("validation", "test")

    def diverges():
        raise NonFiniteLoss("the total loss of step 3 is nan")

    found = candidate_training.released_or_zero(diverges, stores, splits)
    zero = {"score": 0.0, "dice_pancreas": 0.0, "dice_tumour": 0.0}
    assert found.rows == {
        split: [{"site": site, "case": case, **zero} for site in ("C1", "C2")]
        for split, case in (("validation", 3), ("test", 4))
    }
    assert "the total loss of step 3 is nan" in capsys.readouterr().out
    whole = candidate_training.TrainedScores({}, 1.0)
    assert candidate_training.released_or_zero(lambda: whole, stores, splits) is whole


def test_a_case_scores_the_mean_of_the_classes_that_its_label_shows():
    truth = np.zeros((4, 4, 4), np.uint8)
    truth[:2], truth[2, 0] = 1, 2
    mask = np.zeros_like(truth)
    mask[:1], mask[3, 0] = 1, 2
    found = candidate_training.row("C2", 7, mask, truth)
    # pancreas: 16 of 16 + 32 voxels, so 2 * 16 / 48; tumour: none of 4 and 4
    assert found == {
        "site": "C2",
        "case": 7,
        "score": pytest.approx(1 / 3),
        "dice_pancreas": pytest.approx(2 / 3),
        "dice_tumour": 0.0,
    }
    truth[truth == 2] = 0
    healthy = candidate_training.row("C1", 1, mask, truth)
    assert healthy["score"] == healthy["dice_pancreas"] == metrics.dice(mask, truth)[1]


def test_a_site_without_cases_of_a_split_is_named():
    store = Store("C1")
    del store.cases["C1_4"]
    with pytest.raises(ValueError, match="site C1 has no test case; prepare"):
        candidate_training.cases_of([store], "test")
