"""The synthetic hospitals as data: their patients, preparation, contrast phase and scanner.

C1 scans healthy people early in the portal-venous phase, after they have drunk effervescent powder
and water. The pancreas is brighter than the liver; the bowel is poorly enhanced and full of fluid;
a large stomach with gas and fluid presses on the pancreas; slices are thin.

C2 scans older patients with pancreatic cancer later, after dilute oral contrast. The pancreas is
thinner and lobulated and has washed out below the liver; the bowel is bright; the stomach is
collapsed; slices are thick.

Liver and bowel of one hospital are therefore about as bright as the pancreas of the other, and C1's
fluid is about as dark as C2's tumours. A network trained at one hospital finds the intensities it
has learned in the wrong organs of the other.

This describes the standard phantom. In the hard phantom, the same hospitals have small and faint
tumours and more noise, and the contents of stomach and bowel do not reveal the hospital.
docs/data.md describes the measurements, and what each phantom can and cannot show.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from preprocessing.phantom.tumour import Tumours

Range = tuple[float, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Site:
    """A hospital. Ranges are uniform; `hu` has mean and standard deviation over its patients."""

    name: str
    hu: dict[str, tuple[float, float]]
    width_mm: Range  # half axes of the trunk
    depth_mm: Range
    skin_fat_mm: Range
    stomach_size: Range  # 1 is a well-filled stomach
    stomach_gas: Range  # share of the lumen's depth filled with gas
    duodenum_filled: bool  # wide and smooth, if patients drink water before the scan
    oral_contrast: float  # share of patients who drank oral contrast
    pancreas_ml: Range  # before a tumour replaces part of it
    lobulation_mm: Range
    fatty_share: Range  # fat between the pancreatic lobules
    gallbladder: float  # share of patients who still have a gallbladder
    tail_rise_mm: Range  # height of the tail above the neck
    calcified: float  # share of patients with a calcified aorta
    tumour: bool  # whether its patients have a tumour
    # None: tumours are 37 mm in diameter and darker by `hu["tumour_below_pancreas"]`
    tumours: Tumours | None = None
    noise_hu: Range  # in a 1 mm slice, 50 mm below the skin; 15 % more at the centre of the body
    noise_passes: int  # the reconstruction kernel: how often white noise is smoothed in plane
    kernel_mm: float  # standard deviation of the in-plane blur


SITES = {
    "C1": Site(
        name="C1",
        hu={
            "skin": (30, 6), "fat": (-102, 4), "muscle": (60, 3), "marrow": (190, 25),
            "cortical": (520, 60), "disc": (75, 6),
            "aorta": (158, 10), "portal": (172, 9), "cava": (142, 9), "liver": (94, 4),
            "spleen": (146, 5), "cortex": (180, 12), "medulla": (132, 12),
            "pancreas": (124, 4), "bowel_wall": (74, 4), "bowel_content": (28, 7),
            "stomach_wall": (76, 4), "stomach_content": (22, 7),
            "bile": (8, 4), "oral_contrast": (60, 10), "tumour_below_pancreas": (0, 0),
            "node": (72, 6),
        },
        width_mm=(146, 164), depth_mm=(102, 118), skin_fat_mm=(9, 22), stomach_size=(0.85, 1.12),
        stomach_gas=(0.4, 0.85), duodenum_filled=True,
        oral_contrast=0.0, pancreas_ml=(86, 120), lobulation_mm=(1.0, 1.8), fatty_share=(0.0, 0.06),
        gallbladder=0.95, tail_rise_mm=(26, 46), calcified=0.05,
        tumour=False, noise_hu=(10, 13), noise_passes=1, kernel_mm=0.0,
    ),
    "C2": Site(
        name="C2",
        hu={
            "skin": (30, 6), "fat": (-108, 4), "muscle": (66, 3), "marrow": (150, 25),
            "cortical": (470, 60), "disc": (70, 6),
            "aorta": (168, 10), "portal": (176, 9), "cava": (164, 9), "liver": (130, 5),
            "spleen": (138, 6), "cortex": (168, 10), "medulla": (172, 10),
            "pancreas": (104, 4), "bowel_wall": (138, 6), "bowel_content": (150, 10),
            "stomach_wall": (136, 6), "stomach_content": (146, 10),
            "bile": (3, 3), "oral_contrast": (230, 50), "tumour_below_pancreas": (62, 4),
            "node": (72, 6),
        },
        width_mm=(154, 171), depth_mm=(112, 128), skin_fat_mm=(14, 32), stomach_size=(0.38, 0.6),
        stomach_gas=(0.0, 0.35), duodenum_filled=False,
        oral_contrast=0.4, pancreas_ml=(90, 118), lobulation_mm=(1.1, 1.8),
        fatty_share=(0.02, 0.10), gallbladder=0.65, tail_rise_mm=(10, 36), calcified=0.6,
        tumour=True, noise_hu=(13, 17), noise_passes=3, kernel_mm=0.7,
    ),
}  # fmt: skip

# Stomach and bowel in the hard phantom, at both hospitals: fluid, oral contrast in a fifth of the
# patients, and walls of the same brightness.
_SAME_CONTENTS = {
    "bowel_wall": (95, 8), "bowel_content": (25, 10), "stomach_wall": (95, 8),
    "stomach_content": (25, 10), "oral_contrast": (230, 50),
}  # fmt: skip


def _harder(site: Site, noise_hu: Range) -> Site:
    """Returns a hospital of the hard phantom.

    The two still differ in the size of the stomach, the contrast phase and the scanner.
    """
    return dataclasses.replace(
        site,
        hu={**site.hu, **_SAME_CONTENTS},
        stomach_gas=(0.0, 0.7),
        duodenum_filled=False,
        oral_contrast=0.2,
        tumours=Tumours(),
        noise_hu=noise_hu,
    )


# The noise is chosen so that both have the standard deviation of a real scan after preparation at
# 3 mm (tests/benchmarks/phantoms.py measures it).
HARD_SITES = {"C1": _harder(SITES["C1"], (12.5, 16.2)), "C2": _harder(SITES["C2"], (20.8, 27.0))}
PHANTOMS = {"standard": SITES, "hard": HARD_SITES}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Patient:
    """One random patient: the HU of each tissue, and the sizes that shape the anatomy."""

    site: Site
    hu: dict[str, float]
    width_mm: float
    depth_mm: float
    skin_fat_mm: float
    stomach_size: float
    stomach_gas: float
    oral_contrast: bool
    pancreas_ml: float
    lobulation_mm: float
    fatty_share: float
    gallbladder: bool
    tail_rise_mm: float
    calcified: bool


def draw_patient(site: Site, rng: np.random.Generator) -> Patient:
    """Returns a random patient of a hospital; HU stay within two standard deviations."""
    return Patient(
        site=site,
        hu={
            tissue: float(np.clip(rng.normal(mean, sd), mean - 2 * sd, mean + 2 * sd))
            for tissue, (mean, sd) in site.hu.items()
        },
        width_mm=rng.uniform(*site.width_mm),
        depth_mm=rng.uniform(*site.depth_mm),
        skin_fat_mm=rng.uniform(*site.skin_fat_mm),
        stomach_size=rng.uniform(*site.stomach_size),
        stomach_gas=rng.uniform(*site.stomach_gas),
        oral_contrast=bool(rng.random() < site.oral_contrast),
        pancreas_ml=rng.uniform(*site.pancreas_ml),
        lobulation_mm=rng.uniform(*site.lobulation_mm),
        fatty_share=rng.uniform(*site.fatty_share),
        gallbladder=bool(rng.random() < site.gallbladder),
        tail_rise_mm=rng.uniform(*site.tail_rise_mm),
        calcified=bool(rng.random() < site.calcified),
    )
