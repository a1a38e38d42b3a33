import dataclasses
import json

import pytest

from federated import errors
from federated.rounds.tasks import Task
from federated.tensors.weights import Declaration, TensorManifest, TensorSpec
from federated.wire import conversion
from federated.wire import weight_exchange_pb2 as pb
from federated.wire.messages import (
    Answer,
    Offer,
    Receipt,
    Session,
    SumKeys,
    SumPlace,
    SumPost,
    SumSettings,
    SumState,
)

MANIFEST = TensorManifest(
    Declaration([TensorSpec("a/b", "F32", (2, 3)), TensorSpec("c", "F16", ())]), b"\xab" * 32
)
OFFER = Offer(MANIFEST, 3, 30, "C1_baseline", {"loss": 0.1 + 0.2}, discarded=2)


def travel(message):
    """Returns the message as the other end reads it."""
    return type(message).FromString(message.SerializeToString())


def test_values_arrive_as_they_were_sent():
    for task in (Task("wait"), Task("train", 3, "round_002"), Task("evaluate", models=("a", "b"))):
        assert conversion.task_from_message(travel(conversion.task_to_message(task))) == task
    session = Session("token", 1e9 + 0.25, "run", "ff" * 32, 60, 10, 20.0, 15.0, "half", True)
    assert (
        conversion.session_from_message(travel(conversion.session_to_message(session))) == session
    )
    secure = dataclasses.replace(session, sums=SumSettings(3, 5, 0.1 + 0.2, 32))
    assert conversion.session_from_message(travel(conversion.session_to_message(secure))) == secure
    masked = Task("mask", 3, discarded=2, exchange=7)
    assert conversion.task_from_message(travel(conversion.task_to_message(masked))) == masked
    receipt = Receipt("C1", "round_003", "ab" * 32)
    assert (
        conversion.receipt_from_message(travel(conversion.receipt_to_message(receipt))) == receipt
    )
    for answer in (Answer(receipt), Answer(missing=(0, 1, 2, 7, 9, 10)), Answer()):
        assert (
            conversion.answer_from_message(
                travel(conversion.answer_to_message(answer)), num_chunks=11
            )
            == answer
        )


def test_a_header_with_the_digest_of_another_model_is_refused():
    message = conversion.header_to_message(OFFER)
    assert conversion.header_from_message(travel(message)).sha256 == MANIFEST.sha256
    message.sha256 = "0" * 64
    with pytest.raises(
        errors.DamagedTransfer,
        match=rf"^SHA-256 of the model is {MANIFEST.sha256[:12]}…, 000000000000… was declared; send",
    ):
        conversion.header_from_message(travel(message))


def test_parts_of_secure_aggregation_arrive_as_they_were_sent():
    place, keys = SumPlace(2, 3, 4), SumKeys("C1", b"s", b"m", b"c", b"g")
    shares = {"C1": b"1", "C2": b"2"}
    for post in (
        SumPost("keys", place, keys=keys),
        SumPost("share", place, commitment=b"c", shares=shares),
        SumPost("consent", place, consent=b"s"),
        SumPost("reveal", place, self_masks=shares, mask_keys={"C3": b"3"}),
    ):
        message = travel(conversion.sum_post_to_message(post))
        assert conversion.sum_post_from_message(message) == post
    for state in (
        SumState(keys=(keys, keys)),
        SumState(shares=shares),
        SumState(survivors=("C1", "C2"), dropped=("C3",), consents=shares),
    ):
        message = travel(conversion.sum_state_to_message(state))
        assert conversion.sum_state_from_message(message) == state
    question = travel(conversion.sum_question_to_message("share", place))
    assert conversion.sum_question_from_message(question) == ("share", place)
    twice = pb.SumPart(shares=[pb.SumShare(site="C1"), pb.SumShare(site="C1")])
    with pytest.raises(errors.DamagedTransfer, match="'C1' comes twice"):
        conversion.sum_post_from_message(twice)


def test_ranges_by_hand():
    assert conversion.ranges_to_messages([]) == []
    assert conversion.ranges_to_messages([0, 1, 2, 5, 7, 8]) == [
        pb.Range(first=first, count=count) for first, count in ((0, 3), (5, 1), (7, 2))
    ]


@pytest.mark.parametrize(
    "asked", [[(9, 3)], [(3, 2), (4, 1)], [(5, 1), (2, 1)], [(0, 2**32 - 1)], [(2**32 - 1, 1)]]
)
def test_chunks_that_are_not_there_cannot_be_asked_for(asked):
    with pytest.raises(errors.DamagedTransfer, match="the model has 11, in order"):
        conversion.indices_from_messages(
            [pb.Range(first=first, count=count) for first, count in asked], num_chunks=11
        )


def test_a_header_whose_name_is_not_that_of_its_contents_is_damage():
    message = conversion.header_to_message(OFFER)
    message.tensors[0].shape[0] = 3
    with pytest.raises(errors.DamagedTransfer, match="SHA-256 of the model"):
        conversion.header_from_message(message)


def test_a_header_of_the_expected_tensors_has_their_very_value():
    message = conversion.header_to_message(OFFER)
    offer = conversion.header_from_message(message, MANIFEST.specs)
    assert offer == OFFER and offer.manifest.specs is MANIFEST.specs
    message.tensors[1].name = "__metadata__"  # another declaration is checked as ever
    with pytest.raises(errors.IncompatibleWeights, match="reserved"):
        conversion.header_from_message(message, MANIFEST.specs)


def test_reasons_survive_and_are_cut_to_what_metadata_takes():
    reasons = [
        errors.Reason(f"stem/kernel {i} ü", "not_finite", "3 of 9 values") for i in range(1000)
    ]
    text = conversion.reasons_to_text(reasons)
    assert (
        text.isascii()
        and len(text) < 20_000
        and conversion.reasons_from_text(text) == tuple(reasons[:100])
    )
    assert (
        len(conversion.reasons_to_text([errors.Reason("x" * 500, "missing", "y" * 500)] * 90))
        < 20_000
    )
    assert conversion.reasons_from_text("no JSON") == conversion.reasons_from_text("[[1]]") == ()


def test_rows_keep_their_values_and_are_written_alike_every_time():
    row = {
        "model": "FL_global",
        "site": "C1",
        "case": 7,
        "grid": "native",
        "dice_tumour": None,
        "dice_pancreas": 0.1 + 0.2,
        "class": "tumour",
    }
    arrived = conversion.row_from_message(travel(conversion.row_to_message(row)))
    assert arrived == row
    assert json.dumps(arrived) == json.dumps(
        conversion.row_from_message(travel(conversion.row_to_message(dict(reversed(row.items())))))
    )


@pytest.mark.parametrize("absent", [["dice_tumour"], ["hd95_mm", "hd95_mm"]])
def test_a_row_with_a_column_twice_is_refused(absent):
    message = pb.Row(model="FL_global", site="C1", case=1, grid="native", absent=absent)
    message.numbers["dice_tumour"] = 0.5
    with pytest.raises(errors.PrivacyRefused, match="a row has a column twice"):
        conversion.row_from_message(message)
