"""The classes that labels, networks and tables distinguish.

This is the only place that lists them: other modules derive their names, values and numbers of
classes from it.
"""

from __future__ import annotations

from collections.abc import Mapping

CLASSES: Mapping[int, str] = {
    0: "background",
    1: "pancreas",
    2: "tumour",
}  # value of a voxel -> name
FOREGROUND: Mapping[int, str] = {value: name for value, name in CLASSES.items() if value > 0}
