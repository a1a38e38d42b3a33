"""Segments scans: NIfTI or DICOM in, masks on the scans' own grids out, with their volumes.

    python -m experiments.predict --model=models/FL_global --image=scan.nii.gz --output=mask.nii.gz --overlay
    python -m experiments.predict --model=models/FL_global --image=scans --output=masks --largest_component --dicom_seg
    python -m experiments.predict --model=models/FL_global --list=scans.txt --output=masks

A scan that fails is named and stops no other; the exit code is 1 then. What else can be set is in --help.
"""

from __future__ import annotations

import csv
import io
import pathlib
import sys
import time
from collections import Counter

from absl import app, flags, logging

from experiments import flags as experiment_flags

FLAGS = flags.FLAGS
experiment_flags.define_runtime()
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
flags.DEFINE_string("list", None, "Text file with one such path a line; relative ones start at the file's folder.")
flags.DEFINE_string("output", None, "Mask to write (.nii.gz) for one scan; for several, the folder of masks.")
flags.DEFINE_string("volumes", None, "CSV of volumes. Default: volumes.csv in the folder of masks; for one scan none.")
flags.DEFINE_bool("overlay", False, "Write a picture beside each mask (.png): axial and coronal slices with it.")
flags.DEFINE_bool("probabilities", False, "Write the probability of each class beside each mask.")
flags.DEFINE_bool("dicom_seg", False, "Write a DICOM segmentation object beside each mask of a DICOM series; needs the extra dicom_seg.")
flags.DEFINE_bool("largest_component", False, "Keep only the largest connected part of pancreas and tumour together.")
flags.DEFINE_list(
    "flips", [], "Average over mirrored views along these axes of x,y,z; each doubles the time. Only for models trained on such."
)
flags.DEFINE_list("window", [], "Sliding window in voxels x,y,z, in place of the plan's.")
flags.DEFINE_float("overlap", None, "Overlap of neighbouring windows, in place of the plan's.")
flags.DEFINE_enum("blending", None, ["constant", "gaussian"], "Weights of a window's voxels, in place of the plan's.")
flags.DEFINE_bool("accept_small_view", False, "Segment scans that cover much less than the training scans did.")
flags.DEFINE_bool("skip_existing", False, "Leave out scans whose mask is there: goes on after an interruption.")


def main(argv: list[str]) -> int:
    del argv
    import tensorflow as tf

    from c2fnas import inference, model_folder
    from experiments import scan_prediction
    from preprocessing import dicom
    from runkit import atomic, progress

    model = model_folder.load(experiment_flags.required("model", "the folder of the model"))
    settings = _settings(model)
    model.genotype.check_size(settings.window.size)
    jobs = _jobs()
    if FLAGS.series is not None and not any(dicom.is_series(image) for image, _ in jobs):
        raise app.UsageError("--series chooses a series of a DICOM scan, and no scan given is DICOM")
    if FLAGS.dicom_seg:
        from preprocessing import dicom_segmentation

        dicom_segmentation.require_writer()
    if FLAGS.skip_existing:
        jobs = [(image, mask) for image, mask in jobs if not mask.exists()]
    strategy = tf.distribute.MirroredStrategy()
    with strategy.scope():
        network = model_folder.build_segmenter(model)
    logits_fn = inference.logits_fn(network, strategy)
    if FLAGS.flips:
        logits_fn = inference.with_flips(logits_fn, ["xyz".index(axis) for axis in FLAGS.flips])
    settings = _replaced(settings, batch=inference.parallel_windows(strategy), multiple=model.genotype.size_multiple)
    rows, failed = [], []
    for image, mask in progress.bar(jobs, what="scans", unit="scan"):
        begin = time.monotonic()
        try:
            found = scan_prediction.predict_scan(
                image,
                mask,
                logits_fn,
                settings,
                overlay=mask.with_name(scan_prediction.stem(mask) + ".png") if FLAGS.overlay else None,
                probabilities=FLAGS.probabilities,
                dicom_seg=mask.with_name(scan_prediction.stem(mask) + ".dcm") if FLAGS.dicom_seg and dicom.is_series(image) else None,
                model_name=model.name,
                series=FLAGS.series,
            )
        except (ValueError, OSError, MemoryError) as error:
            failed.append(str(error) or f"{image}: does not fit into memory")
            print(f"error: {failed[-1]}", file=sys.stderr)
            rows.append({"scan": str(image), "mask": "", "note": f"failed: {failed[-1]}"})
            continue
        seconds = time.monotonic() - begin
        print(f"{mask}: " + ", ".join(f"{name} {volume:.1f} ml" for name, volume in found.volumes_ml.items()) + f" ({seconds:.0f} s)")
        for note in found.notes:
            logging.warning("%s: %s", image, note)
        rows.append(
            {"scan": str(image), "mask": str(mask)}
            | {f"{name}_ml": round(volume, 3) for name, volume in found.volumes_ml.items()}
            | {f"{name}_components": count for name, count in found.components.items()}
            | {"seconds": round(seconds, 1), "note": "; ".join(found.notes)}
        )
    table = FLAGS.volumes or (None if _one_file() else str(pathlib.Path(FLAGS.output) / "volumes.csv"))
    if table and rows:
        atomic.write_text(table, _csv(rows))
    if failed:
        print(f"{len(failed)} of {len(jobs)} scans failed", file=sys.stderr)
    return 1 if failed else 0


