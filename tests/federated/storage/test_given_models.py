"""What a run without rounds accepts as the models to evaluate, and how two sets differ."""

import numpy as np
import pytest

from federated.rounds import tasks
from federated.storage import given_models
from federated.tensors import tensor_files
from federated.tensors.weights import specs_of
from tests.federated import toy

SPECS = specs_of(toy.INITIAL)


@pytest.fixture
def model(tmp_path):
    """Returns a function that writes a model and returns (its file, the digest of its weights)."""

    def write(name, **changes):
        path = tmp_path / f"{name}.safetensors"
        return path, tensor_files.save(path, {**toy.INITIAL, **changes}, {"model": "any"})

    return write


def test_models_are_read_in_the_order_given_with_the_digests_of_their_weights(model):
    (second, of_second), (first, of_first) = (
        model(name, scale=np.array(value, np.float32)) for name, value in (("b", 2.0), ("a", 0.5))
    )
    found = given_models.read({"zeta": second, "alpha-1": first}, SPECS, num_rounds=0)
    assert [(name, manifest.sha256) for name, manifest in found.items()] == [
        ("zeta", of_second),
        ("alpha-1", of_first),
    ]
    assert of_second != of_first
    assert all(tuple(manifest.specs) == tuple(SPECS) for manifest in found.values())


def test_a_run_with_rounds_has_no_given_models_and_one_without_has_some(model):
    path, _ = model("m")
    assert given_models.read({}, SPECS, num_rounds=3) == {}
    with pytest.raises(ValueError, match="1 models are given to a run of 3 rounds"):
        given_models.read({"m": path}, SPECS, num_rounds=3)
    with pytest.raises(ValueError, match="0 models are given to a run of 0 rounds"):
        given_models.read({}, SPECS, num_rounds=0)


def test_more_models_than_a_site_evaluates_are_refused_before_any_is_read(tmp_path):
    absent = tmp_path / "absent.safetensors"
    names = [f"m{number}" for number in range(tasks.MAX_MODELS + 1)]
    with pytest.raises(ValueError, match=f"{tasks.MAX_MODELS + 1} models are given.*split them"):
        given_models.read(dict.fromkeys(names, absent), SPECS, num_rounds=0)


@pytest.mark.parametrize("name", ["../up", "", "_first", "a b", "a" * 65, "é"])
def test_a_name_that_cannot_be_a_files_is_refused(model, name):
    path, _ = model("m")
    with pytest.raises(ValueError, match=r"a given model is named '.*beginning with a letter"):
        given_models.read({"sound": path, name: path}, SPECS, num_rounds=0)


def test_a_model_with_other_arrays_is_named_with_what_differs(model):
    sound, _ = model("sound")
    odd, _ = model("odd", scale=np.ones(2, np.float32))
    with pytest.raises(ValueError, match=r"given model 'odd' is not a model .*scale: "):
        given_models.read({"sound": sound, "odd": odd}, SPECS, num_rounds=0)


def test_every_model_that_is_not_the_same_in_both_has_a_line():
    stored = {"same": "a" * 64, "changed": "b" * 64, "gone": "c" * 64}
    asked = {"added": "d" * 64, "changed": "e" * 64, "same": "a" * 64}
    assert given_models.differences(stored, asked) == [
        f"model added: the store has no such model, asked for is the one with digest {'d' * 16}…",
        f"model changed: the store has the one with digest {'b' * 16}…, asked for is the one with "
        f"digest {'e' * 16}…",
        f"model gone: the store has the one with digest {'c' * 16}…, asked for is no such model",
    ]
    assert given_models.differences(asked, dict(reversed(asked.items()))) == []
