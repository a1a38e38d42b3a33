import math

import pytest

from federated.server import uploads
from tests.benchmarks import push_trace


@pytest.fixture(scope="module")
def trace():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uploads, "_NOTE_EVERY_S", math.inf)  # a busy machine would note it more often
        return push_trace.one_push()


def test_the_trace_of_an_update_covers_the_servers_files_and_not_the_sites(trace):
    assert {
        "federated/server/uploads.py",
        "federated/aggregation/update_checks.py",
        "federated/storage/store.py",
    } <= trace.files
    assert not any(file.startswith("federated/site/") for file in trace.files)


def test_nothing_is_looked_at_more_often_than_it_has_to_be(trace):
    assert trace.calls.total() <= 223 and len(trace.files) <= 34

    def times(file, function):
        return trace.calls[f"federated/{file}", function]

    # A token at the headers and at the connection of two calls, and before the update counts.
    assert times("security/credentials.py", "CredentialBook.current") == 5
    # An offer when it is made and when its chunks follow.
    assert times("wire/conversion.py", "header_from_message") == 2
    assert times("server/uploads.py", "CheckedOffer.__post_init__") == 2
    # Both declare the run's own tensors, and the global model's header has been read before.
    assert times("tensors/weights.py", "check_declaration") == 0
