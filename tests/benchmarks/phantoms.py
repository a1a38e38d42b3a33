"""Compares the synthetic cohorts with a real scan: noise and its texture, tumours, bowel contents.

    .venv/py3.11/bin/python -m tests.benchmarks.phantoms --ct=ct.nii.gz --organs=organs.nii.gz \\
        --pancreas=7 --stomach=6 --bowel=18

`--ct` is a real abdominal CT and may be left out. `--organs` is an organ map on its grid, and the
other three flags give the values of the organs in it. Everything is measured after preparation at
3 mm (linear interpolation, no window):

* noise: standard deviation in blocks of 5 x 5 x 5 voxels of soft tissue, without fat, gas and bone.
  Only the tenth of the blocks with the flattest surroundings counts, by the gradient of the scan
  smoothed by 6 mm, which noise hardly affects. Median, tenth and ninetieth percentile.
* texture: correlation of neighbours along x, y, z in these blocks after the mean of each block is
  subtracted. White noise has 0.
* tumours: volume, and the median HU of the organ minus that of the tumour, both one voxel away from
  their surfaces.
* contents: median HU of stomach and bowel without gas. In a phantom these are the voxels that
  become brighter when only the contents become 1000 HU brighter; in a real scan, those of the organ
  map one voxel away from its surface.

It takes about five minutes per phantom on two cores.
"""

from __future__ import annotations

import argparse
import dataclasses

import numpy as np
from scipy import ndimage

from preprocessing import geometry, nifti, resampling
from preprocessing.phantom import phantom
from preprocessing.phantom.config import CohortConfig
from preprocessing.phantom.hospital import PHANTOMS
from preprocessing.volume import Volume

_MM = (3.0, 3.0, 3.0)
_BLOCK = 5
_COARSE = {"in_plane_mm": (2.0, 2.0), "slice_mm": (3.0, 3.0)}  # where noise is not measured
_CONTENTS = {"stomach": ("stomach_content",), "bowel": ("bowel_content", "oral_contrast")}


def at_3_mm(volume: Volume, *, labels: bool = False) -> np.ndarray:
    upright = geometry.to_ras(volume)
    resample = resampling.resample_nearest if labels else resampling.resample_linear
    return resample(np.ascontiguousarray(upright.array), upright.spacing_mm, _MM)


def noise(ct: np.ndarray) -> dict[str, np.ndarray]:
    """Measures the noise of a CT at 3 mm.

    Returns:
      `deviation`, HU [blocks], and `correlation` [3] of neighbours along each axis.
    """
    ct = ct.astype(np.float64)
    lowest, highest = ndimage.minimum_filter(ct, _BLOCK), ndimage.maximum_filter(ct, _BLOCK)
    soft = (lowest > -60) & (highest < 300) & (ndimage.gaussian_filter(ct, 2.0) > 0)
    slope = ndimage.gaussian_gradient_magnitude(ct, 2.0)
    flat = soft & (slope <= np.quantile(slope[soft], 0.1))
    mean = ndimage.uniform_filter(ct, _BLOCK)
    variance = (ndimage.uniform_filter(ct**2, _BLOCK) - mean**2) * _BLOCK**3 / (_BLOCK**3 - 1)
    rest = ct - mean
    correlation = []
    for axis in range(3):
        first, second = (
            tuple(slice(*ends) if a == axis else slice(None) for a in range(3))
            for ends in ((None, -1), (1, None))
        )
        both = flat[first] & flat[second]
        pairs = rest[first][both], rest[second][both]
        correlation.append(
            np.mean(pairs[0] * pairs[1]) / np.sqrt(np.mean(pairs[0] ** 2) * np.mean(pairs[1] ** 2))
        )
    return {"deviation": np.sqrt(variance[flat].clip(0)), "correlation": np.array(correlation)}


def noise_text(found: list[dict[str, np.ndarray]]) -> str:
    deviation = np.concatenate([one["deviation"] for one in found])
    low, middle, high = np.percentile(deviation, (10, 50, 90))
    x, y, z = np.mean([one["correlation"] for one in found], axis=0)
    return (
        f"noise {middle:.1f} HU ({low:.1f} to {high:.1f}), "
        f"correlation of neighbours x {x:+.2f}, y {y:+.2f}, z {z:+.2f}"
    )


