"""The words of a federation's reports, and the values that their numbers can have.

The site's filter and the server's pass nothing else (federated.security.report_filter).
"""

from __future__ import annotations

from federated.security.vocabulary import Range, Vocabulary
from runkit.classes import FOREGROUND

_SHARE: Range = (0.0, 1.0)

REPORTS = Vocabulary(
    classes=tuple(FOREGROUND.values()),
    # the last one: a validation case on the training grid
    grids=("training", "native", "validation"),
    words={
        # measures
        "dice": _SHARE,
        "hd95": (0.0, 1e5),  # mm: no scan is a hundred metres long
        "nsd": _SHARE,
        "surface": None,
        "volume": (-1e6, 1e6),  # ml; an error has a sign
        "voxels": (0.0, 1e12),
        "components": (0.0, 1e9),
        "ratio": None,
        "sensitivity": _SHARE,
        "precision": _SHARE,
        "score": (0.0, 1e3),  # of a patient: log-odds, which the site clips to this range
        "seconds": (0.0, 1e9),
        # qualifiers
        "truth": (0.0, 1e6),
        "found": (0.0, 1e6),  # components of the truth
        "false": (0.0, 1e9),  # components of the prediction
        **dict.fromkeys(("reference", "predicted", "difference", "error"), None),
        **dict.fromkeys(("absolute", "relative", "ml", "mm", "percent", "foreground"), None),
    },
    counts=frozenset({"found", "false"}),
    parts={"found": "truth_components", "false_components": "components"},
    # Those of the first release. A class that nobody has drawn has no score and no truth.
    required={
        f"{measure}_{name}": may_be_empty
        for name in FOREGROUND.values()
        for measure, may_be_empty in (("dice", True), ("volume_ml", False), ("truth_ml", True))
    },
)