def _settings(model):
    from experiments import scan_prediction

    view = model.training_data.get("view_mm")
    settings = scan_prediction.Settings.of_plan(
        model.plan,
        largest_component=FLAGS.largest_component,
        expected_view_mm=None if FLAGS.accept_small_view or view is None else tuple(low for low, _ in view),
    )
    changes = {name: getattr(FLAGS, name) for name in ("overlap", "blending") if getattr(FLAGS, name) is not None}
    if FLAGS.window:
        changes["size"] = experiment_flags.numbers("window", int, 3)
    if set(FLAGS.flips) - set("xyz"):
        raise app.UsageError(f"--flips is {','.join(FLAGS.flips)!r}; expected axes of x,y,z")
    return _replaced(settings, **changes)


def _replaced(settings, **window):
    import dataclasses

    return dataclasses.replace(settings, window=dataclasses.replace(settings.window, **window))


def _one_file() -> bool:
    return FLAGS.output.endswith((".nii", ".nii.gz"))


def _jobs() -> list[tuple[pathlib.Path, pathlib.Path]]:
    """Returns (scan, mask) of every scan that the flags name."""
    from experiments import scan_prediction

    output = experiment_flags.required("output", "the mask, or the folder of masks, to write")
    named = [pathlib.Path(path) for path in FLAGS.image]
    if FLAGS.list:
        folder = pathlib.Path(FLAGS.list).parent
        lines = pathlib.Path(FLAGS.list).read_text(encoding="utf-8").splitlines()
        named += [folder / line.strip() for line in lines if line.strip() and not line.startswith("#")]
    scans = [scan for path in named for scan in _scans(path)]
    if not scans:
        raise app.UsageError("--image or --list must name at least one scan")
    if _one_file():
        if len(scans) > 1:
            raise ValueError(f"--output is one file, {output}, for {len(scans)} scans; give a folder")
        return [(scans[0], pathlib.Path(output))]
    names = Counter(scan_prediction.stem(scan) for scan in scans)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise ValueError(
            f"several scans are named {', '.join(twice[:5])}; their masks would overwrite each other: predict them into folders apart"
        )
    return [(scan, pathlib.Path(output) / f"{scan_prediction.stem(scan)}.nii.gz") for scan in scans]


def _scans(path: pathlib.Path) -> list[pathlib.Path]:
    """Returns the path itself for a file or a DICOM series, and what lies in it for a folder of scans: NIfTI files, zips, folders."""
    from preprocessing import dicom

    if not path.is_dir():
        return [path]
    inside = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    files = [entry for entry in inside if entry.is_file()]
    scans = [entry for entry in files if entry.name.endswith((".nii", ".nii.gz"))]
    if scans or not any(dicom.is_series(entry) and entry.suffix.lower() != ".zip" for entry in files):
        scans = sorted([*scans, *(entry for entry in files if entry.suffix.lower() == ".zip")])
    if scans or not files:
        return scans + [entry for entry in inside if entry.is_dir()]
    return [path]


def _csv(rows: list[dict]) -> str:
    columns = ["scan", "mask", "pancreas_ml", "tumour_ml", "pancreas_components", "tumour_components", "seconds", "note"]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


if __name__ == "__main__":
    experiment_flags.run(main, needs_tensorflow=True)
