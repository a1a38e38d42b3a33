import json
import pathlib
import shutil

import pytest

from federated.audit import chain, verification
from federated.audit import log as audit_log
from federated.tensors import tensor_files
from runkit import events
from tests.federated import toy
from tests.federated.audit.kept_rounds import keep_round
from tests.federated.server.test_coordinator import Site


def test_an_honest_store_verifies_and_is_recomputed(store, authority):
    found = verification.verify(store, authority)
    assert (found.lines, found.rounds, found.recomputed, found.pruned) == (
        10,
        (1, 2, 3),
        (2, 3),
        (),
    )
    assert found.head == json.loads((store / "events.jsonl").read_text().splitlines()[-1])["hash"]


def test_a_rewritten_log_lacks_the_servers_signature_and_the_noted_head(store, authority, tmp_path):
    noted = verification.verify(store).head
    path = store / "events.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    path.unlink()
    forged = audit_log.AuditLog(path)
    for record in records:
        fields = {
            key: value
            for key, value in record.items()
            if key not in ("time", "line", "previous", "hash", "signature", "event")
        }
        forged.append(record["event"], **fields)
    verification.verify(store)  # consistent in itself
    with pytest.raises(chain.BrokenChain, match="not signed by the server's key"):
        verification.verify(store, authority)
    with pytest.raises(chain.BrokenChain, match="no line with the noted hash"):
        verification.verify(store, head=noted)


