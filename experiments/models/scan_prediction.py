"""One scan from file to file: CT in, mask on the scan's own grid out, and what to know about the
mask.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from c2fnas import inference, sliding_window
from c2fnas.scores import components, healthy_gate
from c2fnas.scores.healthy_gate import HealthyGate
from c2fnas.scores.tumour_score import TumourScore
from c2fnas.sliding_window import LogitsFn, WindowConfig
from experiments import figures
from preprocessing import dicom, geometry, intensity, nifti, resampling, sources
from preprocessing.checks import integrity, rules
from preprocessing.checks.rules import IntegrityError
from preprocessing.manifest import Case
from preprocessing.names import stem
from preprocessing.volume import Grid, Volume
from runkit import atomic
from runkit.classes import FOREGROUND

# remedies of rules whose own speak of a manifest
_REMEDIES = {
    rules.SEVERAL_SERIES.id: "choose one with --series and its SeriesInstanceUID or number",
    rules.SEVERAL_ACQUISITIONS.id: "choose one with --series: the series, then # and the acquisition, e.g. --series=1.2.840.113619#2",
}
_EXPECTED_VIEW = 0.5  # of the shortest training scan: below it the organ may well lie outside


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How a scan is brought to the network and its answer back.

    Attributes:
      spacing_mm, window_hu: of the training grid.
      window: of the sliding window.
      largest_component: whether only the largest connected part of pancreas and tumour together
          stays.
      expected_view_mm: along x (left to right), y, z the shortest extent of a training scan; a scan
        that covers less than half of one is refused. None asks nothing.
      gate: takes out a tumour whose score does not pass it; None takes out none.
    """

    spacing_mm: tuple[float, float, float]
    window_hu: tuple[float, float]
    window: WindowConfig
    largest_component: bool = False
    expected_view_mm: tuple[float, float, float] | None = None
    gate: HealthyGate | None = None

    @classmethod
    def of_plan(cls, plan: Mapping[str, Any], **changes: Any) -> Settings:
        """Returns the settings that a model's plan holds. Raises ValueError naming the entry that
        it lacks.
        """
        try:
            window = WindowConfig(
                tuple(plan["inference"]["window"]),
                plan["inference"]["overlap"],
                plan["inference"]["blending"],
            )
            values = {
                "spacing_mm": tuple(plan["spacing_mm"]),
                "window_hu": tuple(plan["window_hu"]),
                "window": window,
            }
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"the model's plan lacks {error}; take a model folder that table1 or the training wrote"
            ) from error
        return cls(**{**values, **changes})


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a mask says.

    Attributes:
      volumes_ml: class name -> volume on the scan's own grid.
      components: class name -> connected parts.
      notes: what a reader should know before believing it.
      failed: what else was asked for and could not be written, a line for each file.
      score: how sure the network is of a tumour, see c2fnas.scores.tumour_score; None for a mask of
          an earlier run.
      gate: "stopped" where the gate has taken a tumour out, "passed" where it has left one, ""
          elsewhere.
    """

    volumes_ml: Mapping[str, float]
    components: Mapping[str, int]
    notes: tuple[str, ...]
    failed: tuple[str, ...] = ()
    score: float | None = None
    gate: str = ""


def predict_scan(
    image: str | os.PathLike,
    output: str | os.PathLike,
    logits_fn: LogitsFn,
    settings: Settings,
    *,
    overlay: str | os.PathLike | None = None,
    probabilities: bool = False,
    dicom_seg: str | os.PathLike | None = None,
    model_name: str = "C2FNAS",
    series: str | None = None,
    orientation: str | None = None,
) -> Prediction:
    """Segments a scan and writes the mask on its grid: affine and header of a NIfTI file as they
    are, bit for bit.

    A scan smaller than the sliding window gets a smaller one and is surrounded with air up to its
    size. Every file is there whole or not at all. What lies beside the mask is written after it:
    where one of these files fails, the mask stays and the others are written.

    Args:
      image: CT, a NIfTI file or a DICOM series: its folder, a zip of it, or one multi-frame file.
      output: mask to write, .nii.gz.
      logits_fn: the network, see c2fnas.inference.logits_fn.
      overlay: picture to write, .png.
      probabilities: also write `<output's stem>.<class>.nii.gz`, float32, the probability of each
          class on the scan's grid.
      dicom_seg: DICOM segmentation object to write, .dcm, for a DICOM series.
      model_name: written into it.
      series: which DICOM series, where there are several, see `dicom.read_series`.
      orientation: of a NIfTI file whose header gives none, see preprocessing.nifti.read_ct.
    Raises:
      ValueError: naming the scan where it cannot be read, is no CT in HU or covers too little, and
          the mask that cannot be written.
    """
    image = pathlib.Path(image)
    is_dicom = dicom.is_series(image)
    try:
        ct = sources.read_image(Case("scan", image, None, series, orientation=orientation))
    except IntegrityError as error:
        raise IntegrityError(
            error.rule, error.file, error.problem, _REMEDIES.get(error.rule, error.fix)
        ) from error
    integrity.check_scan(ct, str(image))
    upright = geometry.to_ras(ct)
    _check_view(upright, image, settings.expected_view_mm)
    scaled = _scaled(upright, settings)
    by_class, score = None, TumourScore(settings.spacing_mm)
    if probabilities:
        by_class = sliding_window.predict_probabilities(scaled, logits_fn, settings.window)
        mask = by_class.argmax(axis=-1).astype(np.uint8)
        score.add_probabilities(mask, by_class)
    else:
        mask = inference.segment(scaled, logits_fn, settings.window, observe=score.add)
    gate, gate_notes = "", ()
    if settings.gate is not None and score.value > 0:
        gate = "stopped" if settings.gate.stops(score.value) else "passed"
        if gate == "stopped":
            gate_notes = (_gate_note(mask, score.value, settings),)
            mask = healthy_gate.without_tumour(mask)
    if settings.largest_component:
        mask = components.keep_largest(mask)
    native = resampling.restore_labels(mask, ct.grid, settings.spacing_mm)
    with _written(output):
        if is_dicom:
            nifti.write_volume(output, Volume(native, ct.affine))
        else:
            nifti.write_labels_like(output, native, image)
    found, failed = _described(native, ct.grid), []
    if by_class is not None:
        for value, path in zip(FOREGROUND, probability_files(output), strict=True):
            with _extra(path, failed):
                nifti.write_volume(
                    path,
                    Volume(
                        _on_native_grid(by_class[..., value], ct.grid, settings.spacing_mm),
                        ct.affine,
                    ),
                )
    if overlay is not None:
        with _extra(overlay, failed), atomic.replacing(overlay) as path:
            figures.overlay(scaled, mask, settings.spacing_mm).savefig(path)
    unusual = tuple(f"{warning.problem} [{warning.rule}]; {warning.fix}" for warning in ct.warnings)
    if dicom_seg is not None and native.any():
        from preprocessing import dicom_segmentation

        with _extra(dicom_seg, failed):
            dicom_segmentation.write(dicom_seg, native, image, model_name=model_name, series=series)
    notes = (*gate_notes, *found.notes, *unusual)
    return dataclasses.replace(
        found, notes=notes, failed=tuple(failed), score=score.value, gate=gate
    )


def describe(mask: str | os.PathLike, *, orientation: str | None = None) -> Prediction:
    """Returns what a mask says that an earlier run wrote. Raises IntegrityError where it cannot be
    read.
    """
    volume = nifti.read_labels(mask, orientation=orientation)
    return _described(volume.array, volume.grid)


def probability_files(output: str | os.PathLike) -> list[pathlib.Path]:
    """Returns where the probabilities of each class go, in the order of `FOREGROUND`."""
    return [_beside(output, f".{name}.nii.gz") for name in FOREGROUND.values()]


def _gate_note(mask: np.ndarray, score: float, settings: Settings) -> str:
    volume_ml = np.count_nonzero(mask == 2) * math.prod(settings.spacing_mm) / 1000.0
    return (
        f"the healthy gate has taken out a marked tumour of {volume_ml:.1f} ml: score {score:.2f}, threshold {settings.gate.threshold:.2f}; "
        "it may be one all the same: --nogate shows it"
    )


def _scaled(upright: Volume, settings: Settings) -> np.ndarray:
    """Returns the scan on the training grid as the case store keeps it, float16 [x, y, z] in [-1,
    1]: what training and evaluation see.
    """
    low, high = settings.window_hu
    scaled = np.empty(
        resampling.resampled_shape(upright.shape, upright.spacing_mm, settings.spacing_mm),
        dtype=np.float16,
    )
    filled = 0
    finish = functools.partial(intensity.window_float16, low=low, high=high)
    for slab in resampling.linear_slabs(
        upright.array, upright.spacing_mm, settings.spacing_mm, finish=finish
    ):
        scaled[filled : filled + len(slab)] = slab
        filled += len(slab)
    return scaled


def _check_view(upright: Volume, image: pathlib.Path, expected_mm: Sequence[float] | None) -> None:
    if expected_mm is None:
        return
    extent = [n * length for n, length in zip(upright.shape, upright.spacing_mm, strict=True)]
    short = [
        f"{covered:.0f} mm along {axis} where training scans have at least {expected:.0f}"
        for axis, covered, expected in zip("xyz", extent, expected_mm, strict=True)
        if covered < _EXPECTED_VIEW * expected
    ]
    if short:
        raise ValueError(
            f"{image}: covers {', '.join(short)}, so the pancreas may lie outside and a mask would mislead; "
            "give a scan of the whole upper abdomen, or accept this one with --accept_small_view and look at the mask"
        )


def _described(native: np.ndarray, grid: Grid) -> Prediction:
    voxel_ml = math.prod(grid.spacing_mm) / 1000.0
    notes = []
    if not native.any():
        notes.append("nothing found: is the upper abdomen in the scan?")
    elif any(np.take(native, place, axis=axis).any() for axis in range(3) for place in (0, -1)):
        notes.append("the mask reaches the border of the scan: part of the organ may lie outside")
    return Prediction(
        {
            name: int(np.count_nonzero(native == value)) * voxel_ml
            for value, name in FOREGROUND.items()
        },
        {name: components.count(native == value) for value, name in FOREGROUND.items()},
        tuple(notes),
    )


def _on_native_grid(
    probability: np.ndarray, native: Grid, target_mm: Sequence[float]
) -> np.ndarray:
    """Returns one class's probabilities of the training grid on the scan's own grid, float32 in the
    scan's axis order.
    """
    restored = np.empty(native.shape, dtype=np.float32, order="F")
    upright = geometry.to_ras_order(restored, native)
    for rows, slab in resampling.restored_probabilities(
        probability[..., np.newaxis], native, target_mm
    ):
        upright[rows] = slab[..., 0]
    return restored


def _beside(output: str | os.PathLike, ending: str) -> pathlib.Path:
    output = pathlib.Path(output)
    return output.with_name(stem(output) + ending)


@contextlib.contextmanager
def _extra(path: str | os.PathLike, failed: list[str]) -> Iterator[None]:
    """Takes down what keeps a file beside the mask from being written: the mask is there and stays."""
    try:
        with _written(path):
            yield
    except Exception as error:
        failed.append(
            str(rules.refusal(error, path)) if not isinstance(error, ValueError) else str(error)
        )


@contextlib.contextmanager
def _written(path: str | os.PathLike) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"{path}: cannot be written ({error.strerror or error}); free space or name another place. Nothing half-written is left there"
        ) from error
