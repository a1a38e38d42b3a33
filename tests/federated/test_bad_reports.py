"""Rows, scores, messages and log lines of a hostile site: each is refused by itself."""

import contextlib
import json

import grpc
import pytest

from federated import errors
from federated.server import evaluation, uploads
from federated.wire import conversion
from federated.wire import weight_exchange_pb2 as pb
from tests.federated import toy
from tests.federated.raw_calls import SERVICE
from tests.federated.run_steps import finished_rounds, fixed_models
from tests.federated.server.test_coordinator import Site


def test_rows_are_checked_as_they_arrive_and_their_number_follows_from_the_run(opened):
    run, first, second = finished_rounds(opened)
    fixed_models(run, first, second)
    taken = []

    def endless():
        for case in range(1, 10_000_000):
            taken.append(case)
            yield first.row(case=case)

    with pytest.raises(
        errors.PrivacyRefused, match="more than 1000 cases; no site of this run has that many"
    ):
        run.lead.submit_rows("C1", endless())
    assert len(taken) == 1001
    with pytest.raises(
        errors.PrivacyRefused, match="row 2: a second row of the same model, case, grid and class"
    ):
        run.lead.submit_rows("C1", [first.row(), first.row()])
    run.lead.submit_rows("C1", [first.row()])
    run.lead.submit_rows("C1", [first.row(case=2)])  # rows count once
    assert [row["case"] for row in run.store.rows("C1")["C1"]] == [1]


def test_the_rows_of_a_site_take_a_limited_number_of_bytes(opened, monkeypatch):
    monkeypatch.setattr(evaluation, "_MAX_ROWS_BYTES", 10_000)
    run, first, second = finished_rounds(opened)
    fixed_models(run, first, second)
    taken = []

    def rows(count):
        for case in range(1, count + 1):
            taken.append(case)
            yield first.row(case=case)

    with pytest.raises(errors.PrivacyRefused, match=r"rows of site 'C1' take 10\d\d\d bytes"):
        run.lead.submit_rows("C1", rows(1000))
    assert len(taken) < 150 and "C1" not in run.store.reported()
    run.lead.submit_rows("C1", rows(50))
    assert "C1" in run.store.reported()


def test_large_messages_are_refused_before_they_are_decoded(serving, channel):
    running = serving()
    transport = running.connect("C1")
    metadata = conversion.token_metadata(transport.login(toy.PLAN, 30).token)
    raw = channel(running, "C1")
    header = pb.ModelHeader(tensors=[pb.TensorSpec()] * 500_000).SerializeToString()
    for method, message in (
        ("Describe", bytes(2000)),
        ("Offer", header),
        ("DeclareModels", bytes(10**6)),
        ("HeartBeat", bytes(2000)),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            list(
                raw.stream_stream(SERVICE + method)(iter([message]), metadata=metadata, timeout=30)
            )
        assert (
            caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
            and "bytes; at most" in caught.value.details()
        )
    transport.close()


def test_no_report_that_the_server_accepts_keeps_the_operator_from_the_status(serving, operator):
    running = serving()
    transport = running.connect("C1")
    transport.login(toy.PLAN, 30)
    largest = {"dice": 1.0, "loss": 1e30, "gain": -1e30, "least": 5e-324}
    transport.report_scores(0, largest)
    assert operator(running).status()["sites"]["C1"]["scores"] == {"0": largest}
    transport.close()


@pytest.mark.parametrize("value", [1.7e308, 1e39, 1.5, -0.1])
def test_a_score_out_of_its_range_is_refused_and_the_run_goes_on(opened, value):
    run, first, second = finished_rounds(opened, cross_site_evaluation=False)
    with pytest.raises(
        errors.PrivacyRefused, match=r"scores of site 'C1': dice is .*; expected 0 to 1"
    ):
        run.lead.report_scores("C1", 1, {"dice": value})
    for site in (first, second):
        run.lead.report_scores(site.name, 1, {"dice": 0.5})
    assert run.lead.drive()


def test_a_run_whose_store_holds_an_absurd_score_comes_to_its_end(opened):
    run, *_ = finished_rounds(opened, cross_site_evaluation=False)
    run.store.record_scores(1, "C1", {"dice": 1.7e308})
    run.store.record_scores(1, "C2", {"dice": 0.25})
    run = opened(num_rounds=1, cross_site_evaluation=False)
    assert run.lead.drive() and run.store.best_round() == 1


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("dice_pancreas", 1.7e308),
        ("dice_tumour", 1.01),
        ("hd95_mm_tumour", 1e9),
        ("volume_ml_pancreas", 1.7e308),
        ("nsd_tumour", -1.0),
    ],
)
def test_a_number_of_a_row_out_of_its_range_is_refused(opened, column, value):
    run, first, second = finished_rounds(opened)
    fixed_models(run, first, second)
    with pytest.raises(errors.PrivacyRefused, match=f"row 1: column '{column}' is .*; expected"):
        run.lead.submit_rows("C1", [{**first.row(), column: value}])


