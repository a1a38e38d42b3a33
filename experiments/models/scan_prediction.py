"""Segments one scan from file to file: CT in; mask on the scan's own grid, and notes on it, out."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from c2fnas import sliding_window
from c2fnas.scores import components, healthy_gate
from c2fnas.scores.healthy_gate import HealthyGate
from c2fnas.scores.tumour_score import TumourScore
from c2fnas.sliding_window import LogitsFn, WindowConfig
from experiments import figures
from experiments.models import own_masks
from preprocessing import dicom, geometry, nifti, resampling, rules, sources
from preprocessing.case_list import Case
from preprocessing.checks import integrity
from preprocessing.names import stem
from preprocessing.rules import IntegrityError
from preprocessing.volume import Grid, Volume
from runkit import atomic
from runkit.classes import FOREGROUND

# Remedies for rules whose own remedy refers to a manifest.
_REMEDIES = {
    rules.SEVERAL_SERIES.id: "choose one with --series and its SeriesInstanceUID or number",
    rules.SEVERAL_ACQUISITIONS.id: (
        "choose one with --series: the series, then # and the acquisition, "
        "e.g. --series=1.2.840.113619#2"
    ),
}
_EXPECTED_VIEW = 0.5  # share of the shortest training scan; below it the organ may lie outside


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictionSettings:
    """How a scan is prepared for the network, and how a mask is made from its output.

    Attributes:
      spacing_mm, window_hu: of the training grid.
      window: the sliding window.
      largest_component: whether to keep only the largest connected part of pancreas and tumour
        together.
      expected_view_mm: the shortest extent of a training scan along x (left to right), y and z. A
        scan that covers less than half of it is refused. None accepts every scan.
      gate: removes a tumour whose score does not pass; None removes none.
    """

    spacing_mm: tuple[float, float, float]
    window_hu: tuple[float, float]
    window: WindowConfig
    largest_component: bool = False
    expected_view_mm: tuple[float, float, float] | None = None
    gate: HealthyGate | None = None

    @classmethod
    def of_plan(cls, plan: Mapping[str, Any], **changes: Any) -> PredictionSettings:
        """Returns the settings in a model's plan; raises ValueError naming a missing entry."""
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
                f"the model's plan lacks {error}; use a model folder that table1 or a training "
                "wrote"
            ) from error
        return cls(**{**values, **changes})


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The contents of a mask.

    Attributes:
      volumes_ml: class name -> volume on the scan's own grid.
      components: class name -> number of connected parts.
      notes: warnings to read before trusting the mask.
      failed: one line for each further output that could not be written.
      score: certainty of the tumour, see c2fnas.scores.tumour_score; None for a mask of an earlier
        run.
      gate: "stopped" if the gate removed a tumour, "passed" if it kept one, else "".
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
    settings: PredictionSettings,
    *,
    overlay: str | os.PathLike | None = None,
    probabilities: bool = False,
    dicom_seg: str | os.PathLike | None = None,
    model_name: str = "C2FNAS",
    series: str | None = None,
    orientation: str | None = None,
) -> Prediction:
    """Segments a scan and writes the mask on the scan's own grid.

    Affine and header of a NIfTI scan are copied bit for bit. If the scan is smaller than the
    sliding window, the window is reduced, and the scan is padded with air to its size. Each file is
    written completely or not at all. The mask is written first: if another file fails, the mask and
    the remaining files are still written. Nothing is replaced but unchanged outputs of an earlier
    prediction, see `own_masks`.

    Args:
      image: CT, as a NIfTI file or a DICOM series (its folder, a zip of it, or a multi-frame file).
      output: mask to write (.nii.gz).
      logits_fn: the network, see c2fnas.inference.logits_fn.
      settings: how to prepare the scan and make the mask.
      overlay: picture to write (.png).
      probabilities: whether to also write `<stem of output>.<class>.nii.gz`, the probability of
        each class on the scan's grid, float32.
      dicom_seg: DICOM segmentation object to write (.dcm), for a DICOM series.
      model_name: name of the model in that object.
      series: the DICOM series to take if there are several, see `dicom.read_series`.
      orientation: of a NIfTI file whose header gives none, see preprocessing.nifti.read_ct.
    Raises:
      ValueError: naming the scan if it cannot be read, is not a CT in HU or covers too little, or
        the mask if it cannot be written or a file is in its place that must not be replaced.
    """
    image = pathlib.Path(image)
    maps = probability_files(output) if probabilities else []
    own_masks.require_replaceable(
        output, [path for path in (*maps, overlay, dicom_seg) if path is not None]
    )
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
        from c2fnas import inference

        mask = inference.segment(scaled, logits_fn, settings.window, observe=score.add)
    gate = ""
    notes: tuple[str, ...] = ()
    if settings.gate is not None and score.value > 0:
        gate = "stopped" if settings.gate.stops(score.value) else "passed"
        if gate == "stopped":
            notes = (_gate_note(mask, score.value, settings.gate.threshold, settings.spacing_mm),)
            mask = healthy_gate.without_tumour(mask)
    if settings.largest_component:
        mask = components.keep_largest(mask)
    native = resampling.restore_labels(mask, ct.grid, settings.spacing_mm)
    about = own_masks.description(native)
    with _written(output):
        if is_dicom:
            nifti.write_volume(output, Volume(native, ct.affine), description=about)
        else:
            nifti.write_labels_like(output, native, image, description=about)
    found = _described(native, ct.grid)
    failed: list[str] = []
    if by_class is not None:
        for value, path in zip(FOREGROUND, maps, strict=True):
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
    notes = (*notes, *found.notes, *unusual)
    return dataclasses.replace(
        found, notes=notes, failed=tuple(failed), score=score.value, gate=gate
    )


