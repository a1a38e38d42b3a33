"""Lists the scans and labels of a site in a manifest, the input of most other programs.

    python -m experiments.list_cases --layout=nifti --site=C1 --images=ct --labels=masks \\
        --output=C1/manifest.json

Layouts:
    nifti        two folders with files of the same names
    dicom        for each case a folder or zip of DICOM files, and a NIfTI label of the same name
    pancreas_ct  NIH Pancreas-CT as downloaded; the orientation of each label is found by comparing
                 it with its scan

A dataset.json of the Medical Segmentation Decathlon or of nnU-Net needs no manifest: `prepare`
reads it directly.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from absl import app, flags

from experiments import flags as experiment_flags
from experiments import program
from preprocessing import layouts
from runkit import atomic, overwriting, printable

if TYPE_CHECKING:
    from preprocessing.case_list import Case

FLAGS = flags.FLAGS
flags.DEFINE_enum("layout", "nifti", list(layouts.MODULES), "How the folders are laid out.")
flags.DEFINE_string("site", None, "Name of the site, e.g. C1.")
flags.DEFINE_string("images", None, "Folder of the scans.")
flags.DEFINE_string("labels", None, "Folder of the labels.")
flags.DEFINE_string("output", None, "Manifest to write (.json).")
flags.DEFINE_list(
    "declare",
    [],
    "What your labels show of each class, e.g. pancreas:complete,tumour:absent. 'complete': drawn "
    "in every patient who has it; 'absent': no patient has it; 'unlabelled': patients may have it, "
    "but it is not drawn. Training uses this, see docs/missing-labels.md. Default with "
    "--layout=pancreas_ct: the example, since its patients are healthy.",
)
flags.DEFINE_integer(
    "workers", 1, "Labels to compare with their scans at the same time, for --layout=pancreas_ct."
)


def main(argv: list[str]) -> int:
    del argv
    from federated.wire.site_names import check_site_name
    from preprocessing import declared_labels, names
    from preprocessing import manifest as manifests
    from preprocessing.case_list import CaseManifest

    site = experiment_flags.required("site", "the name of the site")
    check_site_name(site)
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
    same = [case for case in cases if case.label is not None and _is_same(case)]
    if same:
        raise ValueError(
            f"{same[0].image}: is both the scan and the label of its case (cases like this: "
            f"{len(same)}); give different folders as --images and --labels"
        )
    if layout.examine is not None:
        cases, excluded = _examined(layout.examine(cases, FLAGS.workers), cases)
    else:
        if orphans:
            print(
                f"labels without a scan of the same name: {len(orphans)}, "
                f"e.g. {printable.text(orphans[0])}"
            )
        # A layout may take the id from the scan's own name or from a folder's.
        places = {case.case_id: pathlib.Path(os.path.relpath(case.image, images)) for case in cases}
        renamed = [
            name
            for name, place in places.items()
            if name not in place.parts
            and name not in [names.stem(part).removesuffix("_0000") for part in place.parts]
        ]
        if renamed:
            old, new = printable.text(places[renamed[0]]), renamed[0]
            print(
                f"names that cannot be case ids and were changed: {len(renamed)}, "
                f"e.g. {old} to {new}"
            )
    listed = CaseManifest(
        site, tuple(cases), f"layout {FLAGS.layout}", excluded=tuple(excluded), declared=declared
    )
    _keep_edits(output, manifests.as_json(output, listed))
    manifests.write(output, listed)
    without = sum(case.label is None for case in cases)
    print(f"{len(cases)} cases, {without} without label, {len(excluded)} excluded: {output}")
    remedy = "" if declared else "; declare with --declare what they show of each class"
    print(f"labels: {declared_labels.text(declared)}{remedy}")
    return 0


def _keep_edits(output: pathlib.Path, listed: Mapping[str, Any]) -> None:
    """Keeps a copy of an earlier manifest that differs, because people edit manifests."""
    if output.is_file():
        try:
            same = atomic.read_json(output) == listed
        except ValueError:
            same = False
        if not same:
            copy = overwriting.keep_copy(output)
            print(f"{output} was there and differs; it is kept as {copy}")


def _is_same(case: Case) -> bool:
    return case.image.resolve() == case.required_label.resolve()


def _declared(layout: layouts.Layout) -> Mapping[str, str] | None:
    from preprocessing import declared_labels

    if not FLAGS.declare:
        return layout.declared
    try:
        return declared_labels.check(dict(entry.split(":", 1) for entry in FLAGS.declare))
    except ValueError as error:
        raise app.UsageError(
            f"--declare is {','.join(FLAGS.declare)!r}; expected "
            f"e.g. pancreas:complete,tumour:absent ({error})"
        ) from error


def _examined(
    examined: Iterable[layouts.Examined], found: list[Case]
) -> tuple[list[Case], list[str]]:
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
    program.run(main, required=["site", "images", "labels", "output"])