def test_one_site_lends_a_limited_number_of_models(opened):
    _, first, _ = finished_rounds(opened)
    for number in range(8):
        first.publish(f"C1_{number}", float(number))
    with pytest.raises(
        errors.ModelRefused, match="'C1_8' of site 'C1' is one too many; a site lends 8 at most"
    ):
        first.publish("C1_8")
    first.publish("C1_7", 9.0)  # another version of one that is there


def test_all_sites_together_lend_no_more_models_than_each_of_them_evaluates(opened, monkeypatch):
    """A site refuses a task with more, and the run would never end."""
    monkeypatch.setattr(uploads, "_MAX_MODELS", 7)
    _, *lenders = finished_rounds(opened)
    assert len(lenders) == 2
    for site in lenders:
        for number in range(3):
            site.publish(f"{site.name}_{number}", float(number))
        with pytest.raises(errors.ModelRefused, match="lends 3 at most in a run of 2 sites"):
            site.publish(f"{site.name}_3")


def test_places_that_no_site_takes_do_not_count(opened):
    _, *lenders = finished_rounds(opened, max_num_clients=100, wait_after_min_clients_s=0.0)
    for site in lenders:
        for number in range(8):
            site.publish(f"{site.name}_{number}", float(number))


def test_the_models_of_earlier_sites_count_where_the_run_has_grown(opened, monkeypatch):
    monkeypatch.setattr(uploads, "_MAX_MODELS", 10)
    _, first, second = finished_rounds(opened)
    for site in (first, second):
        for number in range(5):
            site.publish(f"{site.name}_{number}", float(number))
    run = opened(num_rounds=1, max_num_clients=3)
    with pytest.raises(errors.ModelRefused, match="is one too many"):
        Site(run, "C1").publish("C1_5")


def test_no_call_writes_much_to_the_log(opened):
    run, first, _ = finished_rounds(opened)
    first.publish("C1_FL_local")
    before = (run.folder / "events.jsonl").stat().st_size
    run.lead.declare_models("C1", ["C1_FL_local"] * 100_000)
    for _ in range(100):
        run.lead.declare_models("C1", ["C1_FL_local"])
        run.lead.report_scores("C1", 1, {"dice": 0.5})
    for number in range(100):
        with contextlib.suppress(errors.UpdateRefused):
            run.lead.report_scores("C1", 1, {"dice": number / 100})
    for _ in range(5000):
        run.lead.note_pulled("C1", "round_001", nbytes=2**20, seconds=0.1)
    assert (run.folder / "events.jsonl").stat().st_size - before < 250_000


def test_a_plan_that_cannot_be_read_is_one_short_refusal(serving, channel, kits, caplog):
    running = serving()
    metadata = conversion.credential_metadata(
        "C1", (kits / "C1" / "credential").read_text().strip()
    )
    login = channel(running, "C1").unary_unary(SERVICE + "Login")
    plans = [
        "[" * 200_000,
        '{"a":' * 40_000 + "1" + "}" * 40_000,
        json.dumps({f"k{i:06d}": i for i in range(20_000)}),
        " " * 10**6,
    ]
    with caplog.at_level("INFO"):
        for plan in plans:
            request = pb.LoginRequest(
                site="C1", plan_json=plan, num_examples=30, protocol=2
            ).SerializeToString()
            with pytest.raises(grpc.RpcError) as caught:
                login(request, metadata=metadata, timeout=30)
            assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert max(len(record.getMessage()) for record in caplog.records) < 3000
    assert "Traceback" not in caplog.text