def contents(config: CohortConfig, index: int, organ: str) -> float:
    """Returns the median HU of an organ's contents in a phantom's patient, without gas."""
    ct, _ = phantom.render_case(config, index)
    hospitals = PHANTOMS[config.phantom]
    site = hospitals[config.site]
    bright = {
        **site.hu,
        **{
            tissue: (site.hu[tissue][0] + 1000.0, site.hu[tissue][1]) for tissue in _CONTENTS[organ]
        },
    }
    hospitals[config.site] = dataclasses.replace(site, hu=bright)
    try:
        changed, _ = phantom.render_case(config, index)
    finally:
        hospitals[config.site] = site
    return float(np.median(ct.array[changed.array - ct.array.astype(int) > 950]))


def measure_phantom(kind: str, seed: int, scans: int, patients: int) -> None:
    for site in ("C1", "C2"):
        native = CohortConfig(site=site, cases=scans, seed=seed, phantom=kind)
        found = [noise(at_3_mm(phantom.render_case(native, index)[0])) for index in range(scans)]
        print(f"{kind} {site}: {noise_text(found)} [{scans} scans]", flush=True)
        coarse = CohortConfig(site=site, cases=patients, seed=seed, phantom=kind, **_COARSE)
        for organ in _CONTENTS:
            values = [contents(coarse, index, organ) for index in range(patients // 4)]
            print(
                f"{kind} {site}: {organ} contents {np.mean(values):.0f} HU "
                f"({min(values):.0f} to {max(values):.0f}) [{len(values)} patients]",
                flush=True,
            )
    volumes, darker = [], []
    for index in range(patients):
        ct, labels = phantom.render_case(coarse, index)
        organ, tumour = (ndimage.binary_erosion(labels.array == value) for value in (1, 2))
        volumes.append(np.count_nonzero(labels.array == 2) * np.prod(labels.spacing_mm) / 1000.0)
        darker.append(np.median(ct.array[organ]) - np.median(ct.array[tumour]))
    volumes, darker = np.array(volumes), np.array(darker)
    print(
        f"{kind} C2: tumours {volumes.min():.1f} to {volumes.max():.1f} ml, "
        f"median {np.median(volumes):.1f}; "
        f"darker than the organ by {darker.min():.0f} "
        f"to {darker.max():.0f} HU, median {np.median(darker):.0f}; "
        f"{np.mean(darker < 10):.0%} by less than 10 HU [{patients} patients]",
        flush=True,
    )


def measure_real(options: argparse.Namespace) -> None:
    ct = at_3_mm(nifti.read_ct(options.ct))
    print(f"real: {noise_text([noise(ct)])}", flush=True)
    if not options.organs:
        return
    for organ in ("stomach", "bowel", "pancreas"):
        value = getattr(options, organ)
        if value is None:
            continue
        mask = at_3_mm(nifti.read_labels(options.organs, {value: 1}), labels=True) == 1
        inner = ct[ndimage.binary_erosion(mask)]
        kept = inner if organ == "pancreas" else inner[inner > -200]
        print(
            f"real: {organ} {np.count_nonzero(mask) * 0.027:.0f} ml, {np.median(kept):.0f} HU",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ct", help="a real abdominal CT")
    parser.add_argument("--organs", help="an organ map on its grid")
    for organ in ("pancreas", "stomach", "bowel"):
        parser.add_argument(f"--{organ}", type=int, help=f"value of the {organ} in the organ map")
    parser.add_argument("--phantom", choices=list(PHANTOMS), help="measure this one only")
    parser.add_argument("--seed", type=int, default=1, help="seed of the synthetic patients")
    parser.add_argument(
        "--scans", type=int, default=3, help="synthetic scans at their own spacing, per hospital"
    )
    parser.add_argument(
        "--patients", type=int, default=34, help="synthetic patients whose tumours are measured"
    )
    options = parser.parse_args()
    if options.ct:
        measure_real(options)
    for kind in [options.phantom] if options.phantom else PHANTOMS:
        measure_phantom(kind, options.seed, options.scans, options.patients)


if __name__ == "__main__":
    main()
