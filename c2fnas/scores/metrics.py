"""The Dice of masks, in NumPy.

All measures treat absent classes alike. A class that neither the truth nor the prediction contains
has no score (None) and does not count in a mean. A class that only one of them contains gets the
worst possible score: 0 for Dice and surface Dice, the diagonal of the volume for a distance.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from runkit.classes import FOREGROUND

_BLOCK_VOXELS = 1 << 20


def dice(
    prediction: np.ndarray, truth: np.ndarray, classes: Sequence[int] = tuple(FOREGROUND)
) -> dict[int, float | None]:
    """Returns class -> 2 |P and T| / (|P| + |T|), or None for a class that neither mask contains.

    Args:
      prediction, truth: integer [x, y, z] on one grid; values 0 to max(classes).
      classes: values of the classes to score.
    Raises:
      ValueError: if the shapes differ or a value is not a class; the message contains both.
    """
    _check_shapes(prediction, truth)
    values = max(classes) + 1
    joint = _joint_counts(prediction, truth, values)
    predicted, true = joint.sum(axis=1), joint.sum(axis=0)
    scores: dict[int, float | None] = {}
    for value in classes:
        voxels = int(predicted[value] + true[value])
        scores[value] = 2.0 * int(joint[value, value]) / voxels if voxels else None
    return scores


def check_pair(prediction: np.ndarray, truth: np.ndarray, values: int) -> None:
    """Checks that two masks can be compared.

    Args:
      prediction, truth: [x, y, z].
      values: number of classes, including the background.
    Raises:
      ValueError: unless both are integer masks of one shape with values 0 to `values` - 1.
    """
    _check_shapes(prediction, truth)
    for mask, what in ((prediction, "prediction"), (truth, "truth")):
        _check_classes(mask, values, what)


def dice_summary(
    pairs: Iterable[tuple[np.ndarray, np.ndarray]], class_names: Mapping[int, str] = FOREGROUND
) -> dict[str, float]:
    """Returns the mean Dice of many cases over the classes that their labels contain.

    Args:
      pairs: (prediction, truth) of each case, integer [x, y, z].
      class_names: value of a class -> its name in the result.
    Returns:
      `dice_<name>` and `cases_<name>`, the number of its cases, for every class that at least one
      truth contains; `dice`, the mean of those class means; `cases`, the number of cases. A
      class that no truth contains has no entry, even if it is predicted: a site without tumours
      cannot tell how well tumours are found.
    Raises:
      ValueError: if there is no case, or if no truth contains any of the classes.
    """
    scores: dict[int, list[float]] = {value: [] for value in class_names}
    present: set[int] = set()
    cases = 0
    for prediction, truth in pairs:
        cases += 1
        for value, score in dice(prediction, truth, tuple(class_names)).items():
            if score is not None:
                scores[value].append(score)
        present.update(value for value in class_names if np.any(truth == value))
    if not present:
        raise ValueError(
            f"none of {cases} cases holds one of the classes {dict(class_names)}; "
            "give cases with labels"
        )
    result: dict[str, float] = {}
    for value, name in class_names.items():
        if value in present:
            result[f"dice_{name}"] = float(np.mean(scores[value]))
            result[f"cases_{name}"] = len(scores[value])
    result["dice"] = float(
        np.mean([result[f"dice_{class_names[value]}"] for value in sorted(present)])
    )
    result["cases"] = cases
    return result


def _joint_counts(prediction: np.ndarray, truth: np.ndarray, values: int) -> np.ndarray:
    """Returns int64 [values, values]: the number of voxels with prediction p and truth t."""
    counts = np.zeros(values * values, dtype=np.int64)
    # In blocks: bincount makes an int64 copy of its input, eight times the size of a mask.
    flat_prediction, flat_truth = np.ravel(prediction), np.ravel(truth)
    for start in range(0, flat_truth.size, _BLOCK_VOXELS):
        block = slice(start, start + _BLOCK_VOXELS)
        code = _classes(flat_prediction[block], values, "prediction") * values + _classes(
            flat_truth[block], values, "truth"
        )
        counts += np.bincount(code, minlength=values * values)
    return counts.reshape(values, values)


def _classes(block: np.ndarray, values: int, what: str) -> np.ndarray:
    _check_classes(block, values, what)
    return block.astype(np.intp)


def _check_shapes(prediction: np.ndarray, truth: np.ndarray) -> None:
    if prediction.shape != truth.shape:
        raise ValueError(
            f"prediction has {prediction.shape} voxels, truth {truth.shape}; "
            "bring both to the same grid"
        )


def _check_classes(block: np.ndarray, values: int, what: str) -> None:
    if not np.issubdtype(block.dtype, np.integer):
        raise ValueError(f"{what} is {block.dtype}; expected integer classes 0 to {values - 1}")
    if block.size and (block.min() < 0 or block.max() >= values):
        raise ValueError(
            f"{what} holds the values {block.min()} to {block.max()}; "
            f"expected classes 0 to {values - 1}"
        )
