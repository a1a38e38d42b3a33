import json
import shutil

import numpy as np
import pytest

from c2fnas import inference, model_folder, named_weights, sliding_window
from c2fnas.model_folder import Model
from tests.c2fnas import tiny


@pytest.fixture(scope="module")
def trained():
    network = tiny.build()
    return network, Model(
        name="C1_baseline",
        weights=named_weights.read(network),
        genotype=tiny.GENOTYPE,
        plan=tiny.PLAN,
        training_data={
            "sites": ["C1"],
            "cases": {"training": 18, "validation": 6},
            "spacing_mm": {"z": [0.8, 1.0]},
        },
        scores={
            "test cases of C1": {
                "dice_pancreas": {"mean": 0.8123, "low": 0.7, "high": 0.9, "cases": 6},
                "dice_tumour": {"mean": None, "low": None, "high": None, "cases": 0},
            }
        },
    )


@pytest.fixture
def folder(trained, tmp_path):
    model_folder.save(tmp_path / "model", trained[1])
    return tmp_path / "model"


def test_the_loaded_folder_predicts_what_the_trained_network_does(trained, folder):
    network, model = trained
    loaded = model_folder.load(folder)
    assert (loaded.name, loaded.genotype, loaded.plan) == (model.name, model.genotype, model.plan)
    assert (loaded.training_data, loaded.scores) == (model.training_data, model.scores)
    assert loaded.weights.keys() == model.weights.keys() and any(
        name.startswith("vae/") for name in loaded.weights
    )
    window = sliding_window.WindowConfig((16, 16, 8), 0.5)
    image = tiny.case(0).image
    ours, theirs = (
        sliding_window.predict_logits(image, inference.logits_fn(one), window)
        for one in (network, model_folder.build_segmenter(loaded))
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_the_card_says_what_it_was_trained_on_and_what_it_scored(folder):
    card = (folder / "model_card.md").read_text()
    for words in (
        "# C1_baseline",
        "3 x 3 x 3 mm",
        "-200 to 250",
        "genotype `tiny`",
        "* sites: C1",
        "  * training: 18",
        "not a medical device",
    ):
        assert words in card, words
    assert "| test cases of C1 | dice pancreas | 0.812 | 0.700 - 0.900 | 6 |" in card
    assert "dice tumour" not in card  # no case, no number


def test_a_model_replaces_only_an_earlier_model(trained, folder, tmp_path):
    model_folder.save(folder, trained[1])
    assert not list(tmp_path.glob(".partial*"))
    (folder / "notes.txt").write_text("keep me")
    with pytest.raises(ValueError, match="something other than a model"):
        model_folder.save(folder, trained[1])
    assert (folder / "notes.txt").exists()


def _without(name):
    return lambda folder: (folder / name).unlink()


def _change(name, change):
    def apply(folder):
        value = json.loads((folder / name).read_text())
        change(value)
        (folder / name).write_text(json.dumps(value))

    return apply


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shutil.rmtree, "no such folder"),
        (_without("plan.json"), "is not a model: it lacks plan.json"),
        (_without("weights.safetensors"), "lacks weights.safetensors"),
        (
            _change("model.json", lambda value: value.update(format=99)),
            r"model\.json: format is 99, this version reads 1",
        ),
        (
            _change("genotype.json", lambda value: value.update(classes=2)),
            "names the classes .*, the network has 2",
        ),
        (
            _change("genotype.json", lambda value: value.update(filters=8)),
            r"with 8 filters and 3 classes: .*/kernel is \(.*, expected \(",
        ),
        (
            _change("genotype.json", lambda value: value["cells"][2].update(op="conv3d")),
            r"cell03/input0/op/kernel is .* \(3, 3, 3",
        ),
        (
            _change("plan.json", lambda value: value["classes"].pop("2")),
            r"names the classes .*'1': 'pancreas'\}, the network has 3",
        ),
        (lambda folder: (folder / "plan.json").write_text("{"), r"plan\.json: not valid JSON"),
        (
            lambda folder: (folder / "weights.safetensors").write_bytes(b"\0" * 9),
            "not a readable safetensors file",
        ),
    ],
)
def test_an_incomplete_model_folder_is_refused_by_name(folder, spoil, message):
    spoil(folder)
    with pytest.raises(ValueError, match=message) as caught:
        model_folder.load(folder)
    assert str(folder) in str(caught.value)
