"""The settings of a synthetic hospital's cohort."""

from __future__ import annotations

import dataclasses

from runkit import settings
from runkit.settings import at_least, setting

SLICE_MM = {"demo": (0.8, 1.0), "paper": (0.16, 1.0)}  # `spacings` -> range of C1's slices


@dataclasses.dataclass(frozen=True, kw_only=True)
class CohortConfig:
    """A hospital's cohort. A case does not depend on `cases`, so a cohort can be enlarged later.

    The two kinds of phantom have different patients; see `preprocessing.phantom.hospital`.

    Attributes:
      in_plane_mm, slice_mm: uniform ranges that replace the hospital's own spacings.
      field_of_view_mm: extent of the scans along x, y and z.
    """

    site: str = setting(
        "C1",
        "Hospital to imitate: C1 has healthy patients with an inflated stomach and thin slices; C2 "
        "has a tumour in every case.",
        choices=("C1", "C2"),
    )
    phantom: str = setting(
        "standard",
        "Kind of patients. 'hard' has smaller and fainter tumours (from 2 ml; 15 HU below the "
        "organ or, in one of nine, as dense as it), the noise of a real scan, and the same "
        "contents of stomach and bowel at both hospitals; see docs/data.md.",
        choices=("standard", "hard"),
    )
    cases: int = setting(10, "Number of cases.", condition=at_least(1))
    seed: int = setting(1, "Random seed; the same seed gives the same files.")
    spacings: str = setting(
        "demo",
        "Voxel spacings to draw from. 'paper' uses the paper's full ranges, with slices down to "
        "0.16 mm and thus large files.",
        choices=tuple(SLICE_MM),
    )
    in_plane_mm: tuple[float, float] | None = None
    slice_mm: tuple[float, float] | None = None
    field_of_view_mm: tuple[float, float, float] = (356.0, 284.0, 165.0)

    def __post_init__(self) -> None:
        settings.check(self)
        for name in ("in_plane_mm", "slice_mm"):
            value = getattr(self, name)
            if value is not None and not (len(value) == 2 and 0 < value[0] <= value[1]):
                raise ValueError(f"{name} is {value!r}; expected (lowest, highest) in mm, above 0")
        if len(self.field_of_view_mm) != 3 or min(self.field_of_view_mm) < 100:
            raise ValueError(
                f"field_of_view_mm is {self.field_of_view_mm!r}; "
                "expected three lengths of at least 100 mm"
            )
