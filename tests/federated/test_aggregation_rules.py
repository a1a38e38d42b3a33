"""Whole runs under an aggregation rule: weights, restarts, going back, the audit, the settings."""

import json
import os

import numpy as np
import pytest

from experiments.reports import status_table
from federated import errors
from federated.aggregation import rules, slabs, spooled_updates
from federated.aggregation.fedavgm import FedAvgM
from federated.audit import backfill, chain, verification
from federated.audit import log as audit_log
from federated.server import config as server_config
from federated.tensors import tensor_files
from federated.tensors.weights import specs_of
from federated.wire import operation_pb2 as operation_pb
from federated.wire import replies
from tests.federated import toy
from tests.federated.aggregation import reference
from tests.federated.rounds.test_declarations import STATUS
from tests.federated.server.test_coordinator import Site

RULE = "fedavgm:momentum=0.75,learning_rate=0.5"
# What C1, C2 and C3 push in each round.
VALUES = [(1.0, 3.5, 2.25), (2.0, -1.25, 0.5), (7.5, 0.5, 3.0), (0.25, 4.0, -2.0)]
THREE = {"num_rounds": 4, "min_num_clients": 3, "max_num_clients": 3}


# Name to text of each rule of the table, with no parameter at its default where three sites allow.
TEXTS = {
    text.partition(":")[0]: str(rules.parse(text))
    for text in reference.TEXTS
    if rules.parse(text).min_updates <= 3
}
STATEFUL = [text for text in TEXTS.values() if rules.parse(text).init(specs_of(toy.INITIAL))]
every_rule = pytest.mark.parametrize("rule", TEXTS.values(), ids=TEXTS)
every_rule_with_a_state = pytest.mark.parametrize("rule", STATEFUL)


def play(run, first=1, last=4):
    sites = [Site(run, name) for name in toy.EXAMPLES]
    for number in range(first, last + 1):
        for site, value in zip(sites, VALUES[number - 1], strict=True):
            site.push(number, value)
        run.lead.advance()
    return sites


def written(run):
    """Returns the bytes of every global model and of the rule's states."""
    files = [*(run.folder / "global").iterdir(), *(run.folder / "rule_state").glob("*")]
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in files}


