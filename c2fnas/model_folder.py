"""A trained model as one folder: all that programs need to use it and people need to judge it.

<folder>/weights.safetensors   every weight by canonical name, including those of a VAE branch
<folder>/genotype.json         the network
<folder>/plan.json             how scans are prepared: spacing, HU window, sliding window, classes
<folder>/model.json            format, name, training data, scores and healthy gate, as numbers
<folder>/model_card.md         the same as a page to read, see model_card

The files do not name any scan, patient or path. The folder is written completely or not at all.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from c2fnas import model_card, model_description, named_weights
from c2fnas.genotype import Genotype
from runkit import atomic

if TYPE_CHECKING:
    from c2fnas.network import Network

FORMAT = 1  # raise it when earlier releases can no longer read a new folder
FILES = ("weights.safetensors", "genotype.json", "plan.json", "model.json", "model_card.md")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Model:
    """A model in memory.

    Attributes:
      name: e.g. "FL_global".
      weights: canonical name -> float32 array.
      genotype: the network.
      plan: nested JSON values; a prediction reads `spacing_mm`, `window_hu`, `inference` and
        `classes`.
      training_data: e.g. sites, numbers of cases, ranges of spacing; {} if unknown.
      scores: scores and the cases they were computed on, see `model_card`.
      gate: its healthy gate as JSON values, see `healthy_gate`; {} if none was fitted.
    """

    name: str
    weights: Mapping[str, np.ndarray]
    genotype: Genotype
    plan: Mapping[str, Any]
    training_data: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    scores: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    gate: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def save(folder: str | os.PathLike, model: Model) -> None:
    """Writes a model's folder; an earlier model in it is replaced.

    Raises:
      ValueError: if `folder` exists and holds anything other than a model.
    """
    folder = pathlib.Path(folder)
    if folder.exists() and (
        not folder.is_dir() or {path.name for path in folder.iterdir()} - set(FILES)
    ):
        raise ValueError(
            f"{folder} holds something other than a model; "
            "give a folder that is new or holds an earlier model"
        )
    with atomic.replacing_folder(folder) as temporary:
        named_weights.save(temporary / "weights.safetensors", model.weights, {"model": model.name})
        atomic.write_json(temporary / "genotype.json", model.genotype.to_json())
        atomic.write_json(temporary / "plan.json", dict(model.plan))
        about = {
            "format": FORMAT,
            "name": model.name,
            "training_data": dict(model.training_data),
            "scores": dict(model.scores),
        }
        about |= {"gate": dict(model.gate)} if model.gate else {}
        atomic.write_json(temporary / "model.json", about)
        atomic.write_text(temporary / "model_card.md", card(model))


def load(folder: str | os.PathLike) -> Model:
    """Reads a model's folder.

    Raises:
      ValueError: if it is not a model, lacks a file, has another format, or if its weights do not
        fit its genotype; the message names the folder or file.
    """
    model = describe(folder)
    weights, _ = named_weights.load(weights_file(folder))
    check_shapes({name: array.shape for name, array in weights.items()}, model.genotype, folder)
    return dataclasses.replace(model, weights=weights)


def weights_file(folder: str | os.PathLike) -> pathlib.Path:
    return pathlib.Path(folder) / "weights.safetensors"


def describe(folder: str | os.PathLike) -> Model:
    """Reads a model's folder without its weights, which are {}.

    Raises:
      ValueError: if it is not a model, lacks a file or has another format; the message names the
        folder or file.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise ValueError(
            f"{folder}: no such folder; give the folder of a model, with {', '.join(FILES)}"
        )
    missing = [name for name in FILES[:4] if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"{folder} is not a model: it lacks {', '.join(missing)}; "
            "give the folder that the training or table1 wrote"
        )
    about = atomic.read_json(folder / "model.json")
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        found = about.get("format") if isinstance(about, dict) else None
        raise ValueError(
            f"{folder / 'model.json'}: format is {found!r}, this version reads {FORMAT}; "
            "use the version that wrote it"
        )
    try:
        genotype = Genotype.from_json(atomic.read_json(folder / "genotype.json"))
    except TypeError as error:
        raise ValueError(f"{folder / 'genotype.json'}: {error}") from error
    plan = atomic.read_json(folder / "plan.json")
    _checked(folder / "model.json", model_description.check_about, about)
    _checked(folder / "plan.json", model_description.check_plan, plan)
    model = Model(
        name=about.get("name", folder.name),
        weights={},
        genotype=genotype,
        plan=plan,
        training_data=about.get("training_data", {}),
        scores=about.get("scores", {}),
        gate=about.get("gate", {}),
    )
    _check_classes(model, folder)
    return model


def _checked(file: pathlib.Path, check: Callable[[Any], None], content: Any) -> None:
    try:
        check(content)
    except ValueError as error:
        raise ValueError(f"{file}: {error}; copy the whole folder again") from error


def card(model: Model) -> str:
    """Returns the model card as Markdown."""
    return model_card.text(
        model.name, model.genotype, model.plan, model.training_data, model.scores, model.gate
    )


def build_segmenter(model: Model) -> Network:
    """Returns the network of a model with its weights, without the VAE branch.

    Call it in `strategy.scope()`.

    Raises:
      ValueError: if the weights do not fit the genotype.
    """
    from c2fnas import network

    smallest = (2**model.genotype.depth,) * 3
    built = network.build(model.genotype, patch_size=smallest, vae=None)
    named_weights.assign(built, named_weights.without_vae(model.weights))
    return built


def _check_classes(model: Model, folder: str | os.PathLike) -> None:
    """Raises ValueError if plan and network have different numbers of classes."""
    classes = model.plan.get("classes") if isinstance(model.plan, dict) else None
    if not isinstance(classes, dict) or len(classes) != model.genotype.classes:
        raise ValueError(
            f"{folder}: plan.json names the classes {classes}, the network has "
            f"{model.genotype.classes}; the files belong to two models: copy the whole folder again"
        )


def check_shapes(
    shapes: Mapping[str, tuple[int, ...]], genotype: Genotype, folder: str | os.PathLike
) -> None:
    """Checks the shapes of the convolutions, without building the network.

    Args:
      shapes: canonical name -> shape of the weight.
      genotype: the network.
      folder: folder of the model, for the message.
    Raises:
      ValueError: if one is missing or has another shape than in the genotype.
    """
    for convolution in genotype.convolutions():
        expected = (*convolution.kernel, convolution.channels_in, convolution.channels_out)
        found = shapes.get(convolution.name)
        if found != expected:
            state = "is missing" if found is None else f"is {found}"
            raise ValueError(
                f"{folder}: the weights are not those of genotype {genotype.name!r} with "
                f"{genotype.filters} filters and {genotype.classes} classes: {convolution.name} "
                f"{state}, expected {expected}; copy the whole folder again"
            )
