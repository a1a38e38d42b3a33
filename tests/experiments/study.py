"""A study small enough for tests: two sites with tiny scans, a tiny network, the real programs."""

from __future__ import annotations

import json
import pathlib
import sys
from collections.abc import Container

import numpy as np

from experiments.run.processes import Program, ProgramGroup
from preprocessing import manifest, nifti
from preprocessing.case_list import Case, CaseManifest
from preprocessing.case_store import CaseStore
from preprocessing.preparation import pipeline
from preprocessing.volume import Volume
from runkit import atomic
from runkit.randomness import generator
from tests import forked

GENOTYPE = {
    "name": "tiny",
    "filters": 4,
    "classes": 3,
    "cells": [
        {"inputs": [0], "level": 2, "op": "conv3d"},
        {"inputs": [1, 0], "level": 1, "op": "p3d"},
        {"inputs": [2], "level": 1, "op": "conv2d"},
    ],
}
SHALLOW = {
    **GENOTYPE,
    "cells": [
        {"inputs": [0], "level": 1, "op": "conv2d"},
        {"inputs": [1], "level": 1, "op": "conv2d"},
    ],
}  # the least there is
FLAGS = {
    "profile": "tiny", "seed": 5, "filters": 4, "latent_size": 4, "spacing_mm": "3,3,3", "patch_size": "16,16,8", "patches_per_case": 1,
    "batch_size": 2, "learning_rate": 0.01, "final_learning_rate": 0.001, "num_rounds": 2, "local_epochs": 2, "inference_window": "16,16,8",
    "classifier_bias": "log_prior",
}  # fmt: skip
CASES = {"C1": 5, "C2": 6}  # 3/1/1 and 4/1/1: the sites weigh differently
SPLIT = {"C1": "3,1,1", "C2": "4,1,1"}


