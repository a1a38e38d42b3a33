import dataclasses
import json
import shutil
import sys

import numpy as np
import pytest

from c2fnas import model_folder, named_weights
from c2fnas.model_folder import Model
from c2fnas.scores.healthy_gate import HealthyGate
from experiments import configuration
from experiments.configuration import ExperimentConfig
from experiments.models import given_models
from federated.tensors import tensor_files
from tests.c2fnas import tiny

CONFIG = ExperimentConfig(
    spacing_mm=(3.0, 3.0, 3.0), inference_window=(16, 16, 8), learning_rate=0.01, filters=4
)


def plan_of(**changes):
    config = CONFIG if not changes else ExperimentConfig(**{**vars(CONFIG), **changes})
    return configuration.plan(config, tiny.GENOTYPE.to_json())


PLAN = plan_of(num_rounds=0)


@pytest.fixture(scope="module")
def weights():
    return named_weights.read(tiny.build())


@pytest.fixture
def made(tmp_path, weights):
    def make(name, folder=None, *, scale=1.0, **changes):
        arrays = {key: array * np.float32(scale) for key, array in weights.items()}
        path = tmp_path / (folder or name)
        model = Model(name=name, weights=arrays, genotype=tiny.GENOTYPE, plan=plan_of(**changes))
        model_folder.save(path, model)
        return path

    return make


def test_weights_travel_without_their_vae_branch_and_with_the_plan(made, weights, tmp_path):
    first, second = made("FL_global"), made("FL_global", "again", scale=2.0)
    folders = given_models.find([str(first), f"other:{second}"])
    assert folders == {"FL_global": first, "other": second}
    files = given_models.write(folders, PLAN, tmp_path)
    sent, _ = tensor_files.load(files.models["other"])
    kept = {name: array for name, array in weights.items() if not name.startswith("vae/")}
    assert sent.keys() == kept.keys() and len(kept) < len(weights)
    for name, array in kept.items():
        np.testing.assert_array_equal(sent[name], 2 * array)
    _, about = tensor_files.load(files.initial)
    assert json.loads(about["plan"]) == PLAN


def test_models_whose_own_gate_stays_behind_are_named(made, tmp_path):
    folders = {name: made(name) for name in ("plain", "gated")}
    gate = HealthyGate(threshold=2.0, patients=6).to_json()
    model = model_folder.load(folders["gated"])
    model_folder.save(folders["gated"], dataclasses.replace(model, gate=gate))
    files = given_models.write(folders, PLAN, tmp_path)
    assert files.gated == ("gated",)
    (plain, _), (gated, about) = (tensor_files.load(path) for path in files.models.values())
    assert about == {"model": "gated"}
    assert all(np.array_equal(plain[name], gated[name]) for name in plain)


def test_how_a_model_was_trained_does_not_matter(made, tmp_path):
    folder = made("m", learning_rate=0.001, num_rounds=7, vae="none", patch_size=(32, 32, 16))
    assert list(given_models.write({"m": folder}, PLAN, tmp_path).models) == ["m"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"spacing_mm": (1.0, 1.0, 1.0)},
            r"spacing_mm: the model has \[1.0, 1.0, 1.0\], the flags \[3.0",
        ),
        ({"window_hu": (-100, 240)}, r"window_hu: the model has \[-100, 240\]"),
        ({"inference_overlap": 0.5}, "inference.overlap: the model has 0.5, the flags 0.25"),
    ],
)
def test_a_model_that_does_not_fit_the_preparation_is_refused_with_the_reason(
    made, tmp_path, changes, words
):
    fits, odd = made("fits"), made("odd", **changes)
    with pytest.raises(ValueError, match=words) as caught:
        given_models.write({"fits": fits, "odd": odd}, PLAN, tmp_path)
    assert str(odd) in str(caught.value) and "an evaluation of their own" in str(caught.value)


def test_a_model_of_another_genotype_is_refused_with_the_reason(made, tmp_path):
    genes = tiny.GENOTYPE.with_size(filters=8, classes=3).to_json()
    with pytest.raises(ValueError, match=r"genotype\.filters: the model has \d+, the flags 8"):
        given_models.write(
            {"m": made("m")},
            configuration.plan(ExperimentConfig(**{**vars(CONFIG), "num_rounds": 0}), genes),
            tmp_path,
        )


def test_a_damaged_model_is_refused(made, tmp_path):
    with np.errstate(invalid="ignore"):  # 0 times infinity
        folder = made("m", scale=np.inf)
    with pytest.raises(ValueError, match="are not all finite"):
        given_models.write({"m": folder}, PLAN, tmp_path)
    path = made("n") / "plan.json"
    plan = json.loads(path.read_text())
    del plan["inference"]
    path.write_text(json.dumps(plan))
    with pytest.raises(ValueError, match="its plan lacks inference"):
        given_models.write({"n": path.parent}, PLAN, tmp_path)


@pytest.mark.parametrize("name", ["a b", "../up", "C1_FL_local_r024", "FL_global_gated", "x" * 65])
def test_a_name_that_has_a_meaning_of_its_own_or_is_no_name_is_refused(made, name):
    folder = made("m")
    with pytest.raises(ValueError, match="give another name, as name:folder"):
        given_models.find([f"{name}:{folder}"])


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("", "the entry '', which names no folder"),
        (":", "the entry ':', which names"),
        ("x:", "'x:', a name without a folder"),
    ],
)
def test_an_entry_without_a_folder_is_named(entry, message):
    with pytest.raises(ValueError, match=message):
        given_models.find([entry])


@pytest.mark.parametrize(
    ("about", "private"),
    [
        ({"private_arrays": {"of C1": "*/gamma, */beta"}}, {"m": "*/gamma, */beta of C1"}),
        ({}, {}),
        ({"private_arrays": "odd"}, {}),
    ],
)
def test_a_model_that_carries_what_a_site_kept_to_itself_is_named(made, tmp_path, about, private):
    folder = made("m")
    model = dataclasses.replace(model_folder.load(folder), training_data=about)
    model_folder.save(folder, model)
    assert given_models.write({"m": folder}, PLAN, tmp_path).private == private


def test_two_models_of_one_name_are_refused_and_a_folder_may_have_a_colon(made, tmp_path):
    first, second = made("m"), made("m", "second")
    with pytest.raises(ValueError, match="both hold a model called m"):
        given_models.find([str(first), str(second)])
    shutil.move(first, tmp_path / "with:colon")
    assert given_models.find([str(tmp_path / "with:colon")]) == {"m": tmp_path / "with:colon"}
    with pytest.raises(ValueError, match="no such folder"):
        given_models.find([str(tmp_path / "nowhere")])


def test_the_server_needs_no_package_of_a_site():
    import subprocess

    program = (
        "import sys\n"
        "for name in ('tensorflow', 'safetensors', 'scipy', 'matplotlib'): sys.modules[name] = None\n"
        "import experiments.models.given_models"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
