"""Segments scans: NIfTI or DICOM in, masks on the scans' own grids out, with their volumes.

    python -m experiments.predict --model=models/FL_global --image=scan.nii.gz --output=mask.nii.gz
    --overlay python -m experiments.predict --model=models/FL_global --image=scans --output=masks
    --largest_component --dicom_seg python -m experiments.predict --model=models/FL_global
    --list=scans.txt --output=masks

A scan that fails is named and stops no other; the exit code is 1 then. An output that would replace
a scan is refused. What else can be set is in --help.
"""

from __future__ import annotations

import os
import pathlib
import sys
import time

from absl import app, flags, logging

from experiments import flags as experiment_flags
from runkit import printable

FLAGS = flags.FLAGS
experiment_flags.define_runtime()
experiment_flags.define_orientation()
flags.DEFINE_integer("seed", 0, "Of Keras; a prediction draws nothing.")
flags.DEFINE_string("model", None, "Folder of the model: weights, genotype, plan, card.")
flags.DEFINE_multi_string(
    "image",
    [],
    "A CT: .nii, .nii.gz, the folder or zip of a DICOM series, a multi-frame DICOM file; or a folder of CTs and of such folders. "
    "May be given several times.",
)
flags.DEFINE_string(
    "series",
    None,
    "Of every DICOM scan, the series to segment: its SeriesInstanceUID or SeriesNumber, and behind a # the acquisition of a series that "
    'holds several, e.g. "2" or "1.2.840.113619.2.55#1".',
)
flags.DEFINE_string(
    "list", None, "Text file with one such path per line; relative ones start at the file's folder."
)
flags.DEFINE_string(
    "output",
    None,
    "Mask to write (.nii.gz) for one scan; for several, the folder of masks, which is not the scans'.",
)
flags.DEFINE_string(
    "volumes",
    None,
    "CSV of volumes, written as each scan ends. Default: volumes.csv in the folder of masks; for one scan none.",
)
flags.DEFINE_bool(
    "overlay", False, "Write a picture beside each mask (.png): axial and coronal slices with it."
)
flags.DEFINE_bool("probabilities", False, "Write the probability of each class beside each mask.")
flags.DEFINE_bool(
    "dicom_seg",
    False,
    "Write a DICOM segmentation object beside each mask of a DICOM series; needs the extra dicom_seg.",
)
flags.DEFINE_bool(
    "largest_component",
    False,
    "Keep only the largest connected part of pancreas and tumour together.",
)
flags.DEFINE_bool(
    "gate",
    None,
    "Take out a marked tumour that the network is no surer of than of the false alarms in healthy patients; the note and the table say where. "
    "Default: where the model's folder holds a gate. --nogate never does.",
)
flags.DEFINE_list(
    "flips",
    [],
    "Average over mirrored views along these axes of x,y,z; each doubles the time. Only for models trained on such.",
)
flags.DEFINE_list("window", [], "Sliding window in voxels x,y,z, in place of the plan's.")
flags.DEFINE_float("overlap", None, "Overlap of neighbouring windows, in place of the plan's.")
flags.DEFINE_enum(
    "blending",
    None,
    ["constant", "gaussian"],
    "Weights of a window's voxels, in place of the plan's.",
)
flags.DEFINE_bool(
    "accept_small_view", False, "Segment scans that cover much less than the training scans did."
)
flags.DEFINE_bool(
    "skip_existing",
    False,
    "Leave out scans for which every output asked for is there, and keep the rows of the table: goes on after an interruption.",
)


def main(argv: list[str]) -> int:
    del argv
    import tensorflow as tf

    from c2fnas import inference, model_folder
    from experiments.models import scan_prediction
    from experiments.reports import prediction_table
    from preprocessing import dicom
    from preprocessing.checks import rules
    from runkit import progress

    model_path = experiment_flags.required("model", "the folder of the model")
    orientation = experiment_flags.orientation()
    jobs = _jobs()
    table_path = FLAGS.volumes or (
        None if _one_file() else str(pathlib.Path(FLAGS.output) / "volumes.csv")
    )
    _require_apart(jobs, model_path, table_path)
    if FLAGS.series is not None and not any(dicom.is_series(image) for image, _ in jobs):
        raise app.UsageError(
            "--series chooses a series of a DICOM scan, and no scan given is DICOM"
        )
    table = prediction_table.Table(table_path, keep=FLAGS.skip_existing)
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
            f"{listed - len(jobs)} of {listed} scans have all their outputs already",
            file=sys.stderr,
        )
    strategy = tf.distribute.MirroredStrategy()
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
        except Exception as error:  # whatever one scan does, the others are segmented
            told = type(error) is ValueError and any(
                str(path) in str(error) for path in (image, mask)
            )
            problem = str(error if told else rules.refusal(error, image))
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
            unwritten = error  # the next scan tries again, with this row
    if unwritten is not None:
        print(f"error: {printable.block(unwritten)}", file=sys.stderr)
    if failed:
        print(f"{failed} of {len(jobs)} scans failed", file=sys.stderr)
    if incomplete:
        print(
            f"{incomplete} of {len(jobs)} scans have their mask, but lack an output that was asked for",
            file=sys.stderr,
        )
    return 1 if failed or incomplete or unwritten else 0


def _overlay(mask: pathlib.Path) -> pathlib.Path | None:
    from experiments.models.scan_prediction import stem

    return mask.with_name(stem(mask) + ".png") if FLAGS.overlay else None


