"""Segments CTs: NIfTI or DICOM in; masks on the scans' own grids and a table of volumes out.

    python -m experiments.predict --model=models/FL_global --image=scan.nii.gz --output=mask.nii.gz
    python -m experiments.predict --model=models/FL_global --image=scans --output=masks --overlay
    python -m experiments.predict --model=models/FL_global --list=scans.txt --output=masks

If a scan fails, the program names it, segments the others and exits with code 1. It refuses to
write over a scan, and over a mask that someone drew or corrected.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, get_args

from absl import app, flags, logging

from c2fnas.allowed_values import Blending
from experiments import flags as experiment_flags
from experiments import program
from preprocessing.names import stem
from runkit import printable

if TYPE_CHECKING:
    from c2fnas.model_folder import Model
    from c2fnas.scores.healthy_gate import HealthyGate
    from experiments.models.scan_prediction import PredictionSettings
    from experiments.reports.prediction_table import Table

# Suffixes of other files than NIfTI; such a name of a folder is a mistake.
_OTHER_FORMATS = (".dcm", ".gz", ".hdr", ".img", ".mgz", ".mha", ".mhd", ".nrrd", ".png", ".zip")

FLAGS = flags.FLAGS
experiment_flags.define_runtime()
experiment_flags.define_orientation()
flags.DEFINE_integer("seed", 0, "Seed of Keras; a prediction draws no random numbers.")
flags.DEFINE_string("model", None, "Model folder.")
flags.DEFINE_multi_string(
    "image",
    [],
    "CT to segment: a NIfTI file, the folder or zip of a DICOM series, a multi-frame DICOM file, "
    "or a folder of any of these. May be given several times.",
)
flags.DEFINE_string(
    "series",
    None,
    "Series to segment in each DICOM scan: its SeriesInstanceUID or SeriesNumber, followed by # "
    "and the acquisition if the series holds several, e.g. 2 or 1.2.840.113619.2.55#1.",
)
flags.DEFINE_string(
    "list",
    None,
    "Text file with one scan per line, as for --image; paths are relative to the file's folder.",
)
flags.DEFINE_string(
    "output",
    None,
    "Mask to write (.nii.gz) for one scan; for several, a folder other than that of the scans.",
)
flags.DEFINE_string(
    "volumes",
    None,
    "CSV table of volumes, updated after each scan; rows of other scans stay. Default: volumes.csv "
    "in the folder of masks; for one scan, none.",
)
flags.DEFINE_bool(
    "overlay", False, "Also write a picture (.png) of axial and coronal slices with the mask."
)
flags.DEFINE_bool(
    "probabilities", False, "Also write the probability map of each class, next to the mask."
)
flags.DEFINE_bool(
    "dicom_seg",
    False,
    "Also write a DICOM segmentation object for each DICOM series; needs the extra dicom_seg.",
)
flags.DEFINE_bool(
    "largest_component",
    False,
    "Keep only the largest connected part of pancreas and tumour together.",
)
flags.DEFINE_bool(
    "gate",
    None,
    "Remove a marked tumour if the network is no more certain of it than of false alarms in "
    "healthy patients; notes and table say where. Default: on if the model folder holds such a "
    "gate.",
)
flags.DEFINE_list(
    "flips",
    [],
    "Average the predictions over views mirrored along these axes, e.g. x,z. Each axis doubles the "
    "time. Only for models trained with --flip_axes.",
)
flags.DEFINE_list("window", [], "Sliding window in voxels x,y,z, instead of the plan's.")
flags.DEFINE_float("overlap", None, "Overlap of neighbouring windows, instead of the plan's.")
flags.DEFINE_enum(
    "blending",
    None,
    list(get_args(Blending)),
    "Weights of a window's voxels, instead of the plan's.",
)
flags.DEFINE_bool(
    "accept_small_view", False, "Segment scans that cover much less than the training scans."
)
flags.DEFINE_bool(
    "skip_existing",
    False,
    "Skip scans whose outputs all exist: use it to resume after an interruption, or beside masks "
    "that you corrected.",
)


def main(argv: list[str]) -> int:
    del argv
    from c2fnas import model_folder
    from experiments.models import devices, scan_prediction, strategies
    from experiments.reports import prediction_table
    from preprocessing import dicom, rules
    from runkit import progress

    model_path = experiment_flags.required("model", "the model folder")
    orientation = experiment_flags.orientation()
    jobs = _jobs()
    table_path = FLAGS.volumes or (
        None if _one_file() else str(pathlib.Path(FLAGS.output) / "volumes.csv")
    )
    _require_apart(jobs, model_path, table_path)
    if FLAGS.series is not None and not any(dicom.is_series(image) for image, _ in jobs):
        raise app.UsageError(
            "--series chooses a series of a DICOM scan, but none of the given scans is DICOM"
        )
    table = prediction_table.Table(table_path)
    model = model_folder.load(model_path)
    settings = _settings(model)
    model.genotype.check_size(settings.window.size)
    if FLAGS.dicom_seg:
        from preprocessing import dicom_segmentation

        dicom_segmentation.require_writer()
    if FLAGS.skip_existing:
        listed = len(jobs)
        jobs = [(image, mask) for image, mask in jobs if not _is_complete(image, mask, table)]
        print(
            f"{listed - len(jobs)} of {listed} scans already have all their outputs",
            file=sys.stderr,
        )
    experiment_flags.start_tensorflow()
    from c2fnas import inference

    strategy = strategies.mirrored()
    devices.announce(devices.record(tf32=FLAGS.tf32, deterministic=FLAGS.deterministic))
    with strategy.scope():
        network = model_folder.build_segmenter(model)
    logits_fn = inference.logits_fn(network, strategy)
    if FLAGS.flips:
        logits_fn = inference.with_flips(logits_fn, ["xyz".index(axis) for axis in FLAGS.flips])
    settings = _replaced(
        settings, batch=inference.parallel_windows(strategy), multiple=model.genotype.size_multiple
    )
    failed, incomplete, unwritten = 0, 0, None
    for image, mask in progress.bar(jobs, what="scans", unit="scan"):
        begin = time.monotonic()
        try:
            found = scan_prediction.predict_scan(
                image,
                mask,
                logits_fn,
                settings,
                overlay=_overlay(mask),
                probabilities=FLAGS.probabilities,
                dicom_seg=_dicom_seg(image, mask),
                model_name=model.name,
                series=FLAGS.series,
                orientation=orientation,
            )
        except Exception as error:  # if one scan fails, the others are still segmented
            names_a_file = type(error) is ValueError and any(
                str(path) in str(error) for path in (image, mask)
            )
            problem = str(error if names_a_file else rules.refusal(error, image))
            failed += 1
            print(f"error: {printable.block(problem)}", file=sys.stderr)
            row = prediction_table.failed_row(image, problem)
        else:
            seconds = time.monotonic() - begin
            volumes = ", ".join(
                f"{name} {volume:.1f} ml" for name, volume in found.volumes_ml.items()
            )
            print(f"{printable.text(mask, limit=1000)}: {volumes} ({seconds:.0f} s)")
            for note in found.notes:
                logging.warning("%s: %s", image, note)
            incomplete += bool(found.failed)
            for problem in found.failed:
                print(f"error: {printable.block(problem)}", file=sys.stderr)
            row = prediction_table.row(image, mask, found, seconds)
        try:
            table.add(row)
            unwritten = None
        except ValueError as error:
            unwritten = error  # the row is kept and written with the next one
    if unwritten is not None:
        print(f"error: {printable.block(unwritten)}", file=sys.stderr)
    if failed:
        print(f"{failed} of {len(jobs)} scans failed", file=sys.stderr)
    if incomplete:
        print(
            f"{incomplete} of {len(jobs)} scans have a mask but lack another requested output",
            file=sys.stderr,
        )
    return 1 if failed or incomplete or unwritten else 0


def _overlay(mask: pathlib.Path) -> pathlib.Path | None:
    return mask.with_name(stem(mask) + ".png") if FLAGS.overlay else None


def _dicom_seg(image: pathlib.Path, mask: pathlib.Path) -> pathlib.Path | None:
    from preprocessing import dicom

    return (
        mask.with_name(stem(mask) + ".dcm") if FLAGS.dicom_seg and dicom.is_series(image) else None
    )


def _outputs(image: pathlib.Path, mask: pathlib.Path) -> list[pathlib.Path]:
    """Returns every file that the flags request for a scan, the mask first."""
    from experiments.models import scan_prediction

    extras = [
        _overlay(mask),
        *(scan_prediction.probability_files(mask) if FLAGS.probabilities else []),
        _dicom_seg(image, mask),
    ]
    return [mask, *(path for path in extras if path is not None)]


def _is_complete(image: pathlib.Path, mask: pathlib.Path, table: Table) -> bool:
    """Returns whether every output of a scan exists; adds a missing row of the table."""
    from experiments.models import scan_prediction
    from experiments.reports import prediction_table

    missing = [path for path in _outputs(image, mask) if not path.exists()]
    # An empty mask has no segmentation object.
    empty_has_none = missing == [_dicom_seg(image, mask)]
    if missing and not empty_has_none:
        return False
    if empty_has_none or not table.has_mask(mask):
        try:
            found = scan_prediction.describe_mask(mask, orientation=FLAGS.orientation)
        except ValueError:
            return False
        if empty_has_none and any(found.components.values()):
            return False
        if not table.has_mask(mask):
            table.add(prediction_table.row(image, mask, found))
    return True


def _require_apart(
    jobs: Sequence[tuple[pathlib.Path, pathlib.Path]], model_path: str, table_path: str | None
) -> None:
    """Raises ValueError if an output would replace a file or lie among the scans."""
    from runkit import overwriting

    inputs: overwriting.Named = {
        "--image": [image for image, _ in jobs],
        "--model": [model_path],
        "--list": [FLAGS.list] if FLAGS.list else [],
    }
    written = [path for image, mask in jobs for path in _outputs(image, mask)]
    overwriting.require_apart(
        inputs, {"--output": written, "--volumes": [table_path] if table_path else []}
    )
    if not _one_file():
        for folder in {*FLAGS.image, *(image.parent for image, _ in jobs if not image.is_dir())}:
            if (
                os.path.isdir(folder)
                and os.path.isdir(FLAGS.output)
                and os.path.samefile(folder, FLAGS.output)
            ):
                raise ValueError(
                    f"--output: {FLAGS.output} is the folder of the scans ({folder}); name another "
                    "folder for the masks"
                )
    again = overwriting.repeated([*written, *([table_path] if table_path else [])])
    if again:
        raise ValueError(
            f"two outputs would have the same name: {', '.join(again[:5])}; use a separate "
            "--output for each of these scans"
        )


def _settings(model: Model) -> PredictionSettings:
    from experiments.models import scan_prediction

    view = model.training_data.get("view_mm")
    settings = scan_prediction.PredictionSettings.of_plan(
        model.plan,
        largest_component=FLAGS.largest_component,
        gate=_gate(model),
        expected_view_mm=None
        if FLAGS.accept_small_view or view is None
        else tuple(low for low, _ in view),
    )
    changes = {
        name: getattr(FLAGS, name)
        for name in ("overlap", "blending")
        if getattr(FLAGS, name) is not None
    }
    if FLAGS.window:
        changes["size"] = experiment_flags.numbers("window", int, 3)
    if set(FLAGS.flips) - set("xyz"):
        raise app.UsageError(f"--flips is {','.join(FLAGS.flips)!r}; expected axes of x,y,z")
    return _replaced(settings, **changes)


def _gate(model: Model) -> HealthyGate | None:
    """Returns the gate to apply, if any; raises UsageError if the model folder lacks one."""
    from c2fnas.scores import healthy_gate

    if FLAGS.gate is False or (FLAGS.gate is None and not model.gate):
        return None
    if not model.gate:
        raise app.UsageError(
            f"--gate: {FLAGS.model} holds no healthy gate; use a model that table1 or "
            "experiments.package wrote from rows of a site without tumours, or omit --gate"
        )
    try:
        gate = healthy_gate.HealthyGate.from_json(model.gate)
    except ValueError as error:
        raise ValueError(f"{FLAGS.model}: {error}, or use --nogate") from error
    changed = [
        name
        for name in ("flips", "window", "overlap", "blending")
        if FLAGS[name].value not in (None, [])  # an overlap of 0 is a change, too
    ]
    if changed:
        logging.warning(
            "the healthy gate was fitted without --%s, so its score and its rate of false "
            "alarms may differ",
            ", --".join(changed),
        )
    return gate


def _replaced(settings: PredictionSettings, **window: Any) -> PredictionSettings:
    return dataclasses.replace(settings, window=dataclasses.replace(settings.window, **window))


def _one_file() -> bool:
    return FLAGS.output.lower().endswith((".nii", ".nii.gz"))


def _jobs() -> list[tuple[pathlib.Path, pathlib.Path]]:
    """Returns (scan, mask) for each scan that the flags name."""
    from preprocessing import scan_folder

    output = experiment_flags.required("output", "the mask, or the folder of masks, to write")
    named = [
        *(pathlib.Path(path) for path in FLAGS.image),
        *(_listed(pathlib.Path(FLAGS.list)) if FLAGS.list else []),
    ]
    # An earlier run may have put its folder of masks among the scans.
    scans = [scan for path in named for scan in scan_folder.scans_in(path, leave_out=FLAGS.output)]
    if not scans:
        raise app.UsageError("--image or --list must name at least one scan")
    if not any(os.path.lexists(scan) for scan in scans):
        lost = printable.some([str(scan) for scan in scans], 3)
        raise ValueError(f"{lost}: no such file or folder; correct --image or --list")
    if _one_file():
        if len(scans) > 1:
            raise ValueError(
                f"--output is a single file, {output}, but there are {len(scans)} scans; give a "
                "folder"
            )
        return [(scans[0], pathlib.Path(output))]
    if output.lower().endswith(_OTHER_FORMATS) and not os.path.isdir(output):
        raise ValueError(
            f"--output is {output}, but masks are NIfTI: give a name that ends with .nii.gz, or a "
            "folder"
        )
    names: dict[str, list[str]] = {}
    for scan in scans:
        names.setdefault(stem(scan), []).append(str(scan))
    twice = [" and ".join(same) for same in names.values() if len(same) > 1]
    for same in names.values():
        if len({os.path.realpath(path) for path in same}) < len(same):
            raise ValueError(f"{same[0]}: is named more than once; name each scan once")
    if twice:
        raise ValueError(
            f"scans of the same name: {'; '.join(twice[:5])}; their masks would overwrite each "
            "other, so use a separate --output for each"
        )
    return [(scan, pathlib.Path(output) / f"{stem(scan)}.nii.gz") for scan in scans]


def _listed(file: pathlib.Path) -> list[pathlib.Path]:
    """Returns the paths in a list file; names that are not UTF-8 must appear byte for byte."""
    from runkit import text_files

    found = []
    for number, line in enumerate(
        text_files.read(file, errors="surrogateescape").split("\n"), start=1
    ):
        if not line.strip() or line.startswith("#"):
            continue
        path = file.parent / line.strip()
        if not path.exists() and any("\udc80" <= character <= "\udcff" for character in line):
            raise ValueError(
                f"{file}: line {number} is not UTF-8, perhaps Latin-1, and names no existing file; "
                "save the list as UTF-8"
            )
        found.append(path)
    return found


if __name__ == "__main__":
    program.run(main, required=["model", "image", "output"])
