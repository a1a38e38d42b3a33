import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

from c2fnas import named_weights
from experiments.models import builders
from experiments.models.model_evaluator import ModelEvaluator
from federated.errors import ServerMisbehaves
from preprocessing import nifti
from preprocessing.case_list import Case, CaseManifest
from preprocessing.preparation import pipeline
from tests.experiments import study
from tests.experiments.models.test_site_trainer import tiny, trainer


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    folder, cases = tmp_path_factory.mktemp("scans"), []
    for number in range(4):
        image, label = (folder / f"{kind}{number}.nii" for kind in ("image", "label"))
        for path, volume in zip((image, label), study.scan("C2", number), strict=True):
            nifti.write_volume(path, volume)
        cases.append(Case(f"case{number}", image, label))
    return CaseManifest("C2", tuple(cases))


@pytest.fixture(scope="module")
def prepared(listed, tmp_path_factory):
    def prepare(counts):
        return pipeline.prepare(
            listed,
            tmp_path_factory.mktemp("cases"),
            target_mm=(3.0, 3.0, 3.0),
            split_seed=1,
            split_counts=counts,
        )

    return prepare


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    genotype = tmp_path_factory.mktemp("genotype") / "genotype.json"
    genotype.write_text(json.dumps(study.SHALLOW))
    return tiny(genotype)


def evaluator(config, store, folder):
    without = dataclasses.replace(config, num_rounds=0, vae="reduced", learning_rate=0.5)
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    return ModelEvaluator(without, store, folder, strategy=strategy)


def test_rows_are_those_of_the_federations_own_evaluation(config, prepared, tmp_path):
    store = prepared((2, 1, 1))
    weights = named_weights.read(builders.build_network(config))
    weights = {name: array + np.float32(0.01) for name, array in weights.items()}
    after_training = trainer(config, store, tmp_path / "trained").evaluate("m", weights)
    site = evaluator(config, store, tmp_path / "evaluated")
    assert site.evaluate("m", weights) == after_training
    masks = [folder / "examples" for folder in (tmp_path / "trained", tmp_path / "evaluated")]
    one, other = (sorted(folder.iterdir()) for folder in masks)
    assert [path.name for path in one] == [path.name for path in other] != []
    assert site.num_examples == 1 and site.local_models() == {}


def test_a_site_needs_test_cases_only(config, prepared, tmp_path):
    site = evaluator(config, prepared((0, 0, 4)), tmp_path)
    weights = named_weights.read(builders.build_network(config))
    assert {row["case"] for row in site.evaluate("m", weights)} == {1, 2, 3, 4}
    assert site.num_examples == 4
    assert site.plan["schedule"] == {"num_rounds": 0} and "training" not in site.plan
    with pytest.raises(ValueError, match=r"C2 has no test case; .*--split="):
        evaluator(config, prepared((4, 0, 0)), tmp_path)


def test_a_server_cannot_make_it_train_or_name_a_path(config, prepared, tmp_path):
    site = evaluator(config, prepared((0, 0, 4)), tmp_path)
    with pytest.raises(ServerMisbehaves, match="training in a run without training"):
        site.train({}, 1)
    with pytest.raises(ServerMisbehaves, match="validation scores in a run without training"):
        site.score({})
    with pytest.raises(ServerMisbehaves, match="names a model"):
        site.evaluate("../up", {})
