"""Short soak tests: forged requests in honest rounds, random input to decoders, broken links."""

from federated.tensors.weights import CHUNK_BYTES
from tests.soak import forged, fuzz_decoder, rounds, slow_link


def test_no_forged_request_is_accepted_and_honest_rounds_come_out_right():
    result = forged.run(200, threads=2, rounds=5)
    assert "accepted" not in result["outcomes"] and result["honest_rounds_right"]
    assert set(result["outcomes"]) <= {
        "unauthenticated",
        "permission_denied",
        "unimplemented",
        "resource_exhausted",
    }
    before, after = result["memory_mib"]
    assert after < before + 32


def test_decoders_read_or_refuse_any_input():
    assert fuzz_decoder.fuzz(4000) <= fuzz_decoder.BUDGET


def test_rounds_over_links_that_are_cut_end_with_the_weights_worked_out_by_hand():
    *samples, last = rounds.run(6, samples=2)
    assert last["round"] == 6 and samples


def test_a_slow_link_that_is_cut_three_times_is_no_failure():
    result = slow_link.run(4.0, 4.0, fetch_every_s=0.2)
    assert result["cuts"] == 3 and result["seconds"] > 2.0
    lost = 4 * CHUNK_BYTES / result["model_bytes"]  # of a cut, see test_resuming
    assert result["down / model"] < 1 + lost and result["up / model"] < 1 + 2 * lost
