"""The list of paths that an operator writes, and the files that a server makes from it."""

import dataclasses
import json

import numpy as np
import pytest

from c2fnas.genotype import Genotype
from experiments import configuration
from experiments.configuration import ExperimentConfig
from experiments.models import given_paths
from federated.tensors import tensor_files
from tests.experiments.study import SHALLOW

CONFIG = ExperimentConfig(supernet=True, filters=4, num_rounds=0)
PLAN = configuration.plan(CONFIG, SHALLOW)
TRAINED = configuration.plan(dataclasses.replace(CONFIG, num_rounds=3), SHALLOW)
GENES = [(0, 2), (1, 1)]


def arrays():
    """One array for each operation of each cell, one that all paths share, one of the VAE branch."""
    names = [
        f"cell{cell:02d}/input0/op/{op}/kernel"
        for cell in (1, 2)
        for op in ("conv2d", "conv3d", "p3d")
    ]
    return {name: np.full(3, 0.5, np.float32) for name in (*names, "stem/first/kernel", "vae/x")}


@pytest.fixture
def listed(tmp_path):
    def make(weights=None, metadata=None):
        file = tmp_path / "supernet.safetensors"
        about = {"plan": json.dumps(TRAINED)} if metadata is None else metadata
        tensor_files.save(file, arrays() if weights is None else weights, about)
        given_paths.write_list(tmp_path / "paths.json", file, GENES)
        return str(tmp_path / "paths.json")

    return make


def test_every_path_travels_with_the_whole_supernet_but_its_vae_branch(listed, tmp_path):
    found = given_paths.files([listed()], PLAN, tmp_path)
    assert list(found.models) == ["path_02", "path_11"]
    for file in (*found.models.values(), found.initial):
        weights, _ = tensor_files.load(file)
        assert weights.keys() == arrays().keys() - {"vae/x"}
    assert json.loads(tensor_files.load(found.initial)[1]["plan"]) == PLAN


def test_the_space_is_that_of_the_plan():
    space = given_paths.space_of(PLAN)
    assert space.base == Genotype.from_json(SHALLOW) and space.size == 9
    with pytest.raises(ValueError, match="give --supernet"):
        given_paths.space_of({})


def test_what_does_not_fit_is_refused_by_name(listed, tmp_path):
    with pytest.raises(ValueError, match="with --supernet it is one list of paths"):
        given_paths.files(["models/a", "models/b"], PLAN, tmp_path)
    (tmp_path / "no.json").write_text("[1]")
    with pytest.raises(ValueError, match="is not a list of paths"):
        given_paths.files([str(tmp_path / "no.json")], PLAN, tmp_path)
    nan = {**arrays(), "stem/first/kernel": np.array([np.nan], np.float32)}
    with pytest.raises(ValueError, match="stem/first/kernel are not all finite"):
        given_paths.files([listed(nan)], PLAN, tmp_path)
    other = configuration.plan(
        dataclasses.replace(CONFIG, num_rounds=3, spacing_mm=(2.0, 2.0, 2.0)), SHALLOW
    )
    with pytest.raises(ValueError, match=r"does not fit the flags: .*spacing_mm"):
        given_paths.files([listed(metadata={"plan": json.dumps(other)})], PLAN, tmp_path)
    lacking = {name: value for name, value in arrays().items() if "cell02" not in name}
    with pytest.raises(
        ValueError, match=r"is not a supernet of the flags.*no weight of conv2d for cell 2"
    ):
        given_paths.files([listed(lacking)], PLAN, tmp_path)
    del lacking["cell01/input0/op/p3d/kernel"]
    network = {name.replace("/op/conv2d/", "/op/"): value for name, value in lacking.items()}
    with pytest.raises(ValueError, match="give a global model that sites trained with --supernet"):
        given_paths.load(listed_file(tmp_path, network), PLAN)


def listed_file(folder, weights):
    file = folder / "network.safetensors"
    tensor_files.save(file, weights, {})
    return file


def test_a_plan_without_a_supernet_is_as_before():
    plain = configuration.plan(dataclasses.replace(CONFIG, supernet=False), SHALLOW)
    assert "supernet" not in plain and {**plain, "supernet": PLAN["supernet"]} == PLAN
