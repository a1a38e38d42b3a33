"""Reads the corpus of malformed and of odd but valid inputs with the product, nnU-Net and MONAI.

    .venv/py3.11/bin/python -m tests.benchmarks.malformed --peers_python=.venv/peers/bin/python

The corpus is `tests/preprocessing/corpus.py`. For nnU-Net, `verify_dataset_integrity` runs over a
dataset with the one case; inputs that it warns about but lets pass count as passed, with a mark. It
does not read DICOM. For MONAI, `load_decathlon_datalist` reads a decathlon file; then come
`LoadImaged` (PydicomReader for a folder), `EnsureChannelFirstd`, `Orientationd` and `Spacingd` to
1 mm. Neither reads the product's manifest: those kinds have "-". A refusal "names the file" if its
message, or the output before it, contains the path of the faulty file.

Results of one run with the corpus at that time (nnU-Net 2.8.1, MONAI 1.6.1): of the malformed
inputs that each can read, the product refused 107 of 107, nnU-Net 21 of 63, MONAI 20 of 91. Of the
valid inputs they accepted 88 of 88, 74 of 75 and 81 of 83. The refusals named the file 107, 21 and
11 times. NaN and truncated files pass nnU-Net because SimpleITK turns both into zeros.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import pathlib
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--peers_python",
        help="Python of the peers' environment; without it only the product is measured",
    )
    parser.add_argument("--role", help="reader that this process runs: product, nnunet or monai")
    parser.add_argument("--corpus", help="folder of the corpus, for --role")
    flags = parser.parse_args()
    if flags.role:
        _read_corpus(
            pathlib.Path(flags.corpus),
            {"product": _product, "nnunet": _nnunet, "monai": _monai}[flags.role],
        )
        return
    readers = {"product": sys.executable} | (
        {"nnunet": flags.peers_python, "monai": flags.peers_python} if flags.peers_python else {}
    )
    with tempfile.TemporaryDirectory() as folder:
        corpus = pathlib.Path(folder) / "corpus"
        subprocess.run(
            [sys.executable, "-m", "tests.preprocessing.corpus", str(corpus)], check=True
        )
        outcomes = {}
        for role, python in readers.items():
            done = subprocess.run(
                [
                    python,
                    "-m",
                    "tests.benchmarks.malformed",
                    f"--role={role}",
                    f"--corpus={corpus}",
                ],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise RuntimeError(f"{role} failed: {done.stderr[-2000:]}")
            outcomes[role] = json.loads(done.stdout.splitlines()[-1])
        print(table(json.loads((corpus / "corpus.json").read_text()), outcomes))


def table(index: list[dict[str, Any]], outcomes: dict[str, list[dict[str, Any]]]) -> str:
    """Returns Markdown tables: what each reader did with each kind, and the sums."""
    lines = []
    for title, wanted in (("malformed", "refused"), ("valid", "passed")):
        kinds = [
            (i, kind)
            for i, kind in enumerate(index)
            if (kind["rule"] is not None) == (title == "malformed")
        ]
        lines += [
            f"\n| {title} | rule | {' | '.join(outcomes)} |",
            "|---|---|" + "---|" * len(outcomes),
        ]
        for i, kind in kinds:
            cells = [_cell(found[i], wanted) for found in outcomes.values()]
            lines.append(
                f"| {kind['name']} ({kind['group']}) | {kind['rule'] or ''} | {' | '.join(cells)} |"
            )
        lines.append(
            f"| **{wanted}, of those it can read** | | "
            + " | ".join(_sum(found, kinds, wanted) for found in outcomes.values())
            + " |"
        )
        if title == "malformed":
            named = [
                sum(found[i]["outcome"] == wanted and found[i]["names_file"] for i, _ in kinds)
                for found in outcomes.values()
            ]
            lines.append(
                "| **refused and the file named** | | "
                + " | ".join(f"**{n}**" for n in named)
                + " |"
            )
    return "\n".join(lines)


def _cell(found: dict[str, Any], wanted: str) -> str:
    if found["outcome"] == "unread":
        return "-"
    text = found["outcome"] + (
        " (warns)" if found.get("warned") and found["outcome"] == "passed" else ""
    )
    return text if found["outcome"] == wanted else f"**{text}**"


def _sum(found: list[dict[str, Any]], kinds: list[tuple[int, Any]], wanted: str) -> str:
    read = [found[i] for i, _ in kinds if found[i]["outcome"] != "unread"]
    return f"**{sum(f['outcome'] == wanted for f in read)} of {len(read)}**"


def _read_corpus(folder: pathlib.Path, read: Callable[[pathlib.Path], None]) -> None:
    """Prints as JSON what a reader does with each kind of input.

    An exception means that it refuses the input, NotImplementedError that it does not read this
    kind."""
    found = []
    for kind in json.loads((folder / "corpus.json").read_text()):
        manifest, said = folder / kind["manifest"], io.StringIO()
        outcome = "passed"
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            try:
                read(manifest)
            except NotImplementedError as error:
                outcome = "unread" if str(error) == "unread" else "refused"
                said.write(traceback.format_exc())
            except BaseException:  # any error stops the case
                outcome = "refused"
                said.write(traceback.format_exc())  # including the causes
        text = said.getvalue()
        names = (
            any(str(path) in text or path.name in text for path in manifest.parent.rglob("*"))
            or str(manifest.parent) in text
        )
        found.append({"outcome": outcome, "names_file": names, "warned": "warning" in text.lower()})
    print(json.dumps(found))


def _product(manifest: pathlib.Path) -> None:
    from preprocessing import manifest as manifests
    from preprocessing.checks import survey

    for finding in survey.survey(manifests.read(manifest)):
        for error in finding.errors:
            raise error


def _cases(manifest: pathlib.Path) -> list[dict[str, Any]]:
    """Returns image and label of the listed cases with their full paths.

    Excluded cases are left out, because users of other software would not have listed them.
    """
    value = json.loads(manifest.read_text())
    if "training" in value:
        return [
            {key: str(manifest.parent / entry[key]) for key in ("image", "label")}
            for entry in value["training"]
        ]
    if value.get("label_values") or any(
        set(case) - {"case_id", "image", "label"} for case in value["cases"]
    ):
        raise NotImplementedError("unread")
    found = [case for case in value["cases"] if case["label"] is not None]
    if not found:
        raise NotImplementedError("unread")
    excluded = value.get("excluded", ())
    return [
        {key: str(manifest.parent / case[key]) for key in ("image", "label")}
        for case in found
        if case["case_id"] not in excluded
    ]


def _only_scans(manifest: pathlib.Path) -> list[dict[str, Any]]:
    index = json.loads((manifest.parents[1] / "corpus.json").read_text())
    kind = next(kind for kind in index if manifest == manifest.parents[1] / kind["manifest"])
    if kind["group"] == "manifest":
        raise NotImplementedError("unread")
    return _cases(manifest)


def _nnunet(manifest: pathlib.Path) -> None:
    import multiprocessing
    import multiprocessing.pool
    import types

    cases = _only_scans(manifest)
    if any(not case["image"].endswith((".nii.gz", ".nii", ".hdr")) for case in cases):
        raise NotImplementedError("unread")
    from nnunetv2.experiment_planning import verify_dataset_integrity as nnunet

    # In threads, because a process per kind of the corpus would load torch each time.
    nnunet.multiprocessing = types.SimpleNamespace(
        get_context=lambda method: types.SimpleNamespace(Pool=multiprocessing.pool.ThreadPool)
    )
    folder = manifest.parent / "nnunet"
    folder.mkdir()
    dataset = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "pancreas": 1, "tumour": 2},
        "numTraining": len(cases),
        "file_ending": ".nii.gz"
        if cases[0]["image"].endswith(".nii.gz")
        else pathlib.Path(cases[0]["image"]).suffix,
        "dataset": {
            str(i): {"images": [case["image"]], "label": case["label"]}
            for i, case in enumerate(cases)
        },
    }
    (folder / "dataset.json").write_text(json.dumps(dataset))
    nnunet.verify_dataset_integrity(str(folder), num_processes=1)


def _monai(manifest: pathlib.Path) -> None:
    from monai import data, transforms

    value = manifest.read_text()
    if '"training"' in value:
        cases = data.load_decathlon_datalist(
            str(manifest), is_segmentation=True, data_list_key="training"
        )
    else:
        cases = _only_scans(manifest)
    keys = ["image", "label"]
    for case in cases:
        dicom = not str(case["image"]).endswith((".nii.gz", ".nii", ".hdr"))
        image_reader = "PydicomReader" if dicom else "NibabelReader"
        chain = transforms.Compose(
            [
                transforms.LoadImaged("image", reader=image_reader),
                transforms.LoadImaged("label", reader="NibabelReader"),
                transforms.EnsureChannelFirstd(keys),
                transforms.Orientationd(keys, axcodes="RAS"),
                transforms.Spacingd(keys, pixdim=(3.0, 3.0, 3.0), mode=("bilinear", "nearest")),
            ]
        )
        chain(case)


if __name__ == "__main__":
    main()