class Study:
    """Files of a study in one folder, and its programs."""

    def __init__(self, folder: pathlib.Path, *, genotype: dict = GENOTYPE):
        self.folder = folder
        atomic.write_json(folder / "genotype.json", genotype)
        self.flag_file = folder / "experiment.flags"
        lines = [
            f"--{name}={value}"
            for name, value in {**FLAGS, "genotype": folder / "genotype.json"}.items()
        ]
        atomic.write_text(self.flag_file, "\n".join(lines) + "\n")
        self.kits, self.initial = folder / "kits", folder / "initial.safetensors"

    def flags(self, **changes) -> list[str]:
        return [
            f"--flagfile={self.flag_file}",
            *(f"--{name}={value}" for name, value in changes.items()),
        ]

    def make_scans(self) -> None:
        for site, count in CASES.items():
            cases = []
            for number in range(count):
                image, label = (
                    self.folder / "scans" / site / f"{kind}{number}.nii.gz"
                    for kind in ("image", "label")
                )
                ct, mask = scan(site, number)
                nifti.write_volume(image, ct)
                nifti.write_volume(label, mask)
                cases.append(Case(f"{site}_{number}", image, label))
            manifest.write(
                self.folder / "scans" / site / "manifest.json",
                CaseManifest(site, tuple(cases)),
            )

    def group(self, *, fresh: Container[str] = ()) -> ProgramGroup:
        """Returns a group for programs of the study.

        Those named by `fresh` are started as a user does, the others are forked.
        """
        return forked.Group(self.folder / "logs", fresh=fresh)

    def prepare(self) -> None:
        """Makes scans, case stores, kits and the initial model, with programs run as by a user.

        C2 is prepared without worker processes, whose start would take most of the time.
        """
        self.make_scans()
        with self.group(fresh=("prepare C1", "kits", "init")) as group:
            programs = [
                group.start(
                    f"prepare {site}",
                    "experiments.prepare",
                    self.flags(
                        manifest=self.folder / "scans" / site / "manifest.json",
                        site_folder=self.site_folder(site),
                        split=split,
                        **({} if site == "C1" else {"workers": 1}),
                    ),
                )
                for site, split in SPLIT.items()
            ]
            programs.append(
                group.start("kits", "experiments.provision", [f"--output={self.kits}", "--port=0"])
            )
            group.wait(programs, "preparation")
            group.wait(
                [
                    group.start(
                        "init", "experiments.init_model", self.flags(output=self.initial, threads=1)
                    )
                ],
                "initial model",
            )

    def site_folder(self, site: str, run: str = "") -> pathlib.Path:
        return self.folder / "sites" / site / run if run else self.folder / "sites" / site

    def train_baselines(self) -> None:
        with self.group(fresh=("baseline C1",)) as group:
            arguments = [
                self.flags(
                    site_folder=self.site_folder(site), initial_model=self.initial, threads=1
                )
                for site in CASES
            ]
            programs = [
                group.start(f"baseline {site}", "experiments.train_local", a)
                for site, a in zip(CASES, arguments, strict=True)
            ]
            group.wait(programs, "baselines")

    def serve(self, group: ProgramGroup, store: pathlib.Path, **changes) -> tuple[Program, int]:
        """Starts the server and returns it with its port."""
        flags = self.flags(
            kit=self.kits / "server",
            store=store,
            **{"initial_model": self.initial, "port": 0, "host": "127.0.0.1", **changes},
        )
        server = group.start("server", "experiments.serve", flags)
        group.wait_for((store / "address.json").exists, server, "starting", timeout_s=120)
        return server, json.loads((store / "address.json").read_text())["port"]

    def join(
        self,
        group: ProgramGroup,
        site: str,
        port: int,
        *,
        python: str = sys.executable,
        lend: bool = True,
        module: str = "experiments.join",
        **changes,
    ) -> Program:
        flags = {
            "kit": self.kits / site,
            "server": f"localhost:{port}",
            "site_folder": self.site_folder(site),
            "threads": 1,
            **changes,
        }
        if lend:
            flags["lend"] = (
                f"{site}_baseline:{self.site_folder(site) / 'baseline' / 'best.safetensors'}"
            )
        return group.start(f"join {site}", module, self.flags(**flags), python=python)


def scan(site: str, number: int) -> tuple[Volume, Volume]:
    """Returns a CT and its label: fat with noise and a bright box (pancreas).

    At C2 there is a dark box (tumour) beside it.
    """
    rng = generator(18, site, number)
    shape, spacing = (26, 24, 14), (2.5, 2.5, 5.0)
    hu, label = rng.normal(-90.0, 20.0, shape), np.zeros(shape, np.uint8)
    hu[:2] = -1000.0
    corner = [int(rng.integers(4, n - 9)) for n in shape]
    box = tuple(slice(c, c + 5) for c in corner)
    hu[box], label[box] = hu[box] + 190.0, 1
    if site == "C2":
        dark = (slice(corner[0] + 5, corner[0] + 8), box[1], box[2])
        hu[dark], label[dark] = hu[dark] + 110.0, 2
    affine = np.diag([*spacing, 1.0])
    return Volume(np.round(hu).astype(np.int16), affine), Volume(label, affine)


def prepared_site(folder: pathlib.Path, store: pathlib.Path) -> tuple[list[Case], CaseStore]:
    """Writes four scans of C2 to `folder` and prepares them as `store`; returns both."""
    cases = []
    for number in range(4):
        image, label = (folder / f"{kind}{number}.nii" for kind in ("image", "label"))
        for path, volume in zip((image, label), scan("C2", number), strict=True):
            nifti.write_volume(path, volume)
        cases.append(Case(f"case{number}", image, label))
    prepared = pipeline.prepare(
        CaseManifest("C2", tuple(cases)),
        store,
        target_mm=(3.0, 3.0, 3.0),
        split_seed=1,
        split_counts=(2, 1, 1),
    )
    return cases, prepared
