"""Measures what a site's scores reveal to a server that chooses the models.

    .venv/py3.11/bin/python -m tests.benchmarks.evaluation_oracle \\
        --output=docs/results/evaluation_oracle.json

A model whose last layer ignores the scan and always answers "pancreas" has, on a volume of N
voxels, the Dice 2 V / (V + N), which reveals the organ's volume V to the voxel. A model that marks
a region of P voxels has the Dice 2 k / (P + V), which reveals how many voxels k of the organ lie in
it. By halving regions repeatedly, the server can draw the organ. The drawings here use rows, which
state the volume. Whether a network can be made to mark a given region is not examined; the figures
show what the server learns by this strategy if it can. Others may draw more.
"""

from __future__ import annotations

import argparse
import heapq
import math
import statistics
from collections.abc import Callable

import numpy as np

MODELS = (1, 16, 64, 256, 1024)
DIGITS = (0, 3, 2)  # 0: as they are

Region = tuple[slice, slice, slice]
Ask = Callable[[Region], float]  # a region to mark -> its Dice


def volume_of(dice: float, voxels: int) -> float:
    """Returns the organ's voxels, from the Dice of a mask of all voxels."""
    return dice * voxels / (2.0 - dice)


def overlap_of(dice: float, marked: int, volume: float) -> float:
    """Returns the organ's voxels in a marked region."""
    return dice * (marked + volume) / 2.0


def counts_of(truth: np.ndarray) -> np.ndarray:
    """Returns, for each corner, the number of the organ's voxels before it along all axes.

    The result is int32, with one more voxel along each axis than the organ, bool [x, y, z].
    """
    sums = np.zeros(tuple(n + 1 for n in truth.shape), np.int32)
    sums[1:, 1:, 1:] = truth
    for axis in range(3):
        np.cumsum(sums, axis=axis, out=sums)
    return sums


def asker(sums: np.ndarray, digits: int = 0) -> Ask:
    """Returns a site that answers with the Dice of a region, given the result of `counts_of`."""
    from federated.site.answers import rounded

    volume = int(sums[-1, -1, -1])

    def ask(region: Region) -> float:
        (a, b), (c, d), (e, f) = ((s.start, s.stop) for s in region)
        inside = int(
            sums[b, d, f] - sums[a, d, f] - sums[b, c, f] - sums[b, d, e]
            + sums[a, c, f] + sums[a, d, e] + sums[b, c, e] - sums[a, c, e]
        )  # fmt: skip
        dice = 2.0 * inside / (size_of(region) + volume)
        return float(rounded({"dice": dice}, digits)["dice"])

    return ask


def size_of(region: Region) -> int:
    return math.prod(s.stop - s.start for s in region)


def halves(region: Region) -> tuple[Region, Region]:
    """Returns the two halves of a region along its longest axis."""
    axis = max(range(3), key=lambda i: region[i].stop - region[i].start)
    middle = (region[axis].start + region[axis].stop) // 2
    parts = (slice(region[axis].start, middle), slice(middle, region[axis].stop))
    one, other = (
        tuple(part if i == axis else own for i, own in enumerate(region)) for part in parts
    )
    return one, other  # type: ignore[return-value]


def draw(
    ask: Ask, shape: tuple[int, int, int], models: int, volume: float | None = None
) -> tuple[np.ndarray, float]:
    """Returns the organ as drawn from the Dice of `models` models, and its volume in voxels.

    Each model marks half of the region about which most is unknown; the other half follows by
    subtraction. The server needs the answer to one model before it makes the next.

    Args:
      volume: the organ's voxels, if the server knows them; else the first model marks everything.
    """
    every: Region = (slice(0, shape[0]), slice(0, shape[1]), slice(0, shape[2]))
    if volume is None:
        volume, models = volume_of(ask(every), size_of(every)), models - 1
    queue: list[tuple[float, int, Region, float]] = []
    counted = 0

    def push(region: Region, count: float) -> None:
        nonlocal counted
        counted += 1
        unknown = min(count, size_of(region) - count) if size_of(region) > 1 else 0.0
        heapq.heappush(queue, (-unknown, counted, region, count))

    push(every, volume)
    for _ in range(models):
        unknown, _, region, count = heapq.heappop(queue)
        if unknown >= 0:
            heapq.heappush(queue, (0.0, counted + 1, region, count))
            break  # everything is known
        one, other = halves(region)
        inside = overlap_of(ask(one), size_of(one), volume)
        inside = min(max(inside, count - size_of(other), 0.0), count, float(size_of(one)))
        push(one, inside)
        push(other, count - inside)
    drawn = np.zeros(shape, bool)
    for _, _, region, count in queue:
        drawn[region] = 2 * count > size_of(region)
    return drawn, volume


def dice(one: np.ndarray, other: np.ndarray) -> float:
    total = int(one.sum()) + int(other.sum())
    return 2.0 * int((one & other).sum()) / total if total else 1.0


def stated(volume: float, voxel_ml: float, digits: int) -> float:
    """Returns the organ's voxels by the millilitres in a row."""
    from federated.site.answers import rounded

    return float(rounded({"truth_ml": volume * voxel_ml}, digits)["truth_ml"]) / voxel_ml


def measure(truths: list[np.ndarray], voxel_mls: list[float]) -> dict[str, object]:
    """Returns means over cases: error of the volume by one Dice, and Dice of the drawn organ."""
    found, sums = [], [counts_of(truth) for truth in truths]
    for digits in DIGITS:
        errors, drawn = [], {models: list[float]() for models in MODELS}
        for truth, own, voxel_ml in zip(truths, sums, voxel_mls, strict=True):
            ask, true = asker(own, digits), float(truth.sum())
            known = stated(true, voxel_ml, digits)
            for models in MODELS:
                picture, _ = draw(ask, truth.shape, models, known)
                drawn[models].append(dice(picture, truth))
            errors.append(abs(draw(ask, truth.shape, 1)[1] - true) / true)
        found.append(
            {
                "report_digits": digits,
                "volume_error_percent": 100 * statistics.fmean(errors),
                "dice_of_drawn_organ": {
                    str(models): statistics.fmean(values) for models, values in drawn.items()
                },
            }
        )
    return {"cases": len(truths), "found": found}


def main() -> None:
    from preprocessing.phantom import phantom
    from preprocessing.phantom.config import CohortConfig
    from runkit import atomic

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=5, help="of each synthetic hospital")
    parser.add_argument("--output", required=True, help="JSON file to write")
    flags = parser.parse_args()
    truths, voxel_mls = [], []
    for site in ("C1", "C2"):
        config = CohortConfig(site=site, cases=flags.cases, seed=1)
        for index in range(flags.cases):
            _, label = phantom.render_case(config, index)
            truths.append(np.asarray(label.array) > 0)
            voxel_mls.append(math.prod(label.spacing_mm) / 1000.0)
    content = {"phantom": "standard", "seed": 1, **measure(truths, voxel_mls)}
    atomic.write_json(flags.output, content)
    print(content)


if __name__ == "__main__":
    main()
