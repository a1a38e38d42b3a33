"""Whole runs under an aggregation rule: weights, restarts, going back, the audit, the settings."""

import json
import os

import numpy as np
import pytest

from experiments.reports import status_table
from federated import errors
from federated.aggregation import rules, spooled_updates
from federated.aggregation.fedavgm import FedAvgM
from federated.audit import log as audit_log
from federated.audit import verification
from federated.server import config as server_config
from federated.tensors import tensor_files
from federated.wire import operation_pb2 as operation_pb
from federated.wire import replies
from tests.federated import toy
from tests.federated.rounds.test_declarations import STATUS
from tests.federated.server.test_coordinator import Site

RULE = "fedavgm:momentum=0.75,learning_rate=0.5"
VALUES = [(1.0, 3.5), (2.0, -1.25), (7.5, 0.5), (0.25, 4.0)]  # what C1 and C2 push in each round


def play(run, first=1, last=4):
    sites = [Site(run, "C1"), Site(run, "C2")]
    for number in range(first, last + 1):
        for site, value in zip(sites, VALUES[number - 1], strict=True):
            site.push(number, value)
        run.lead.advance()
    return sites


def written(run):
    """Returns the bytes of every global model and of the rule's states."""
    files = [*(run.folder / "global").iterdir(), *(run.folder / "rule_state").iterdir()]
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in files}


