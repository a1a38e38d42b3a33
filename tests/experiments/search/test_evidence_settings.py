import pytest

from experiments.results.verdicts import search_claims
from experiments.search.evidence_settings import EvidenceSettings


def test_the_defaults_are_enough_for_every_claim():
    chosen = EvidenceSettings()
    assert min(chosen.compared_seeds, chosen.rank_seeds) >= search_claims.LEAST_SEEDS
    assert chosen.rank_paths >= search_claims.LEAST_PATHS


@pytest.mark.parametrize(
    ("name", "value"), [("alone_steps", 0), ("compared_seeds", 0), ("rank_paths", -1)]
)
def test_a_number_that_trains_nothing_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}; expected at least"):
        EvidenceSettings(**{name: value})