def describe_mask(mask: str | os.PathLike, *, orientation: str | None = None) -> Prediction:
    """Describes a mask of an earlier run; raises IntegrityError if it cannot be read."""
    volume = nifti.read_labels(mask, orientation=orientation)
    return _described(volume.array, volume.grid)


def probability_files(output: str | os.PathLike) -> list[pathlib.Path]:
    """Returns the files for the probabilities of each class, in the order of `FOREGROUND`."""
    return [_beside(output, f".{name}.nii.gz") for name in FOREGROUND.values()]


def _gate_note(
    mask: np.ndarray, score: float, threshold: float, spacing_mm: Sequence[float]
) -> str:
    volume_ml = np.count_nonzero(mask == 2) * math.prod(spacing_mm) / 1000.0
    return (
        f"the healthy gate removed a marked tumour of {volume_ml:.1f} ml: score {score:.2f}, "
        f"threshold {threshold:.2f}; it may still be a tumour: --nogate shows it"
    )


def _scaled(upright: Volume, settings: PredictionSettings) -> np.ndarray:
    """Returns the scan on the training grid, float16 [x, y, z] in [-1, 1].

    These are the same values as in the case store, i.e. in training and evaluation.
    """
    scaled = np.empty(
        resampling.resampled_shape(upright.shape, upright.spacing_mm, settings.spacing_mm),
        dtype=np.float16,
    )
    filled = 0
    for slab in resampling.windowed_slabs(upright, settings.spacing_mm, settings.window_hu):
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
            f"{image}: covers {', '.join(short)}, so the pancreas may lie outside, and a mask "
            "would mislead; use a scan of the whole upper abdomen, or accept this one with "
            "--accept_small_view and look at the mask"
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
    """Returns one class's probabilities on the scan's own grid, float32 in the scan's axis order.

    Args:
      probability: [x, y, z] on the training grid.
      native: the scan's grid.
      target_mm: spacing of the training grid.
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
    """Records the error if a file besides the mask cannot be written; the mask is kept."""
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
            f"{path}: cannot be written ({error.strerror or error}); free space or use another "
            "place. No incomplete file was left there"
        ) from error
