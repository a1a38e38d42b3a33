"""Exports a model for programs that have TensorFlow but not this product."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

import tensorflow as tf

from c2fnas import model_folder
from c2fnas.genotype import as_size
from c2fnas.model_folder import Model
from runkit import atomic, printable

# What TensorFlow writes, in both stacks, and what this module adds.
_OWN = {
    *("saved_model.pb", "fingerprint.pb", "keras_metadata.pb", "variables", "assets"),
    "assets.extra",
}
_OWN_EXTRA = {"plan.json", "genotype.json", "model_card.md"}
SIGNATURE = "serving_default"  # the name that TensorFlow's own tools look for


def export(model: Model, folder: str | os.PathLike, *, window: Sequence[int] | None = None) -> None:
    """Writes a SavedModel that computes the logits of one window.

    Its signature takes image float32 [1, *window, 1] in [-1, 1] and returns logits float32
    [1, *window, classes], the same as the model itself. Its folder `assets.extra` has plan,
    genotype and model card, which say how to prepare a scan.

    Args:
      model: the model; its VAE branch is left out.
      folder: folder to write; an earlier export in it is replaced.
      window: x, y, z in voxels, multiples of 2**depth of the genotype; None takes the sliding
        window of the plan.
    Raises:
      ValueError: for a window that does not fit, or if `folder` exists and is not an export, or
        holds anything else, which would be lost.
    """
    folder = pathlib.Path(folder)
    if folder.exists() and not (folder / "saved_model.pb").is_file():
        raise ValueError(
            f"{folder} exists and is not a SavedModel; "
            "give a folder that is new or holds an earlier export"
        )
    others = [*_besides(folder, _OWN), *_besides(folder / "assets.extra", _OWN_EXTRA)]
    if others:
        raise ValueError(
            f"{folder} also holds {printable.some(sorted(others), 3)}, which is not part of an "
            "export; move it away, or give another folder"
        )
    size = as_size(window or model.plan["inference"]["window"])
    model.genotype.check_size(size)
    network = model_folder.build_segmenter(model)
    # One fixed shape, because the network's fast paths on a CPU need a known shape.
    signature = tf.TensorSpec((1, *size, 1), tf.float32, name="image")
    module = tf.Module()
    module.segmenter = network.segmenter
    module.logits = tf.function(
        lambda image: {"logits": network.segmenter(image, training=False)},
        input_signature=[signature],
        autograph=False,
    )
    with atomic.replacing_folder(folder) as temporary:
        tf.saved_model.save(module, str(temporary), signatures={SIGNATURE: module.logits})
        extra = temporary / "assets.extra"
        extra.mkdir()
        atomic.write_json(extra / "plan.json", dict(model.plan))
        atomic.write_json(extra / "genotype.json", model.genotype.to_json())
        atomic.write_text(extra / "model_card.md", model_folder.card(model))


def _besides(folder: pathlib.Path, own: set[str]) -> list[str]:
    """Returns the names in a folder, if there is one, that are not its own."""
    return (
        [path.name for path in folder.iterdir() if path.name not in own] if folder.is_dir() else []
    )
