"""Settings of a synthetic cohort: what they offer is what the hospitals have; bad ones are named."""

import dataclasses

import pytest

from preprocessing.phantom.config import SLICE_MM, CohortConfig
from preprocessing.phantom.hospital import PHANTOMS
from runkit import settings


def test_the_choices_are_the_hospitals_and_phantoms_that_exist():
    offered = settings.declared(CohortConfig)
    assert offered["phantom"].choices == tuple(PHANTOMS)
    for hospitals in PHANTOMS.values():
        assert offered["site"].choices == tuple(hospitals)
    assert offered["spacings"].choices == tuple(SLICE_MM)


def test_only_what_a_user_chooses_is_a_flag():
    assert list(settings.declared(CohortConfig)) == ["site", "phantom", "cases", "seed", "spacings"]
    fields = {field.name for field in dataclasses.fields(CohortConfig)}
    assert fields - settings.declared(CohortConfig).keys() == {
        "in_plane_mm",
        "slice_mm",
        "field_of_view_mm",
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"site": "C3"}, "site is 'C3'; expected 'C1' or 'C2'"),
        ({"cases": 0}, "cases is 0; expected at least 1"),
        ({"phantom": "soft"}, "phantom is 'soft'; expected 'standard' or 'hard'"),
        ({"spacings": "fast"}, "spacings is 'fast'; expected 'demo' or 'paper'"),
        ({"slice_mm": (2.0, 1.0)}, r"slice_mm is \(2.0, 1.0\)"),
        ({"in_plane_mm": (0.0, 1.0)}, r"in_plane_mm is \(0.0, 1.0\)"),
        ({"field_of_view_mm": (50.0, 300.0, 165.0)}, "field_of_view_mm"),
    ],
)
def test_bad_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        CohortConfig(**changes)