def logged(run, event):
    lines = (run.folder / "events.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["event"] == event]


def states(run):
    return sorted(path.name for path in (run.folder / "rule_state").glob("*"))


def states_of(rule, *rounds):
    """Returns the names of the files of a rule's state after some rounds."""
    return [f"round_{number:03d}.safetensors" for number in rounds if rule in STATEFUL]


@pytest.fixture(scope="module")
def made():
    """Rule -> the bytes of its undisturbed run, computed once."""
    return {}


@pytest.fixture
def expected(opened, rule, made):
    """Returns what an undisturbed run under the rule writes."""
    if rule not in made:
        run = opened(folder="undisturbed", aggregation=rule, **THREE)
        play(run)
        made[rule] = written(run)
    return made[rule]


def test_every_rule_of_the_table_is_tried():
    assert set(TEXTS) == set(rules.RULES)


@every_rule
def test_the_models_of_a_run_are_those_of_numpy(opened, rule, made):
    run = opened(aggregation=rule, **THREE)
    play(run)
    made[rule] = written(run)
    rounds = [
        [{name: np.full_like(array, value) for name, array in toy.INITIAL.items()} for value in row]
        for row in VALUES
    ]
    models = reference.run(rule, toy.INITIAL, rounds, list(toy.EXAMPLES.values()))
    for number, model in enumerate([toy.INITIAL, *models]):
        path = run.folder / "global" / f"round_{number:03d}.safetensors"
        arrays, _ = tensor_files.load(path)
        assert set(arrays) == set(model)
        for name, array in model.items():
            np.testing.assert_allclose(arrays[name], array, rtol=1e-6, atol=1e-6)
    assert states(run) == states_of(rule, 1, 2, 3, 4)


def test_a_rule_that_overflows_ends_the_server_and_loses_nothing(opened):
    rule = "fedavgm:learning_rate=1e40"
    run = opened(aggregation=rule, **THREE)
    sites = [Site(run, name) for name in toy.EXAMPLES]
    for site in sites:
        site.push(1, 2.0)
    with pytest.raises(slabs.NotFinite, match=r"learning_rate=1e\+40.* start a new run"):
        run.lead.drive()
    assert [path.name for path in sorted((run.folder / "global").iterdir())] == [
        "round_000.safetensors"
    ]
    assert states(run) == []
    with pytest.raises(slabs.NotFinite):  # a restart has the three updates and says the same
        opened(aggregation=rule, **THREE).lead.drive()


@every_rule
def test_a_server_restarted_after_every_round_goes_on_with_the_same_bits(opened, expected, rule):
    for number in (1, 2, 3, 4):
        run = opened(aggregation=rule, **THREE)
        play(run, first=number, last=number)
    assert written(run) == expected


@pytest.mark.parametrize("after", ["the state", "both files"])
@every_rule
def test_a_kill_between_the_files_and_the_database_leaves_nothing_behind(
    opened, expected, rule, after, monkeypatch
):
    run = opened(aggregation=rule, **THREE)
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
    assert ("rule_state/round_003.safetensors" in left) == bool(states_of(rule, 3))
    assert ("global/round_003.safetensors" in left) == (after == "both files")
    again = opened(aggregation=rule, **THREE)
    assert "rule_state/round_003.safetensors" not in written(again)
    again.lead.advance()
    play(again, first=4)
    assert written(again) == expected


@every_rule
def test_going_back_takes_the_state_back_too(opened, expected, rule):
    run = opened(aggregation=rule, **THREE)
    sites = play(run, last=2)
    for site in sites:
        site.push(3, 5.0)
    run.lead.advance()
    assert written(run) != expected
    run.lead.orders.discard_round(2)
    assert states(run) == states_of(rule, 1)
    assert set(run.store.rule_states()) == ({1} if states_of(rule, 1) else set())
    play(run, first=2)
    assert written(run) == expected


@every_rule_with_a_state
def test_states_go_with_their_models(opened, rule):
    run = opened(keep_globals=2, aggregation=rule, **THREE)
    play(run)
    assert sorted(path.name for path in (run.folder / "global").iterdir()) == [
        f"round_{number:03d}.safetensors" for number in (0, 3, 4)
    ]
    assert states(run) == states_of(rule, 3, 4)


@every_rule_with_a_state
def test_a_damaged_state_stops_the_round_and_drops_nothing(opened, expected, rule):
    run = opened(aggregation=rule, **THREE)
    play(run, last=3)
    path = run.folder / "rule_state" / "round_003.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(spooled_updates.DamagedStore, match=r"round_003\.safetensors is not what"):
        play(run, first=4)
    assert len(list((run.folder / "spool").iterdir())) == 3
    path.write_bytes(expected["rule_state/round_003.safetensors"])
    run.lead.advance()
    assert written(run) == expected


# Too few sites.


@every_rule
def test_a_round_never_closes_with_fewer_updates_than_the_rule_can_work_with(opened, rule):
    """An evicted site takes its update with it, and the round waits until another one is there."""
    least = max(2, rules.parse(rule).min_updates)
    run = opened(num_rounds=4, min_num_clients=least, max_num_clients=least, aggregation=rule)
    sites = [Site(run, name) for name in list(toy.EXAMPLES)[:least]]
    for site in sites:
        site.push(1, 1.0)
    run.lead.orders.evict(sites[-1].name)
    run.lead.advance()
    assert max(run.store.globals()) == 0
    assert f"round 1 needs {least} updates; {least - 1} are in" in run.lead.orders.hindrance()
    run.lead.orders.readmit(sites[-1].name)
    Site(run, sites[-1].name).push(1, 3.0)
    run.lead.advance()
    (line,) = logged(run, "aggregated")
    assert (line["round"], len(line["sites"])) == (1, least)


def test_a_running_median_cannot_be_started_again_with_a_lower_minimum(opened):
    play(opened(aggregation="median", **THREE), last=1)
    with pytest.raises(ValueError, match="'median', which needs at least 3 updates in every round"):
        opened(aggregation="median", num_rounds=4, min_num_clients=2, max_num_clients=3)
    play(opened(aggregation="median", **THREE), first=2)


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


@every_rule
def test_the_rule_is_in_every_rounds_line_and_in_the_status(opened, rule):
    run = opened(aggregation=rule, **THREE)
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
def rule():
    """The rule for tests that do not run under every rule."""
    return RULE


@pytest.fixture
def audited(opened, rule):
    run = opened(keep_updates=4, aggregation=rule, **THREE)
    play(run)
    chained(run)
    return run


@every_rule
def test_the_audit_recomputes_every_round_by_the_rule(audited, rule):
    found = verification.verify(audited.folder)
    assert found.recomputed == found.rounds == (1, 2, 3, 4)
    assert found.rule_states == ((1, 2, 3, 4) if states_of(rule, 1) else ())


def test_a_round_whose_state_before_is_gone_is_not_recomputed(audited):
    (audited.folder / "rule_state" / "round_002.safetensors").unlink()
    found = verification.verify(audited.folder)
    assert (found.rule_states, found.recomputed) == ((1, 3, 4), (1, 2, 4))


def test_a_changed_state_is_found(audited):
    path = audited.folder / "rule_state" / "round_002.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(chain.BrokenChain, match=r"rule_state/round_002\.safetensors is not"):
        verification.verify(audited.folder)


@pytest.mark.parametrize(
    "other",
    [
        "fedavg",
        "median",
        str(FedAvgM(momentum=0.75)),
        str(FedAvgM(learning_rate=0.5)),
        "fedsum",
    ],
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
    with pytest.raises(chain.BrokenChain, match=r"logged model by|is 'fedsum'; expected"):
        verification.verify(audited.folder)


@every_rule
def test_a_backfilled_line_says_rule_and_state(opened, rule):
    run = opened(keep_updates=4, aggregation=rule, **THREE)
    play(run)
    log = chained(run, kept=2)
    backfill.complete(log, run.store)
    found = verification.verify(run.folder)
    assert found.recomputed == (1, 2, 3, 4)
    assert found.rule_states == ((1, 2, 3, 4) if states_of(rule, 1) else ())


def test_a_backfilled_line_of_a_run_whose_models_are_rounded_is_recomputed(opened):
    run = opened(num_rounds=4, keep_updates=4, transport="half")
    sites = [Site(run, "C1"), Site(run, "C2")]
    for site, value in zip(sites, (1 / 3, 0.1), strict=True):
        site.push(1, value)
    run.lead.advance()
    assert logged(run, "aggregated")[0]["rounding_error"] > 0
    log = chained(run, kept=0)
    backfill.complete(log, run.store)
    assert verification.verify(run.folder).recomputed == (1,)
