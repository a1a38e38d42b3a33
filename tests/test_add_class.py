"""Walks "Add a class" of CONTRIBUTING.md with a third class, the pancreatic duct."""

import subprocess
import sys
import textwrap
import types

import numpy as np
import pytest
import tensorflow as tf

from c2fnas import inference, losses, named_weights, network, training
from c2fnas.missing_labels import MissingLabels
from c2fnas.scores import case_scores, metrics
from c2fnas.sliding_window import WindowConfig
from tests.c2fnas import tiny

NAMES = {1: "pancreas", 2: "tumour", 3: "duct"}


def test_one_entry_reaches_every_module():
    """In a process of its own, because modules derive their names when they are imported."""
    code = """
    import json, pathlib, tempfile
    import nibabel, numpy as np
    import pytest
    from runkit import classes

    classes.CLASSES[3] = classes.FOREGROUND[3] = "duct"

    from c2fnas.genotype import load
    from c2fnas.scores import case_scores, metrics
    from experiments import configuration
    from experiments.results import score_summary
    from preprocessing import case_store, declared_labels, manifest, nifti
    from preprocessing.checks import cohort

    assert load("c2fnas").classes == 4
    assert configuration.CLASSES[3] == case_store.CLASSES[3] == cohort.FOREGROUND[3] == "duct"

    label = np.arange(8, dtype=np.uint8).reshape(2, 2, 2) % 4
    assert metrics.dice(label, label) == {1: 1.0, 2: 1.0, 3: 1.0}
    assert case_scores.compare(label, label, (1, 1, 1))[3].volume_ml == 0.002
    assert metrics.dice_summary([(label, label)])["dice_duct"] == 1.0
    assert "dice_duct" in score_summary.of_rows([{"dice_duct": 0.5}])

    with pytest.raises(ValueError, match="pancreas, tumour, duct"):
        declared_labels.check({"pancreas": "complete", "tumour": "absent"})
    folder = pathlib.Path(tempfile.mkdtemp())
    nibabel.save(nibabel.Nifti1Image(label, np.eye(4)), folder / "label.nii.gz")
    assert nifti.read_labels(folder / "label.nii.gz").array.max() == 3
    # a dataset declares the labels complete only if it names every class
    pair = {"image": "scan.nii.gz", "label": "label.nii.gz"}
    for drawn in (["pancreas", "cancer"], ["pancreas", "cancer", "duct"]):
        labels = {str(value): name for value, name in enumerate(["background", *drawn])}
        text = json.dumps({"name": "Pancreas", "labels": labels, "training": [pair]})
        (folder / "dataset.json").write_text(text)
        declared = manifest.read(folder / "dataset.json").declared
        assert (declared or {}).get("duct") == ("complete" if "duct" in drawn else None)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def batches(start, stop):
    """The bright and the dark box of `tiny`, and a duct of medium brightness along z."""
    found = []
    for step in range(start, stop):
        batch = tiny.batch(step)
        for image, label in zip(batch["image"], batch["label"], strict=True):
            place = np.argwhere(label[..., 0] == 0)[step]
            image[place[0], place[1], :, 0], label[place[0], place[1]] = 0.35, 3
        found.append(batch)
    return tf.data.Dataset.from_tensor_slices(
        {name: np.stack([batch[name] for batch in found]) for name in found[0]}
    )


@pytest.fixture(scope="module")
def trainer():
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        built = network.build(
            tiny.SHALLOW.with_size(classes=4),
            patch_size=tiny.PATCH,
            latent_size=8,
            class_prior=(0.9, 0.06, 0.03, 0.01),
        )
    return training.Trainer(built, tiny.config(), strategy)


def test_a_network_with_it_learns_and_scores(trainer):
    bias = trainer.weights()["end/classifier/bias"]
    np.testing.assert_allclose(bias, np.log([0.9, 0.06, 0.03, 0.01]), rtol=1e-6)
    seen = []
    trainer.train(batches, 4, on_step=lambda step, values: seen.append(values["total"]))
    assert seen[-1] < seen[0]

    one = next(iter(batches(4, 5)))
    image, label = one["image"].numpy()[0, ..., 0], one["label"].numpy()[0]
    case = types.SimpleNamespace(image=image, label=label)
    window = WindowConfig(tiny.PATCH)
    found = inference.validate([case], trainer.logits_fn(), window, class_names=NAMES)
    assert set(found) == {
        *(f"{word}_{name}" for word in ("dice", "cases") for name in NAMES.values()),
        *("dice", "cases"),
    }
    mask = inference.segment(image, trainer.logits_fn(), window)
    assert found["dice_duct"] == metrics.dice(mask, label, tuple(NAMES))[3]
    scores = case_scores.compare(label, label, (1.0, 1.0, 2.0), classes=tuple(NAMES))
    assert scores[3].dice == 1.0
    assert scores[3].volume_ml == pytest.approx(np.count_nonzero(label == 3) * 2.0 / 1000.0)


@pytest.mark.parametrize("treatment", ["background", "restricted", "marginal"])
def test_a_site_that_does_not_label_it_has_a_loss(trainer, treatment):
    one = next(iter(batches(0, 1)))
    label = tf.where(one["label"] == 3, tf.zeros_like(one["label"]), one["label"])
    logits = tf.random.stateless_normal((*label.shape, 4), seed=(1, 2))
    with tf.GradientTape() as tape:
        tape.watch(logits)
        dice, entropy = losses.dice_and_cross_entropy(
            logits, label, missing=MissingLabels(classes=(3,), treatment=treatment)
        )
        total = tf.reduce_sum(dice + entropy)
    # the restricted loss leaves the logit of the missing class alone, the others move it
    moved = np.abs(tape.gradient(total, logits).numpy()[..., 3]).max()
    assert bool(moved > 0) is (treatment != "restricted")


def test_weights_of_networks_with_and_without_it_are_told_apart(trainer):
    with pytest.raises(ValueError, match=r"end/classifier/kernel is \(1, 1, 1, 2, 4\), expected"):
        named_weights.assign(tiny.build(tiny.SHALLOW), trainer.weights())
