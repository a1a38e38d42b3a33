"""The operator's view and orders, and the advice in the answers."""

import json

import pytest

from federated.audit import log as audit_log
from federated.server import overview, run_statistics
from federated.wire import operation_pb2, replies
from federated.wire.status import RunStatus, SiteStatus
from tests.federated import toy
from tests.federated.server.test_coordinator import Site


@pytest.fixture
def left(opened, tmp_path, clock):
    """Returns a run, its site C1, and the operator's view of it.

    Two sites are both the minimum and the maximum, and after the first round C2 has left for good.
    """
    run = opened(heart_beat_timeout_s=600.0)
    first, second = Site(run, "C1"), Site(run, "C2")
    for site in (first, second):
        site.push(1)
    run.lead.advance()
    clock.now += 7200.0
    run.lead.site_of(run.lead.login("C1", "secret of C1", toy.PLAN, 30).token)
    log = audit_log.AuditLog(tmp_path / "desk.jsonl", clock=clock)
    return (
        run,
        first,
        overview.Overview(run.lead.orders, log, run_statistics.RunStatistics(), run.folder),
    )


EVICT, END = "--order=evict --site=C2", "--order=finish_now"


def evaluated(run, site):
    """Does a site's tasks in the evaluation, and returns whether the run has finished."""
    run.lead.advance()
    for _ in range(5):
        task = site.task()
        if task.kind == "score":
            run.lead.report_scores(site.name, task.round, {"dice": 0.5})
        elif task.kind == "publish":
            run.lead.declare_models(site.name, [])
        elif task.kind == "evaluate":
            run.lead.submit_rows(site.name, [site.row(model) for model in task.models])
        run.lead.advance()
    return run.store.finished


def test_finish_names_a_site_that_has_left_for_good_and_its_advice_helps(left):
    run, first, desk = left
    answer = desk.order("finish", "")
    assert answer.startswith("round 2 is the last one; once its updates are in")
    assert (
        "But round 2 needs 2 updates; 0 are in, and 1 more can come" in answer
        and "C2, silent for 2.0 h" in answer
    )
    assert answer.index(EVICT) < answer.index(END) and "global model 1" in answer
    assert any("C2, silent for 2.0 h" in line for line in desk.status()["warnings"])
    first.push(2)
    assert not evaluated(run, first)  # it is as the answer says
    answer = desk.order("evict", "C2")
    assert (
        "But round 2 needs 2 updates; 1 are in, and 0 more can come" in answer
        and EVICT not in answer
        and END in answer
    )
    assert "But" not in desk.order("finish_now", "")
    assert evaluated(run, first) and desk.status()["warnings"] == []


def test_finish_now_names_the_sites_that_the_evaluation_waits_for_and_its_advice_helps(left):
    run, first, desk = left
    answer = desk.order("finish_now", "")
    assert answer.startswith("the open round is abandoned; the run ends with global model 1")
    assert f"But the evaluation waits for C2, silent for 2.0 h; without it: {EVICT}" in answer
    assert not evaluated(run, first)
    assert "But" not in desk.order("evict", "C2")
    assert evaluated(run, first)
    assert desk.order("finish", "") == "the run has finished already, with global model 1"


def test_an_order_that_nothing_hinders_says_no_more(opened, tmp_path, clock):
    run = opened(min_num_clients=1, max_num_clients=2, heart_beat_timeout_s=600.0)
    first, _ = Site(run, "C1"), Site(run, "C2")
    desk = overview.Overview(
        run.lead.orders,
        audit_log.AuditLog(tmp_path / "desk.jsonl"),
        run_statistics.RunStatistics(),
        run.folder,
    )
    clock.now += 7200.0
    first = Site(run, "C1")
    first.push(1)  # enough without C2
    assert "But" not in desk.order("finish", "") and desk.status()["warnings"] == []
    desk.order("pause", "")
    assert desk.order("finish", "").endswith(
        "But the run is paused and continues after --order=resume"
    )
    desk.order("resume", "")
    run.lead.advance()
    answer = desk.order("finish_now", "")
    assert (
        answer == "the rounds are over already; the run ends with global model 1 "
        "once the sites have evaluated it"
    )
    assert evaluated(run, first)


def test_the_operators_programs_accept_the_whole_status(left):
    run, _, desk = left
    run.lead.report_scores("C1", 1, {"dice": 0.5})
    sent = desk.status()
    message = operation_pb2.StatusReply(status_json=json.dumps(sent, allow_nan=False))
    assert replies.status(message) == sent
    assert sent.keys() == RunStatus.__required_keys__ | RunStatus.__optional_keys__
    for site in sent["sites"].values():
        assert site.keys() == SiteStatus.__required_keys__ | SiteStatus.__optional_keys__
