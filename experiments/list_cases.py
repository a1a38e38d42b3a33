"""Writes the manifest of a folder of scans.

python -m experiments.list_cases --layout=nifti --site=C1 --images=ct --labels=masks
--output=C1/manifest.json

Layouts: `nifti`, files of the same name in two folders; `dicom`, one folder or zip of DICOM files
per case and NIfTI labels of its name; `pancreas_ct`, NIH Pancreas-CT as it is downloaded, where the
turn of every label is found from the voxels and written into the manifest. A dataset.json of the
Medical Segmentation Decathlon or of nnU-Net needs none of this: `prepare` reads it as it is.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from absl import app, flags

from experiments import flags as experiment_flags
from preprocessing import layouts
from runkit import overwriting, printable

if TYPE_CHECKING:
    from preprocessing import manifest as manifests

FLAGS = flags.FLAGS
flags.DEFINE_enum("layout", "nifti", list(layouts.MODULES), "How the folders are laid out.")
flags.DEFINE_string("site", None, "Name of the site, e.g. C1.")
flags.DEFINE_string("images", None, "Folder of the scans.")
flags.DEFINE_string("labels", None, "Folder of the labels.")
flags.DEFINE_string("output", None, "Manifest to write.")
flags.DEFINE_list(
    "declare",
    [],
    "What your labels show of each class, e.g. pancreas:complete,tumour:absent. `complete`: drawn wherever it is; `absent`: no patient has "
    "it; `unlabelled`: patients may have it, nobody has drawn it. The training uses it, see docs/missing-labels.md. The layout pancreas_ct "
    "fills it in: its patients are healthy.",
)
flags.DEFINE_integer(
    "workers", 1, "Labels compared with their scans at the same time (pancreas_ct)."
)


def main(argv: list[str]) -> int:
    del argv
    from preprocessing import declared_labels, names
    from preprocessing import manifest as manifests

    site = experiment_flags.required("site", "the name of the site")
    images = pathlib.Path(experiment_flags.required("images", "the folder of the scans"))
    labels = pathlib.Path(experiment_flags.required("labels", "the folder of the labels"))
    output = pathlib.Path(experiment_flags.required("output", "the manifest to write"))
    layout = layouts.load(FLAGS.layout)
    declared = _declared(layout)
    excluded: list[str] = []
    cases, orphans = layout.find(images, labels)
    drawn = [*(case.label for case in cases if case.label is not None), *names.nifti_files(labels)]
    overwriting.require_apart(
        {"--images": [case.image for case in cases], "--labels": drawn}, {"--output": [output]}
    )
    if layout.examine is not None:
        cases, excluded = _examined(layout.examine(cases, FLAGS.workers), cases)
    else:
        if orphans:
            print(
                f"{len(orphans)} labels have no scan of their name, e.g. {printable.text(orphans[0])}"
            )
        renamed = [
            case
            for case in cases
            if case.case_id not in (case.image.name, names.stem(case.image).removesuffix("_0000"))
        ]
        if renamed:
            print(
                f"{len(renamed)} names are no case ids and were changed, e.g. {printable.text(renamed[0].image.name)} to {renamed[0].case_id}"
            )
    manifests.write(
        output,
        manifests.CaseManifest(
            site,
            tuple(cases),
            f"layout {FLAGS.layout}",
            excluded=tuple(excluded),
            declared=declared,
        ),
    )
    without = sum(case.label is None for case in cases)
    print(f"{len(cases)} cases, {without} without label, {len(excluded)} excluded: {output}")
    print(
        f"labels: {declared_labels.text(declared)}{'' if declared else '; say with --declare what they show of each class'}"
    )
    return 0


def _declared(layout: layouts.Layout) -> Mapping[str, str] | None:
    from preprocessing import declared_labels

    if not FLAGS.declare:
        return layout.declared
    try:
        return declared_labels.check(dict(entry.split(":", 1) for entry in FLAGS.declare))
    except ValueError as error:
        raise app.UsageError(
            f"--declare is {','.join(FLAGS.declare)!r}; expected e.g. pancreas:complete,tumour:absent ({error})"
        ) from error


def _examined(
    examined: Iterable[layouts.Examined], found: list[manifests.Case]
) -> tuple[list[manifests.Case], list[str]]:
    cases = {case.case_id: case for case in found}
    excluded = []
    for one in examined:
        case_id = one.case.case_id
        if one.error is not None:
            excluded.append(case_id)
            print(f"{case_id}: excluded: {printable.text(one.error, limit=1000)}")
        else:
            print(f"{case_id}: {one.remark}")
        cases[case_id] = one.case
    return list(cases.values()), excluded


if __name__ == "__main__":
    experiment_flags.run(main, required=["site", "images", "labels", "output"])