def spoil(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_a_changed_model_or_update_is_found(store):
    spoil(store / "global" / "round_002.safetensors")
    with pytest.raises(chain.BrokenChain, match=r"line 7: round_002\.safetensors is not the model"):
        verification.verify(store)
    spoil(store / "global" / "round_002.safetensors")
    spoil(next((store / "kept" / "round_003").glob("round_003.C2.*")))
    with pytest.raises(
        chain.BrokenChain, match=r"line 10: round_003\.C2\..* is not the update of site 'C2'"
    ):
        verification.verify(store)


def test_an_aggregate_that_is_not_the_mean_is_found_although_every_digest_fits(store, tmp_path):
    log = audit_log.AuditLog(store / "events.jsonl")
    keep_round(store, log, 4)
    other = audit_log.AuditLog(tmp_path / "other.jsonl")
    lines = [json.loads(line) for line in (store / "events.jsonl").read_text().splitlines()]
    lines[-1]["sha256"] = tensor_files.save(store / "global" / "round_004.safetensors", toy.INITIAL)
    for record in lines:
        other.append(
            record["event"],
            **{
                k: v
                for k, v in record.items()
                if k not in ("time", "event", "line", "previous", "hash", "signature")
            },
        )
    (tmp_path / "other.jsonl").rename(store / "events.jsonl")
    with pytest.raises(
        chain.BrokenChain,
        match="line 13: the updates of round 4 do not give the logged model by fedavg",
    ):
        verification.verify(store)


def test_an_aggregation_of_an_update_that_was_never_received_is_found(store):
    log = audit_log.AuditLog(store / "events.jsonl")
    log.append("aggregated", round=4, sites={"C1": 30}, updates={"C1": "0" * 64}, sha256="0" * 64)
    with pytest.raises(
        chain.BrokenChain,
        match="line 11: round 4 counts an update of site 'C1' that was not logged before",
    ):
        verification.verify(store)


def test_a_round_that_was_skipped_is_found(store):
    log = audit_log.AuditLog(store / "events.jsonl")
    log.append("aggregated", round=5, sites={}, updates={}, sha256="0" * 64)
    with pytest.raises(chain.BrokenChain, match="aggregates round 5 where round 4 is due"):
        verification.verify(store)


def test_models_that_the_server_did_not_keep_are_reported(store):
    (store / "global" / "round_001.safetensors").unlink()
    assert verification.verify(store).pruned == (1,)


def test_a_folder_that_is_not_a_store_is_named(tmp_path):
    with pytest.raises(ValueError, match="give the server's folder, its --store"):
        verification.verify(pathlib.Path(tmp_path))


def test_rows_lent_models_and_the_choice_of_the_best_are_covered(whole, authority):
    found = verification.verify(whole, authority)
    assert found.rows == ("C1", "C2") and found.models == ("C1_baseline", "C2_baseline")
    assert found.best_round == json.loads((whole / "selection.json").read_text())["best_round"]


def test_a_changed_row_is_found(whole):
    path = whole / "rows.jsonl"
    path.write_text(path.read_text().replace('"case": 2', '"case": 3', 1))
    with pytest.raises(
        chain.BrokenChain,
        match=r"the rows of site 'C1' in rows\.jsonl are not those that were logged",
    ):
        verification.verify(whole)


def test_rows_of_a_site_that_sent_no_rows_are_found(whole):
    path = whole / "rows.jsonl"
    path.write_text(
        path.read_text() + path.read_text().splitlines()[0].replace('"C1"', '"C9"') + "\n"
    )
    with pytest.raises(chain.BrokenChain, match="has rows of 'C9' that were not logged"):
        verification.verify(whole)


def test_a_lent_model_that_was_changed_is_found(whole):
    tensor_files.save(whole / "models" / "C2_baseline.safetensors", toy.INITIAL)
    with pytest.raises(
        chain.BrokenChain,
        match=r"C2_baseline\.safetensors is not the model that site 'C2' lent",
    ):
        verification.verify(whole)


def test_another_best_model_than_the_scores_choose_is_found(whole, tmp_path):
    best = json.loads((whole / "selection.json").read_text())["best_round"]
    other = next(number for number in (1, 2, 3) if number != best)
    (whole / "best.safetensors").unlink()  # another name of the global model
    shutil.copy(whole / "global" / f"round_{other:03d}.safetensors", whole / "best.safetensors")
    with pytest.raises(
        chain.BrokenChain, match=rf"best\.safetensors is not the model of round {best}"
    ):
        verification.verify(whole)
    lines = [json.loads(line) for line in (whole / "events.jsonl").read_text().splitlines()]
    forged = audit_log.AuditLog(tmp_path / "forged.jsonl")
    for record in lines:
        kept = {
            k: v
            for k, v in record.items()
            if k not in ("time", "event", "line", "previous", "hash", "signature")
        }
        forged.append(
            record["event"],
            **{**kept, **({"best_round": other} if record["event"] == "models_fixed" else {})},
        )
    (tmp_path / "forged.jsonl").rename(whole / "events.jsonl")
    with pytest.raises(
        chain.BrokenChain,
        match=f"round {other} is named the best; by the logged scores it is round {best}",
    ):
        verification.verify(whole)


@pytest.mark.parametrize("admitted", ["before the choice", "after it"])
def test_the_best_is_chosen_by_the_cases_that_sites_had_logged_in_with_by_then(
    opened, monkeypatch, admitted
):
    """By 30 and 10 cases round 1 is the best, by 1 and 10 it would be round 2."""
    monkeypatch.setattr(events, "EventLog", audit_log.AuditLog)
    run = opened(num_rounds=2)
    sites = [Site(run, name) for name in ("C1", "C2")]
    for number, scores in enumerate(((0.9, 0.1), (0.5, 0.6)), start=1):
        for site in sites:
            site.push(number)
        run.lead.advance()
        for site, score in zip(sites, scores, strict=True):
            run.lead.report_scores(site.name, number, {"dice": score})
    if admitted == "before the choice":
        run.lead.orders.readmit("C1")
    for site in sites:
        run.lead.declare_models(site.name, [])
    run.lead.advance()
    assert run.store.fixed_best() == 1
    if admitted == "after it":
        run.lead.orders.readmit("C1")
    run.lead.login("C1", "secret of C1", toy.PLAN, 1)  # with another number of cases
    assert run.store.num_examples("C1") == 1
    assert verification.verify(run.folder).best_round == 1
