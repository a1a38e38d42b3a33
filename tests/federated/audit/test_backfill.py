import json

from federated.audit import backfill, verification
from federated.audit import log as audit_log
from federated.storage import store as storage
from tests.federated.audit.kept_rounds import write_again


def test_what_the_log_has_lost_is_backfilled_from_the_store(whole, kits, clock):
    path = whole / "events.jsonl"
    lost = ("pushed", "aggregated", "published", "rows")
    records = [json.loads(line) for line in path.read_text().splitlines()]
    path.unlink()
    log = write_again(whole, records, without=lost)
    store = storage.Store(whole)
    try:
        backfill.complete(log, store)
    finally:
        store.close()
    found = verification.verify(whole)
    assert (found.rounds, found.rows, found.models) == (
        (1, 2, 3),
        ("C1", "C2"),
        ("C1_baseline", "C2_baseline"),
    )
    before = path.read_bytes()
    store = storage.Store(whole)
    try:
        backfill.complete(audit_log.AuditLog(path), store)
    finally:
        store.close()
    assert path.read_bytes() == before
