"""The hospitals: the differences that mislead a network of the other, and their patients."""

import dataclasses

import numpy as np
import pytest

from preprocessing.phantom.hospital import HARD_SITES, PHANTOMS, SITES, Patient, draw_patient
from runkit.randomness import generator


def test_other_organs_are_as_bright_as_the_other_hospitals_pancreas_and_tumour():
    c1, c2 = (
        {tissue: mean for tissue, (mean, _) in SITES[site].hu.items()} for site in ("C1", "C2")
    )
    assert c1["pancreas"] - c2["pancreas"] >= 15
    assert min(abs(c2[organ] - c1["pancreas"]) for organ in ("liver", "bowel_wall")) < 10
    assert abs(c1["liver"] - c2["pancreas"]) < 12
    tumour = c2["pancreas"] - c2["tumour_below_pancreas"]
    # A network that knows C2's tumours can mistake C1's water in stomach and bowel for one.
    assert abs(c1["bowel_content"] - tumour) < 20
    assert tumour - c2["bile"] > 25  # a tumour is brighter than fluid
    assert c2["muscle"] - tumour > 15  # and darker than any soft tissue


def test_the_hard_phantom_has_equal_bowel_contents_and_more_noise():
    one, two = HARD_SITES["C1"], HARD_SITES["C2"]
    for tissue in (
        "bowel_wall",
        "bowel_content",
        "stomach_wall",
        "stomach_content",
        "oral_contrast",
    ):
        assert one.hu[tissue] == two.hu[tissue]
    for name in ("stomach_gas", "oral_contrast", "duodenum_filled"):
        assert getattr(one, name) == getattr(two, name)
    # unlike in the standard phantom
    assert SITES["C2"].hu["bowel_content"][0] - SITES["C1"].hu["bowel_content"][0] > 100
    for site in ("C1", "C2"):
        assert min(HARD_SITES[site].noise_hu) > min(SITES[site].noise_hu)
        assert HARD_SITES[site].hu["pancreas"] == SITES[site].hu["pancreas"]


@pytest.mark.parametrize("kind", PHANTOMS)
@pytest.mark.parametrize("name", ["C1", "C2"])
def test_patients_lie_within_what_their_hospital_states(kind, name):
    site = PHANTOMS[kind][name]
    patients = [draw_patient(site, generator(7, kind, name, n)) for n in range(200)]
    for tissue, (mean, deviation) in site.hu.items():
        drawn = np.array([patient.hu[tissue] for patient in patients])
        assert np.abs(drawn - mean).max() <= 2 * deviation + 1e-9
        # a normal variable clipped at two standard deviations has 0.959 of its deviation
        assert np.std(drawn) == pytest.approx(0.959 * deviation, rel=0.2)
    for field in dataclasses.fields(Patient):
        stated = getattr(site, field.name, None)
        drawn = [getattr(patient, field.name) for patient in patients]
        if isinstance(stated, tuple):
            low, high = stated
            assert low <= min(drawn) and max(drawn) <= high
            assert np.ptp(drawn) >= 0.9 * (high - low)
        elif isinstance(stated, float):  # a share of the patients
            assert np.mean(drawn) == pytest.approx(stated, abs=0.11)
