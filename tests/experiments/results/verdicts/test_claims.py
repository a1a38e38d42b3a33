"""The claims as data: their names, their texts, and the paper's own differences by hand."""

from experiments.results.measures import MEASURES
from experiments.results.verdicts import claims

BY_KEY = {claim.key: claim for claim in claims.HYPOTHESES}


def test_every_claim_has_its_own_key_and_compares_what_is_measured():
    assert len(BY_KEY) == len(claims.HYPOTHESES) == 21
    for claim in claims.HYPOTHESES:
        assert claim.claim.endswith(".") and claim.parts
        for part in claim.parts:
            assert part.measure in MEASURES and part.first
            assert bool(part.second) == (part.rule not in claims.SHARE_RULES)


def test_the_papers_differences_are_those_of_its_table():
    assert [part.paper for part in BY_KEY["c2_local_keeps_c2"].parts] == [0.8, -1.9]
    # FL_global 59.8, the baselines 30.1 and 59.8
    (part,) = BY_KEY["global_above_baselines"].parts
    assert part.paper == 14.85
    # 81.5 on C1 and 42.4 on C2; 65.4 on C2 and 64.7 on C1
    assert [part.paper for part in BY_KEY["baselines_drop"].parts] == [-39.1, -0.7]
    assert BY_KEY["vae_helps"].parts[0].paper is None


def test_a_part_in_words():
    (part,) = BY_KEY["close_to_pooled"].parts
    assert part.text == "Average, FL_global minus pooled: bound, margin 3"
    (part,) = BY_KEY["global_above_baselines"].parts
    assert part.text == (
        "Average, FL_global minus the mean of C1_baseline and C2_baseline: greater"
    )
    part = BY_KEY["baselines_drop"].parts[0]
    assert part.text.endswith("C1_baseline minus C1_baseline (C2's cases minus C1's): less")
    part = BY_KEY["false_tumour_gone"].parts[1]
    assert part.text == "FL_global: cases with false tumour in C1's healthy cases, limit 5%"
