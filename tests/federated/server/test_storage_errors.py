"""Failures of the system after a request has changed the store.

The site asks again, and the server's memory and log agree with the store.
"""

import collections
import errno
import os
import sqlite3

import pytest
from cryptography import x509

from federated import simulation
from federated.audit import verification
from federated.connections import error_replies
from federated.errors import StorageTrouble
from federated.server import config as server_config
from federated.server.serve import serve
from federated.storage import store as storage
from runkit import backoff
from runkit.events import EventLog
from tests.federated import toy
from tests.federated.programs import results
from tests.power_loss import federation

CHANGES = [
    "enrol",
    "session",
    "keep_update",
    "record_scores",
    "keep_model",
    "declare",
    "keep_rows",
    "confirm",
    "close_round",
    "fix_models",
    "finish",
]


class _Transport(simulation.InProcessTransport):
    """Answers with StorageTrouble where a server would."""

    def __getattribute__(self, name):
        found = super().__getattribute__(name)
        if name not in _CALLS:
            return found

        def answered(*given, **named):
            try:
                return found(*given, **named)
            except Exception as error:
                raise error_replies.storage_trouble(error) or error from error

        return answered


_CALLS = (
    "login",
    "next_task",
    "pull",
    "push",
    "publish",
    "report_scores",
    "declare_models",
    "submit_rows",
)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    federation.prepare(folder / "kits")
    federation.run(folder, folder / "kits", _Transport)
    return folder / "kits", results(folder / federation.STORE, federation.ROUNDS)


@pytest.mark.parametrize("method", CHANGES)
@pytest.mark.parametrize(
    "trouble",
    [sqlite3.OperationalError("disk I/O error"), OSError(errno.EIO, os.strerror(errno.EIO))],
    ids=["SQLite", "file"],
)
def test_an_error_after_the_store_was_changed_leaves_nothing_half_known(
    undisturbed, tmp_path, monkeypatch, method, trouble
):
    kits, expected = undisturbed
    times = 1 if method in ("fix_models", "finish") else 2
    done, failures = getattr(storage.Store, method), [trouble] * times

    def failing(self, *given, **named):
        found = done(self, *given, **named)
        if failures:
            raise failures.pop()
        return found

    monkeypatch.setattr(storage.Store, method, failing)
    monkeypatch.setattr(backoff, "pauses", lambda *given: iter(lambda: 0.01, None))
    federation.run(tmp_path, kits, _Transport)
    assert not failures
    assert results(tmp_path / federation.STORE, federation.ROUNDS) == expected
    authority = x509.load_pem_x509_certificate((kits / "server" / "ca.pem").read_bytes())
    verification.verify(tmp_path / federation.STORE, authority)
    log = EventLog(tmp_path / federation.STORE / "events.jsonl")
    logged = collections.Counter(event["event"] for event in log.read())
    sites, rounds = len(federation.SITES), federation.ROUNDS
    assert logged["pushed"] == sites * rounds and logged["aggregated"] == rounds
    assert logged["scored"] == sites * (rounds + 1)
    assert logged["published"] == logged["rows"] == sites
    assert logged["models_fixed"] == logged["finished"] == 1


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (sqlite3.OperationalError("disk I/O error"), "free space or repair the folder"),
        (sqlite3.DatabaseError("database disk image is malformed"), "restore the folder"),
    ],
)
@pytest.mark.parametrize("place", ["__init__", "open_run", "counted_updates"])
def test_a_store_that_cannot_be_opened_is_one_error_with_its_folder_and_the_remedy(
    tmp_path, kits, initial, monkeypatch, place, error, remedy
):
    def failing(self, *given, **named):
        raise error

    owner = storage.Records if place == "__init__" else storage.Store
    monkeypatch.setattr(owner, place, failing)
    with pytest.raises(StorageTrouble, match=f"{tmp_path / 'store'}.*{error}.*{remedy}"):
        serve(
            server_config.ServerConfig(num_rounds=3, port=0),
            tmp_path / "store",
            kits / "server",
            initial,
            vocabulary=toy.VOCABULARY,
        )
