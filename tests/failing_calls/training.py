"""`train_local` whose system calls fail: a real training of a network of two cells."""

from __future__ import annotations

import json
import pathlib
import shutil
import struct

from experiments.models import model_folders, prepared_cases, site_trainer  # noqa: F401 - once
from tests import forked
from tests.experiments.study import SHALLOW, Study
from tests.failing_calls.commands import Command, files


def training(folder: pathlib.Path) -> Command:
    study = Study(folder / "study", genotype=SHALLOW)
    study.make_scans()
    site = study.folder / "prepared"
    for module, flags in (
        (
            "prepare",
            study.flags(
                manifest=study.folder / "scans" / "C1" / "manifest.json",
                site_folder=site,
                split="3,1,1",
            ),
        ),
        ("init_model", study.flags(output=study.initial, threads=1)),
    ):
        done = forked.run(f"experiments.{module}", *flags)
        if done.returncode:
            raise AssertionError(done.stderr[-2000:])
    output = folder / "site"
    return Command(
        "train",
        "experiments.train_local",
        study.folder,
        output,
        study.flags(site_folder=output, initial_model=study.initial, threads=1),
        kept=lambda made: {
            f"{name}/{file}": _content(content)
            for name in ("baseline/model", "baseline/checkpoint")
            for file, content in files(made / name).items()
            if file.endswith(".safetensors")
        },
        seconds=600.0,
        start=lambda: shutil.copytree(site, output),
    )


def _content(file: bytes) -> bytes:
    """Returns the values and facts of a safetensors file, whose writer puts facts in any order; the
    speed of the training is left out.
    """
    try:
        size = 8 + struct.unpack("<Q", file[:8])[0]
        header = json.loads(file[8:size])
    except (struct.error, ValueError):
        return file  # not whole
    facts = header.get("__metadata__", {})
    if "extra" in facts:
        extra = json.loads(facts["extra"])
        for name in ("patches_per_second", "data_wait_share"):
            extra.get("metrics", {}).pop(name, None)
        facts["extra"] = json.dumps(extra, sort_keys=True)
    return json.dumps(header, sort_keys=True).encode("utf-8") + file[size:]