def _dicom_seg(image: pathlib.Path, mask: pathlib.Path) -> pathlib.Path | None:
    from experiments.models.scan_prediction import stem
    from preprocessing import dicom

    return (
        mask.with_name(stem(mask) + ".dcm") if FLAGS.dicom_seg and dicom.is_series(image) else None
    )


def _outputs(image: pathlib.Path, mask: pathlib.Path) -> list[pathlib.Path]:
    """Returns every file that is asked for of a scan, the mask first."""
    from experiments.models import scan_prediction

    extras = [
        _overlay(mask),
        *(scan_prediction.probability_files(mask) if FLAGS.probabilities else []),
        _dicom_seg(image, mask),
    ]
    return [mask, *(path for path in extras if path is not None)]


def _is_complete(image: pathlib.Path, mask: pathlib.Path, table) -> bool:
    """Returns whether every output of a scan is there. A row that the table lacks is made from the
    mask.
    """
    from experiments.models import scan_prediction
    from experiments.reports import prediction_table

    missing = [path for path in _outputs(image, mask) if not path.exists()]
    empty_has_none = missing == [
        _dicom_seg(image, mask)
    ]  # a mask of nothing has no segmentation object
    if missing and not empty_has_none:
        return False
    if empty_has_none or not table.has_mask(mask):
        try:
            found = scan_prediction.describe(mask, orientation=FLAGS.orientation)
        except ValueError:
            return False
        if empty_has_none and any(found.components.values()):
            return False
        if not table.has_mask(mask):
            table.add(prediction_table.row(image, mask, found))
    return True


def _require_apart(jobs, model_path: str, table_path: str | None) -> None:
    """Raises ValueError where an output would replace a scan, the model or the list, lie among the
    scans, or replace another output.
    """
    from runkit import overwriting

    inputs = {
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
                    f"--output: {FLAGS.output} is the folder of the scans ({folder}), which masks must not lie among; name another"
                )
    again = overwriting.repeated([*written, *([table_path] if table_path else [])])
    if again:
        raise ValueError(
            f"two outputs would have one name: {', '.join(again[:5])}; predict these scans into folders apart"
        )


def _settings(model):
    from experiments.models import scan_prediction

    view = model.training_data.get("view_mm")
    settings = scan_prediction.Settings.of_plan(
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


def _gate(model):
    """Returns the gate to apply. Raises UsageError where one is asked for that the folder does not
    hold.
    """
    from c2fnas.scores import healthy_gate

    if FLAGS.gate is False or (FLAGS.gate is None and not model.gate):
        return None
    if not model.gate:
        raise app.UsageError(
            f"--gate: {FLAGS.model} holds no healthy gate; take a model that table1 or experiments.package wrote from rows of a site without tumours, "
            "or leave --gate out"
        )
    try:
        gate = healthy_gate.HealthyGate.from_json(model.gate)
    except ValueError as error:
        raise ValueError(f"{FLAGS.model}: {error}, or give --nogate") from error
    changed = [name for name in ("flips", "window", "overlap", "blending") if FLAGS[name].value]
    if changed:
        logging.warning(
            "the healthy gate was fitted without --%s, which change the score; its promise may not hold",
            ", --".join(changed),
        )
    return gate


def _replaced(settings, **window):
    import dataclasses

    return dataclasses.replace(settings, window=dataclasses.replace(settings.window, **window))


def _one_file() -> bool:
    return FLAGS.output.lower().endswith((".nii", ".nii.gz"))


def _jobs() -> list[tuple[pathlib.Path, pathlib.Path]]:
    """Returns (scan, mask) of every scan that the flags name."""
    from experiments.models import scan_prediction
    from preprocessing import scan_folder

    output = experiment_flags.required("output", "the mask, or the folder of masks, to write")
    named = [
        *(pathlib.Path(path) for path in FLAGS.image),
        *(_listed(pathlib.Path(FLAGS.list)) if FLAGS.list else []),
    ]
    # an earlier run may have put its folder of masks among the scans
    scans = [scan for path in named for scan in scan_folder.scans_in(path, leave_out=FLAGS.output)]
    if not scans:
        raise app.UsageError("--image or --list must name at least one scan")
    if _one_file():
        if len(scans) > 1:
            raise ValueError(
                f"--output is one file, {output}, for {len(scans)} scans; give a folder"
            )
        return [(scans[0], pathlib.Path(output))]
    names: dict[str, list[str]] = {}
    for scan in scans:
        names.setdefault(scan_prediction.stem(scan), []).append(str(scan))
    twice = [" and ".join(same) for same in names.values() if len(same) > 1]
    if twice:
        raise ValueError(
            f"scans have one name: {'; '.join(twice[:5])}; their masks would overwrite each other: predict them into folders apart"
        )
    return [(scan, pathlib.Path(output) / f"{scan_prediction.stem(scan)}.nii.gz") for scan in scans]


def _listed(file: pathlib.Path) -> list[pathlib.Path]:
    """Returns the paths of a list. Names that are not UTF-8 are found if the list holds their very
    bytes.
    """
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
                f"{file}: line {number} is not UTF-8, perhaps Latin-1, and no file of this name is there; save the list as UTF-8"
            )
        found.append(path)
    return found


if __name__ == "__main__":
    experiment_flags.run(main, required=["model", "image", "output"], needs_tensorflow=True)
