"""A model for programs that have TensorFlow and nothing of ours: one window in, logits out."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

import tensorflow as tf

from c2fnas import model_folder
from c2fnas.model_folder import Model
from runkit import atomic

SIGNATURE = "serving_default"  # the name that TensorFlow's own tools look for


def export(model: Model, folder: str | os.PathLike, *, window: Sequence[int] | None = None) -> None:
    """Writes a SavedModel with the signature image float32 [1, *window, 1] in [-1, 1] -> logits
    float32 [1, *window, classes].

    What prepares a scan for it lies beside it, in `assets.extra`: plan, genotype and model card.
    `saved_model.load(folder)` of plain TensorFlow gives the same logits as the model here.

    Args:
      model: its VAE branch is left out.
      window: voxels x, y, z, multiples of 2**depth of the genotype; None takes the plan's sliding
          window.
    Raises:
      ValueError: for a window that does not fit, or if `folder` holds something else than an
          export.
    """
    folder = pathlib.Path(folder)
    if folder.exists() and not (folder / "saved_model.pb").is_file():
        raise ValueError(
            f"{folder} is there and no SavedModel; give a folder that is new or holds an earlier export"
        )
    size = tuple(int(n) for n in (window or model.plan["inference"]["window"]))
    model.genotype.check_size(size)
    network = model_folder.build_segmenter(model)
    # One fixed shape: the network's fast paths on a CPU are chosen by it, and a window is what a
    # sliding window needs.
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
