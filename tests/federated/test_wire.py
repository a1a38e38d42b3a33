import json

import pytest

from federated import errors, wire
from federated import weight_exchange_pb2 as pb
from federated.agenda import Task
from federated.codec import Chunk
from federated.exchange import Offer, Receipt, Session
from federated.weights import TensorSpec

OFFER = Offer((TensorSpec("a/b", "F32", (2, 3)), TensorSpec("c", "F16", ())), "ab" * 32, 3, 30, "C1_baseline", {"loss": 0.1 + 0.2})
CHUNKS = [Chunk(0, 0, b"123", 2**32 - 1), Chunk(1, 2**40, b"", 0)]


def travel(message):
    """Returns the message as the other end reads it."""
    return type(message).FromString(message.SerializeToString())


def test_values_arrive_as_they_were_sent():
    for task in (Task("wait"), Task("train", 3, "round_002"), Task("evaluate", models=("a", "b"))):
        assert wire.task_from_message(travel(wire.task_to_message(task))) == task
    session = Session("token", 1e9 + 0.25, "run", "ff" * 32, 60, 10, 20.0, 15.0)
    assert wire.session_from_message(travel(wire.session_to_message(session))) == session
    receipt = Receipt("C1", "round_003", "ab" * 32)
    assert wire.receipt_from_message(travel(wire.receipt_to_message(receipt))) == receipt
    offer, chunks = wire.model_from_messages(map(travel, wire.model_to_messages(OFFER, CHUNKS)))
    assert offer == OFFER and list(chunks) == CHUNKS


@pytest.mark.parametrize(
    "messages", [[], [pb.ModelPart()], list(wire.model_to_messages(OFFER, CHUNKS))[1:]], ids=["none", "empty", "no header"]
)
def test_a_transfer_without_header_is_damaged(messages):
    with pytest.raises(errors.DamagedTransfer, match="begins with the header"):
        wire.model_from_messages(messages)


def test_a_second_header_is_damage():
    messages = list(wire.model_to_messages(OFFER, CHUNKS))
    _, chunks = wire.model_from_messages([*messages, messages[0]])
    with pytest.raises(errors.DamagedTransfer, match="second header"):
        list(chunks)


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
    arrived = wire.row_from_message(travel(wire.row_to_message(row)))
    assert arrived == row
    assert json.dumps(arrived) == json.dumps(wire.row_from_message(travel(wire.row_to_message(dict(reversed(row.items()))))))