def logged(run, event):
    lines = (run.folder / "events.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["event"] == event]


@pytest.fixture
def undisturbed(opened):
    run = opened(folder="undisturbed", num_rounds=4, aggregation=RULE)
    play(run)
    return run


def test_the_models_of_a_run_are_the_recursion_in_numpy(undisturbed):
    models = [{name: array.astype("f8") for name, array in toy.INITIAL.items()}]
    velocity = {name: np.zeros(array.shape) for name, array in toy.INITIAL.items()}
    for first, second in VALUES:
        mean = (30 * first + 10 * second) / 40
        for name in velocity:
            velocity[name] = 0.75 * velocity[name] + (models[-1][name] - mean)
        models.append(
            {  # the model is kept in float32, the velocity in float64
                name: (array - 0.5 * velocity[name]).astype("f4").astype("f8")
                for name, array in models[-1].items()
            }
        )
    for number, model in enumerate(models):
        path = undisturbed.folder / "global" / f"round_{number:03d}.safetensors"
        arrays, _ = tensor_files.load(path)
        assert {name: array.tolist() for name, array in arrays.items()} == {
            name: array.tolist() for name, array in model.items()
        }
    assert sorted(path.name for path in (undisturbed.folder / "rule_state").iterdir()) == [
        f"round_{number:03d}.safetensors" for number in range(1, 5)
    ]


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_restarted_server_goes_on_with_the_same_bits(opened, undisturbed, stop):
    expected = written(undisturbed)
    play(opened(num_rounds=4, aggregation=RULE), last=stop)
    run = opened(num_rounds=4, aggregation=RULE)
    play(run, first=stop + 1)
    assert written(run) == expected


@pytest.mark.parametrize("after", ["the state", "both files"])
def test_a_kill_between_the_files_and_the_database_leaves_nothing_behind(
    opened, undisturbed, after, monkeypatch
):
    expected = written(undisturbed)
    run = opened(num_rounds=4, aggregation=RULE)
    play(run, last=2)
    left = {}
    with monkeypatch.context() as killed:

        def die(*_, **__):
            left.update(written(run))
            raise SystemExit("killed")

        def replace(source, target, *, replace=os.replace):
            replace(source, target) if target != run.store.global_path(3) else die()

        if after == "the state":
            killed.setattr(os, "replace", replace)
        else:
            killed.setattr(run.store, "close_round", die)
        with pytest.raises(SystemExit):
            play(run, first=3, last=3)
    assert "rule_state/round_003.safetensors" in left
    assert ("global/round_003.safetensors" in left) == (after == "both files")
    again = opened(num_rounds=4, aggregation=RULE)
    assert "rule_state/round_003.safetensors" not in written(again)
    again.lead.advance()
    play(again, first=4)
    assert written(again) == expected


def test_going_back_takes_the_state_back_too(opened, undisturbed):
    expected = written(undisturbed)
    run = opened(num_rounds=4, aggregation=RULE)
    sites = play(run, last=2)
    for site in sites:
        site.push(3, 5.0)
    run.lead.advance()
    assert written(run) != expected
    run.lead.orders.discard_round(2)
    assert set(run.store.rule_states()) == {1}
    assert [path.name for path in (run.folder / "rule_state").iterdir()] == [
        "round_001.safetensors"
    ]
    play(run, first=2)
    assert written(run) == expected


def test_states_go_with_their_models(opened):
    run = opened(num_rounds=4, keep_globals=2, aggregation=RULE)
    play(run)
    assert sorted(written(run)) == [
        *(f"global/round_{number:03d}.safetensors" for number in (0, 3, 4)),
        *(f"rule_state/round_{number:03d}.safetensors" for number in (3, 4)),
    ]


def test_a_damaged_state_stops_the_round_and_drops_nothing(opened, undisturbed):
    expected = written(undisturbed)
    run = opened(num_rounds=4, aggregation=RULE)
    play(run, last=3)
    path = run.folder / "rule_state" / "round_003.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(spooled_updates.DamagedStore, match=r"round_003\.safetensors is not what"):
        play(run, first=4)
    assert len(list((run.folder / "spool").iterdir())) == 2
    path.write_bytes(expected["rule_state/round_003.safetensors"])
    run.lead.advance()
    assert written(run) == expected


# The settings of a run.


@pytest.mark.parametrize("was", ["fedavg", RULE])
@pytest.mark.parametrize("asked", ["fedavg", "fedavgm", RULE])
def test_a_start_with_another_rule_is_refused_with_both_and_the_remedy(opened, was, asked):
    opened(aggregation=was)
    full = str(rules.parse(asked))
    if was == full:
        opened(aggregation=asked)
        return
    with pytest.raises(errors.DifferentRun) as caught:
        opened(aggregation=asked)
    assert f"aggregation: the store has {was}, asked for is {full}" in str(caught.value)
    assert "start with the same settings" in str(caught.value)
    assert "format" not in str(caught.value)


def test_a_store_without_the_setting_is_one_of_fedavg(opened):
    run = opened(num_rounds=4)
    settings = run.store._value("settings")
    del settings["aggregation"]  # as an earlier release wrote it
    assert settings["format"] == "2"
    run.store._set_value("settings", settings)
    assert opened(num_rounds=4).store.aggregation == "fedavg"
    with pytest.raises(errors.DifferentRun, match="the store has fedavg, asked for is fedavgm"):
        opened(num_rounds=4, aggregation="fedavgm")


def test_a_run_of_another_rule_has_a_format_that_an_earlier_release_refuses(opened):
    assert opened(aggregation=RULE).store._value("settings")["format"] == "3"


@pytest.mark.parametrize("name", sorted(rules.RULES))
def test_the_rule_is_in_every_rounds_line_and_in_the_status(opened, name):
    rule = str(rules.parse(name))
    run = opened(num_rounds=4, aggregation=name)
    play(run, last=2)
    assert [line["aggregation"] for line in logged(run, "aggregated")] == [rule, rule]
    assert run.lead.orders.status()["aggregation"] == rule
    assert run.config.to_json()["aggregation"] == rule


def test_a_rule_that_cannot_work_is_refused_before_the_store_is_opened():
    with pytest.raises(ValueError, match=r"momentum is 1\.5; expected a number from 0"):
        server_config.ServerConfig(num_rounds=1, aggregation="fedavgm:momentum=1.5")


def test_the_status_shows_the_aggregation_rule_and_a_hostile_one_is_refused():
    def read(**values):
        return replies.status(
            operation_pb.StatusReply(status_json=json.dumps({**STATUS, "sites": {}, **values}))
        )

    assert "aggregation" not in status_table.render(read())  # of an earlier release
    shown = status_table.render(read(aggregation="fedavgm:momentum=0.5,learning_rate=1.0"))
    assert shown.splitlines()[1] == "aggregation fedavgm:momentum=0.5,learning_rate=1.0"
    assert "\x1b" not in status_table.render(read(aggregation="\x1b[2J"))
    with pytest.raises(errors.ServerMisbehaves):
        read(aggregation=["fedavg"])


# The audit.


def chained(run, kept=4):
    """Writes the log of a run anew as a hash chain, as a server's is; returns the log."""
    path = run.folder / "events.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    path.unlink()
    log = audit_log.AuditLog(path)
    for record in records:
        if record["event"] in ("pushed", "aggregated") and record["round"] <= kept:
            log.append(record.pop("event"), **{k: v for k, v in record.items() if k != "time"})
    return log


@pytest.fixture
def audited(opened):
    run = opened(num_rounds=4, keep_updates=4, aggregation=RULE)
    play(run)
    chained(run)
    return run


def test_the_audit_recomputes_every_round_by_the_rule(audited):
    found = verification.verify(audited.folder)
    assert found.recomputed == found.rounds == found.rule_states == (1, 2, 3, 4)


def test_a_round_whose_state_before_is_gone_is_not_recomputed(audited):
    (audited.folder / "rule_state" / "round_002.safetensors").unlink()
    found = verification.verify(audited.folder)
    assert (found.rule_states, found.recomputed) == ((1, 3, 4), (1, 2, 4))


def test_a_changed_state_is_found(audited):
    path = audited.folder / "rule_state" / "round_002.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(audit_log.BrokenChain, match=r"rule_state/round_002\.safetensors is not"):
        verification.verify(audited.folder)


@pytest.mark.parametrize(
    "other", ["fedavg", str(FedAvgM(momentum=0.75)), str(FedAvgM(learning_rate=0.5)), "fedsum"]
)
def test_a_log_that_names_another_rule_is_found(audited, other):
    path = audited.folder / "events.jsonl"
    path.write_text(path.read_text().replace(RULE, other))
    records = [json.loads(line) for line in path.read_text().splitlines()]
    path.unlink()
    log = audit_log.AuditLog(path)
    for record in records:
        about = {k: v for k, v in record.items() if k not in ("time", "event", "line", "previous")}
        about.pop("hash")
        log.append(record["event"], **about)
    with pytest.raises(audit_log.BrokenChain, match=r"logged model by|is 'fedsum'; expected"):
        verification.verify(audited.folder)


def test_a_backfilled_line_says_rule_and_state(opened):
    run = opened(num_rounds=4, keep_updates=4, aggregation=RULE)
    play(run)
    log = chained(run, kept=2)
    audit_log.backfill(log, run.store)
    found = verification.verify(run.folder)
    assert found.recomputed == found.rule_states == (1, 2, 3, 4)


def test_a_backfilled_line_of_a_run_whose_models_are_rounded_is_recomputed(opened):
    run = opened(num_rounds=4, keep_updates=4, transport="half")
    sites = [Site(run, "C1"), Site(run, "C2")]
    for site, value in zip(sites, (1 / 3, 0.1), strict=True):
        site.push(1, value)
    run.lead.advance()
    assert logged(run, "aggregated")[0]["rounding_error"] > 0
    log = chained(run, kept=0)
    audit_log.backfill(log, run.store)
    assert verification.verify(run.folder).recomputed == (1,)
