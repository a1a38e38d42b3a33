"""For any fault in a header, the series is read, or refused by a rule that names a file.

`tests/soak/dicom_headers.py` is the long run.
"""

import os
import warnings

import pytest

from tests.preprocessing import dicom_mutations
from tests.soak import dicom_headers

SERIES = int(os.environ.get("DICOM_SERIES", "96"))
PARTS = 8


@pytest.mark.parametrize("part", range(PARTS))
def test_a_mutated_series_is_read_or_refused_by_a_rule(tmp_path, part):
    outcomes = []
    for seed in range(part, SERIES, PARTS):
        what = dicom_mutations.write(tmp_path / str(seed) / "series", seed)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # pydicom says what it thinks of each value
                outcomes.append(dicom_headers.read_or_refused(tmp_path / str(seed)))
        except Exception as error:
            pytest.fail(f"seed {seed}, {what}: {type(error).__name__}: {error}")
    assert len(set(outcomes)) >= 3, outcomes  # the sample holds good series and different faults


def test_a_seed_is_a_series(tmp_path):
    for name in ("a", "b"):
        dicom_mutations.write(tmp_path / name, 5)
    one, other = (
        {p.name: p.read_bytes() for p in (tmp_path / name).iterdir() if p.is_file()}
        for name in ("a", "b")
    )
    assert one == other
