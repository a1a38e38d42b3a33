"""The claims about a search are complete and can be judged."""

from experiments.results.verdicts import search_claims


def test_every_claim_names_a_rule_and_what_it_compares():
    for claim in search_claims.SEARCH_CLAIMS:
        assert claim.rule in search_claims.COMPARED + search_claims.CORRELATED
        if claim.rule in search_claims.COMPARED:
            assert {claim.first, claim.second} <= search_claims.NETWORKS.keys()
            assert claim.first != claim.second and claim.measure in search_claims.SEARCH_MEASURES
        else:
            assert -1 < claim.limit < 1 and not claim.first


def test_keys_are_unique_and_every_network_is_compared():
    keys = [claim.key for claim in search_claims.SEARCH_CLAIMS]
    assert len(set(keys)) == len(keys)
    compared = {
        name for claim in search_claims.SEARCH_CLAIMS for name in (claim.first, claim.second)
    }
    assert compared - {""} == search_claims.NETWORKS.keys()


def test_the_rules_that_a_reader_sees_are_those_in_use():
    text = " ".join(search_claims.__doc__.split())
    assert all(rule in text for rule in search_claims.COMPARED + search_claims.CORRELATED)
    assert (search_claims.LEAST_SEEDS, search_claims.LEAST_PATHS) == (3, 8)
    assert "fewer than three seeds" in text and "fewer than eight paths" in text
