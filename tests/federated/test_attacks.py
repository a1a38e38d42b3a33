"""Attacks by callers with and without a certificate of the federation: none stops the run or
affects another site.
"""

import contextlib
import errno
import json
import os
import socket
import threading
import time

import grpc
import numpy as np
import pytest

from federated import errors
from federated.admin import client as admin_client
from federated.aggregation import spooled_updates
from federated.audit import backfill, verification
from federated.audit import log as audit_log
from federated.rounds import tasks
from federated.security.tls import Identity
from federated.server import serve
from federated.storage import store
from federated.tensors import codec, tensor_files
from federated.tensors.tensor_files import TensorFile
from federated.wire import conversion
from federated.wire import weight_exchange_pb2 as pb
from federated.wire.messages import Offer
from runkit import backoff
from tests.federated import toy
from tests.federated.server.test_coordinator import Site, scale

SERVICE = "/weight_exchange.WeightExchange/"


@pytest.fixture
def channel(serving, kits):
    """Opens raw channels of a site to a server that is running."""
    with contextlib.ExitStack() as stack:

        def open_(running, site):
            credentials = Identity.of(kits / site, "site").for_client()
            # A connection of its own: gRPC shares one among channels with the same settings.
            options = [
                *conversion.CHANNEL_OPTIONS,
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.max_send_message_length", -1),
            ]
            return stack.enter_context(
                grpc.secure_channel(f"localhost:{running.port}", credentials, options=options)
            )

        yield open_


@pytest.fixture
def operator(kits):
    with contextlib.ExitStack() as stack:

        def open_(running):
            kit = admin_client.Kit.read(kits / "operator", host="localhost", port=running.port)
            return stack.enter_context(admin_client.AdminClient(kit))

        yield open_


class HalfOpen:
    """A stream of requests that stays silent until it is told to end."""

    def __init__(self, *messages):
        self._messages, self.over = messages, threading.Event()

    def __iter__(self):
        yield from self._messages
        self.over.wait(60)


def hold(channel, method, metadata, *messages):
    """Opens a call that sends `messages` and then stays silent; returns its stream and the call."""
    silent = HalfOpen(*messages)
    call = channel.stream_stream(SERVICE + method)(iter(silent), metadata=metadata)
    return silent, call


def fails(call):
    """Returns the status with which a call ends."""
    with pytest.raises(grpc.RpcError) as caught:
        list(call)
    return caught.value.code()


@pytest.mark.parametrize("method", ["Login", "NextTask", "ReportScores", "Send", "SubmitRows"])
def test_half_open_calls_of_one_site_lock_nobody_out(serving, channel, operator, kits, method):
    running = serving(max_num_clients=3)
    hostile = running.connect("C3")
    token = hostile.login(toy.PLAN, 5).token
    secret = (kits / "C3" / "credential").read_text().strip()
    metadata = (
        conversion.credential_metadata("C3", secret)
        if method == "Login"
        else conversion.token_metadata(token)
    )
    raw = channel(running, "C3")
    held = [hold(raw, method, metadata) for _ in range(16)]
    try:
        honest = running.connect("C1")
        honest.login(toy.PLAN, 30)
        assert honest.next_task() == tasks.Task("train", round=1, model="round_000")
        assert set(operator(running).status()["sites"]) == {"C1", "C3"}
        assert operator(running).order("evict", "C3").startswith("C3 is evicted")
        honest.close()
    finally:
        for silent, _ in held:
            silent.over.set()
    hostile.close()


def test_a_site_with_too_many_calls_is_told_so_and_tries_again(serving, channel):
    running = serving()
    transport = running.connect("C1")
    metadata = conversion.token_metadata(transport.login(toy.PLAN, 30).token)
    raw = channel(running, "C1")
    held = [hold(raw, "Send", metadata) for _ in range(12)]
    try:
        refused = next(call for _, call in held[6:] if _ended(call))
        assert fails(refused) == grpc.StatusCode.RESOURCE_EXHAUSTED
        with pytest.raises(errors.TooManyCalls, match="'C1' has 6 calls in progress"):
            transport.heart_beat()
        assert errors.TooManyCalls in errors.RETRYABLE
    finally:
        for silent, _ in held:
            silent.over.set()
    transport.close()


def _ended(call, seconds=10):
    over = threading.Event()
    return not call.add_callback(over.set) or over.wait(seconds)


def _soon(condition, seconds=10):
    """Returns whether a condition that depends on another thread becomes true in time."""
    pause, deadline = threading.Event(), time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        pause.wait(0.01)
    return condition()


def test_evicting_a_site_ends_its_calls_and_its_upload_does_not_count(
    serving, channel, operator, tmp_path
):
    running = serving(min_num_clients=1, max_num_clients=2)
    honest, hostile = running.connect("C1"), running.connect("C2")
    honest.login(toy.PLAN, 30)
    metadata = conversion.token_metadata(hostile.login(toy.PLAN, 10).token)
    path = tmp_path / "update.safetensors"
    offer = Offer(tensor_files.save_as(path, toy.INITIAL), round=1, num_examples=10)
    header = pb.ModelPart(header=conversion.header_to_message(offer)).SerializeToString()
    silent, call = hold(channel(running, "C2"), "Send", metadata, header)
    try:
        assert not _ended(call, 0.2)
        operator(running).order("evict", "C2")
        assert _ended(call) and call.code() == grpc.StatusCode.CANCELLED
    finally:
        silent.over.set()
    assert _soon(
        lambda: not list((running.folder / "incoming").iterdir())
    )  # the handler tidies up after the caller has heard
    assert operator(running).status()["updates"] == []
    honest.close()
    hostile.close()


def test_a_caller_is_verified_again_when_its_upload_ends(opened):
    run = opened(min_num_clients=1, max_num_clients=2)
    site = Site(run, "C2")
    token = run.lead.login("C2", "secret of C2", toy.PLAN, 10).token
    path, offer = site.offer(5.0, round=1, num_examples=10)

    def chunks_and_then_an_eviction(file):
        yield from codec.chunks(file)
        run.lead.orders.evict("C2")

    with TensorFile(path) as file, pytest.raises(errors.SessionExpired):
        run.lead.send(
            "C2",
            offer,
            chunks_and_then_an_eviction(file),
            verify=lambda: run.lead.check_token(token),
        )
    assert run.store.counted(1) == frozenset() and list((run.folder / "spool").iterdir()) == []


def finished_rounds(opened, **settings):
    """A run whose only round is over, and its two sites."""
    run = opened(num_rounds=1, **settings)
    sites = Site(run, "C1"), Site(run, "C2")
    for site in sites:
        site.push(1)
    run.lead.advance()
    return run, *sites


def fixed_models(run, *sites):
    for site in sites:
        run.lead.report_scores(site.name, 1, {"dice": 0.5})
        site.publish(f"{site.name}_FL_local")
        run.lead.declare_models(site.name, [f"{site.name}_FL_local"])
    run.lead.advance()


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
            caught.value.code() == grpc.StatusCode.DATA_LOSS
            and "bytes came where" in caught.value.details()
        )
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


def test_two_sites_bound_each_other_from_the_first_round(opened):
    run = opened(num_rounds=5, min_num_clients=2, max_num_clients=2)
    hostile, honest = Site(run, "C1"), Site(run, "C2")
    with pytest.raises(errors.UpdateRefused, match="changes the model by"):
        hostile.push(1, 3e38)
    for number in (1, 2, 3, 4, 5):
        hostile.push(number, 3.0)
        for value in (10.0, 15.0 * 5**number):  # as far as it goes
            with contextlib.suppress(errors.UpdateRefused):
                hostile.push(number, value)
        honest.push(number, 2.0)
        run.lead.advance()
        assert abs(scale(run, number)) < 20


def test_a_hostile_site_that_sends_tiny_changes_excludes_no_other_site(opened):
    run = opened(num_rounds=3, min_num_clients=2, max_num_clients=2)
    _, honest = Site(run, "C1"), Site(run, "C2")
    for number in (1, 2, 3):
        before = tensor_files.load(run.store.global_path(number - 1))[0]
        path = run.folder / "same.safetensors"
        offer = Offer(tensor_files.save_as(path, before), round=number, num_examples=30)
        with TensorFile(path) as file:
            run.lead.send("C1", offer, codec.chunks(file))
        honest.push(number, 2.0 + number)
        run.lead.advance()
    assert max(run.store.globals()) == 3


def test_the_number_of_cases_is_that_of_the_login_unless_the_operator_allows_another(opened):
    run = opened(min_num_clients=1, max_num_clients=2)
    site = Site(run, "C1")
    with pytest.raises(
        errors.UpdateRefused,
        match="num_examples 3000 for round 1; expected 30, the number it logged in with",
    ):
        site.push(1, num_examples=3000)
    with pytest.raises(
        errors.UpdateRefused, match="logs in with 3000 training cases, and with 30 before"
    ):
        run.lead.login("C1", "secret of C1", toy.PLAN, 3000)
    run.lead.orders.readmit("C1")
    run.lead.login("C1", "secret of C1", toy.PLAN, 3000)
    site.push(1, num_examples=3000)


def test_an_evicted_sites_models_scores_and_rows_go(opened):
    run, first, second = finished_rounds(opened, min_num_clients=1)
    for site in (first, second):
        run.lead.report_scores(site.name, 1, {"dice": 1.0 if site is second else 0.5})
    run.lead.report_scores("C2", 0, {"dice": 1.0})
    fixed_models(run, first, second)
    rows = [first.row(model) for model in run.store.fixed_models()]
    assert {row["model"] for row in rows} == {
        "C1_FL_local",
        "C2_FL_local",
        "FL_global",
        "FL_best_global",
    }
    run.lead.submit_rows("C1", rows)
    run.lead.orders.evict("C2")
    assert run.store.fixed_models() == ("C1_FL_local", "FL_global", "FL_best_global")
    assert list((run.folder / "models").iterdir()) == [run.store.model_path("C1_FL_local")]
    lines = (run.folder / "rows.jsonl").read_text().splitlines()
    assert {json.loads(line)["model"] for line in lines} == {
        "C1_FL_local",
        "FL_global",
        "FL_best_global",
    }
    assert run.lead.drive()


def test_a_site_that_evaluates_while_another_is_evicted_may_report_what_it_has(opened):
    run, first, second = finished_rounds(opened, min_num_clients=1)
    fixed_models(run, first, second)
    rows = [first.row(model) for model in run.store.fixed_models()]
    run.lead.orders.evict("C2")
    run.lead.submit_rows("C1", rows)
    assert {
        row["model"]
        for row in map(json.loads, (run.folder / "rows.jsonl").read_text().splitlines())
    } == {
        "C1_FL_local",
        "FL_global",
        "FL_best_global",
    }


def test_one_site_lends_a_limited_number_of_models(opened):
    _, first, _ = finished_rounds(opened)
    for number in range(8):
        first.publish(f"C1_{number}", float(number))
    with pytest.raises(
        errors.ModelRefused, match="'C1_8' of site 'C1' is one too many; a site lends 8 at most"
    ):
        first.publish("C1_8")
    first.publish("C1_7", 9.0)  # another version of one that is there


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
            assert caught.value.code() in (
                grpc.StatusCode.FAILED_PRECONDITION,
                grpc.StatusCode.DATA_LOSS,
            )
    assert max(len(record.getMessage()) for record in caplog.records) < 3000
    assert "Traceback" not in caplog.text


def test_a_site_keeps_only_its_newest_sessions(opened):
    run = opened()
    tokens = [run.lead.login("C1", "secret of C1", toy.PLAN, 30).token for _ in range(30)]
    assert run.store._one("SELECT COUNT(*) FROM sessions") == (8,)
    assert run.lead.site_of(tokens[-1]) == "C1"
    with pytest.raises(errors.SessionExpired):
        run.lead.site_of(tokens[0])


def test_an_expired_certificate_does_not_log_in_again_over_an_open_connection(serving, clock):
    running = serving(clock=clock)
    transport = running.connect("C1")
    session = transport.login(toy.PLAN, 30)
    transport.heart_beat()
    clock.now += 10 * 365 * 86400 + 2_000_000_000  # the connection stays as it is
    with pytest.raises(errors.SessionExpired):
        transport.heart_beat()
    with pytest.raises(
        errors.CertificateOutOfDate, match="the certificate of site 'C1' has ended; renew it"
    ):
        transport.login(toy.PLAN, 30)
    assert session.expires_at < clock.now
    transport.close()


def test_a_token_ends_with_its_certificate(opened, clock):
    run = opened()
    session = run.lead.login("C1", "secret of C1", toy.PLAN, 30, certificate_ends=clock.now + 60)
    assert session.expires_at == clock.now + 60
    clock.now += 60
    with pytest.raises(errors.SessionExpired):
        run.lead.site_of(session.token)
    with pytest.raises(errors.CertificateOutOfDate):
        run.lead.login("C1", "secret of C1", toy.PLAN, 30, certificate_ends=clock.now)


@pytest.mark.parametrize(
    "place",
    [
        "events.jsonl",
        "global/round_001.safetensors",
        "incoming/C1.0.safetensors",
        "models/x",
        "spool",
    ],
)
def test_a_link_in_a_store_is_refused_by_name(tmp_path, place):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    folder = tmp_path / "store"
    store.Store(folder).close()
    path = folder / place
    if path.is_dir():
        path.rmdir()
    path.symlink_to(elsewhere, target_is_directory=True)
    with pytest.raises(ValueError, match=rf"{place.split('/')[-1]}.*is a symbolic link"):
        store.Store(folder)
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize(
    "number", [errno.EMFILE, errno.EIO, errno.EACCES, errno.ENOMEM, errno.ENOSPC]
)
def test_an_error_of_the_system_drops_no_update_and_the_run_goes_on_by_itself(
    opened, monkeypatch, number
):
    run = opened(num_rounds=1, cross_site_evaluation=False)
    sites = Site(run, "C1"), Site(run, "C2")
    receipts = [site.push(1, value) for site, value in zip(sites, (1.0, 5.0), strict=True)]
    monkeypatch.setattr(backoff, "pauses", lambda first_s: iter(lambda: 0.01, None))
    failures = iter(range(6))
    real = tensor_files.open if hasattr(tensor_files, "open") else open

    def failing(path, *given, **named):
        if "spool" in str(path) and next(failures, None) is not None:
            raise OSError(number, os.strerror(number), str(path))
        return real(path, *given, **named)

    monkeypatch.setattr(tensor_files, "open", failing, raising=False)
    monkeypatch.setattr(
        spooled_updates.TensorFileWriter,
        "finish",
        _failing_once(spooled_updates.TensorFileWriter.finish, number),
    )
    driving = threading.Thread(target=run.lead.drive)
    driving.start()
    try:
        while run.lead.next_task("C1", wait_s=20.0).kind == "wait":
            assert driving.is_alive()
    finally:
        run.lead.stop()
        driving.join()
    assert scale(run, 1) == 2.0 and len(receipts) == 2
    assert next(failures, None) is None


def _failing_once(real, number):
    left = [1]

    def finish(*given, **named):
        if left:
            left.pop()
            raise OSError(number, os.strerror(number))
        return real(*given, **named)

    return finish


def test_an_update_whose_content_is_lost_is_asked_for_again(opened):
    run = opened(num_rounds=1)
    sites = Site(run, "C1"), Site(run, "C2")
    for site in sites:
        site.push(1)
    next((run.folder / "spool").glob("*.C2.*")).unlink()
    run.lead.advance()
    assert sites[1].task() == tasks.Task("train", round=1, model="round_000")
    assert sites[0].task().kind == "wait"


def test_a_log_that_cannot_be_written_fails_no_request_and_is_completed(opened, monkeypatch):
    run = opened(num_rounds=1, cross_site_evaluation=False)
    sites = Site(run, "C1"), Site(run, "C2")
    with monkeypatch.context() as broken:
        broken.setattr(type(run.lead._events), "append", _no_space)
        for site in sites:
            site.push(1)
    run.lead.advance()
    events = [
        json.loads(line)["event"] for line in (run.folder / "events.jsonl").read_text().splitlines()
    ]
    assert events[-4:].count("pushed") == 2 and "aggregated" in events
    assert events.index("aggregated") > max(
        i for i, event in enumerate(events) if event == "pushed"
    )


def _no_space(*given, **named):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_idle_connections_neither_stop_the_server_nor_hold_it(serving, operator, tmp_path):
    running = serving(num_rounds=1, cross_site_evaluation=False)
    idle = []
    try:
        for _ in range(600):
            idle.append(socket.create_connection(("127.0.0.1", running.port), timeout=10))
        assert operator(running).status()["phase"] == "rounds"  # places are made
        for site, value in (("C1", 1.0), ("C2", 5.0)):
            transport = running.connect(site)
            transport.login(toy.PLAN, toy.EXAMPLES[site])
            path = tmp_path / f"{site}.safetensors"
            sha256 = tensor_files.save(
                path, {name: np.full_like(array, value) for name, array in toy.INITIAL.items()}
            )
            transport.push(
                path, sha256, round_number=1, num_examples=toy.EXAMPLES[site], metrics={}
            )
            transport.close()
        assert operator(running).status()["rounds_done"] >= 0
    finally:
        for held in idle:
            held.close()


def test_the_server_raises_its_limit_of_open_files_where_it_may():
    resource = pytest.importorskip("resource")

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
        assert serve._places(300) == (
            300 if hard == resource.RLIM_INFINITY or hard >= 812 else max(hard - 512, hard // 3)
        )
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == (
            812 if hard == resource.RLIM_INFINITY else min(812, hard)
        )
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_round_can_be_discarded_and_is_made_again(opened):
    run = opened(num_rounds=3, min_num_clients=2)
    first, second = Site(run, "C1"), Site(run, "C2")
    for number in (1, 2):
        first.push(number, 1.0)
        second.push(number, 5.0 if number == 1 else 9.0)
        run.lead.advance()
    first.push(3, 1.0)
    run.lead.report_scores("C1", 2, {"dice": 0.9})
    with pytest.raises(
        errors.OrderRefused, match="round 3 cannot be discarded: rounds 1 to 2 are done"
    ):
        run.lead.orders.discard_round(3)
    run.lead.orders.discard_round(2)
    assert list(run.store.globals()) == [0, 1] and list((run.folder / "spool").iterdir()) == []
    assert (
        not (run.folder / "global" / "round_002.safetensors").exists()
        and 2 not in run.store.scores()
    )
    assert (
        first.task()
        == second.task()
        == tasks.Task("train", round=2, model="round_001", discarded=1)
    )
    for site in (first, second):
        site.push(2, 3.0)
    run = opened(num_rounds=3, min_num_clients=2)  # after a restart, too
    run.lead.advance()
    assert scale(run, 2) == 3.0


def test_sites_follow_a_run_that_goes_back_and_the_audit_knows_of_it(serving, operator, take_part):
    running = serving(num_rounds=4, cross_site_evaluation=True)
    answers = []

    def on_train(number):
        if number == 3 and not answers:
            answers.append(operator(running).order("discard_round", round_number=2))

    trainers = {"C1": toy.ToyTrainer("C1", on_train=on_train), "C2": toy.ToyTrainer("C2")}
    take_part({site: running.connect(site) for site in trainers}, trainers)
    assert running.join().finished and answers == [
        "back to global model 1: round 2 is open again, and every site trains it again"
    ]
    assert trainers["C1"].calls.count("train 2") == 2
    for number, model in enumerate(toy.expected_globals(("C1", "C2"), 4)):
        arrays, _ = tensor_files.load(running.folder / "global" / f"round_{number:03d}.safetensors")
        for name, array in model.items():
            np.testing.assert_array_equal(arrays[name], array.astype(np.float32))
    found = verification.verify(running.folder)
    assert (found.rounds, found.discarded, found.rows, found.models) == (
        (1, 2, 3, 4),
        (2,),
        ("C1", "C2"),
        ("C1_baseline", "C2_baseline"),
    )
    assert found.best_round == running.join().best_round


def test_a_run_whose_sites_have_finished_cannot_go_back(opened):
    run, first, second = finished_rounds(opened)
    fixed_models(run, first, second)
    run.lead.submit_rows("C1", [first.row()])
    with pytest.raises(
        errors.OrderRefused, match="round 1 cannot be discarded: C1 has finished its part"
    ):
        run.lead.orders.discard_round(1)


def test_a_hostile_site_that_hurries_to_finish_does_not_keep_the_run_from_going_back(opened):
    run, first, second = finished_rounds(
        opened, min_num_clients=2, max_num_clients=3, wait_after_min_clients_s=0.0
    )
    assert Site(run, "C3").task().kind == "finished"  # it never trained
    fixed_models(run, first, second)
    run.lead.submit_rows("C2", [second.row()])
    for name in ("C2", "C3"):
        with pytest.raises(
            errors.OrderRefused, match=f"round 1 cannot be discarded: .*{name}.* finished its part"
        ):
            run.lead.orders.discard_round(1)
        run.lead.orders.evict(name)
    run.lead.orders.discard_round(1)
    run.lead.orders.readmit("C2")
    assert (
        first.task()
        == Site(run, "C2").task()
        == tasks.Task("train", round=1, model="round_000", discarded=1)
    )


@pytest.mark.parametrize("moment", ["lending", "evaluation"])
def test_sites_that_lend_or_evaluate_follow_a_run_that_goes_back(
    serving, operator, take_part, moment
):
    running = serving(max_num_clients=2)
    answers, only = [], threading.Lock()

    def go_back():
        with only:
            if not answers:
                answers.append(operator(running).order("discard_round", round_number=3))

    class Trainer(toy.ToyTrainer):
        def local_models(self):
            if moment == "lending":
                go_back()
            return super().local_models()

        def evaluate(self, model_name, weights):
            if (
                moment == "evaluation" and model_name == "FL_best_global"
            ):  # the last one: rows are sent next
                go_back()
            return super().evaluate(model_name, weights)

    take_part(
        {site: running.connect(site) for site in ("C1", "C2")},
        {site: Trainer(site) for site in ("C1", "C2")},
    )
    assert running.join().finished and len(answers) == 1
    found = verification.verify(running.folder)
    assert (found.rounds, found.discarded, found.rows) == ((1, 2, 3), (3,), ("C1", "C2"))


def closed_rounds(run, sites, numbers, value=1.0):
    for number in numbers:
        for site in sites:
            site.push(number, value)
        run.lead.advance()


def test_an_update_of_a_discarded_model_does_not_count_when_its_round_is_open_again(opened):
    run = opened(num_rounds=4, min_num_clients=2, max_num_clients=3, wait_after_min_clients_s=0.0)
    first, second, slow = (Site(run, name) for name in ("C1", "C2", "C3"))
    closed_rounds(run, (first, second), (1, 2))
    assert slow.task() == tasks.Task("train", round=3, model="round_002")
    run.lead.orders.discard_round(2)
    closed_rounds(run, (first, second), (2,))
    with pytest.raises(
        errors.StaleUpdate, match="'C3' trained round 3 before the operator took the run back"
    ):
        slow.push(3, discarded=0)
    assert slow.task() == tasks.Task("train", round=3, model="round_002", discarded=1)
    assert slow.push(3, discarded=1).what == "round_003"


def test_an_upload_that_began_before_its_model_was_discarded_is_not_measured_against_that_model(
    opened,
):
    run = opened(num_rounds=4, min_num_clients=2, max_num_clients=3, wait_after_min_clients_s=0.0)
    first, second, hostile = (Site(run, name) for name in ("C1", "C2", "C3"))
    closed_rounds(run, (first, second), (1,))
    closed_rounds(run, (first, second), (2,), 6.0)
    path, offer = hostile.offer(20.0, round=3, num_examples=5)

    def chunks(file):
        run.lead.orders.discard_round(2)
        closed_rounds(run, (first, second), (2,))
        yield from codec.chunks(file)

    with TensorFile(path) as file:
        with pytest.raises(
            errors.StaleUpdate, match="'C3' for round 3 came while the operator took the run back"
        ):
            run.lead.send("C3", offer, chunks(file))
        with pytest.raises(errors.UpdateRefused, match="it changes the model by 57"):
            run.lead.send("C3", offer, codec.chunks(file))


class Killed(BaseException):
    """Stands for a kill."""


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), Killed()])
def test_a_discarded_model_is_gone_though_its_files_could_not_be_moved(opened, monkeypatch, error):
    settings = {"num_rounds": 4, "min_num_clients": 2, "max_num_clients": 2, "keep_updates": 9}
    run = opened(**settings)
    sites = [Site(run, name) for name in ("C1", "C2")]
    closed_rounds(run, sites, (1, 2, 3), 2.0)
    with monkeypatch.context() as broken, contextlib.suppress(Killed):
        broken.setattr(store.Store, "_discard", lambda self, path: raising(error))
        run.lead.orders.discard_round(3)
    if isinstance(error, Killed):
        run = opened(**settings)
        sites = [Site(run, name) for name in ("C1", "C2")]
    assert {site.task() for site in sites} == {
        tasks.Task("train", round=3, model="round_002", discarded=1)
    }
    assert run.lead.orders.status()["best_round"] == 2
    closed_rounds(run, sites, (3,), 1.0)
    assert scale(run, 3) == tensor_files.load(run.folder / "best.safetensors")[0]["scale"] == 1.0
    if isinstance(
        error, Killed
    ):  # else the updates that were left lie beside those of the new round: no harm is done
        assert len(list((run.folder / "kept" / "round_003").iterdir())) == 2


def raising(error):
    raise error


def test_no_update_is_confirmed_for_a_round_that_the_store_has_closed(opened, monkeypatch):
    run = opened(num_rounds=3, min_num_clients=2, max_num_clients=3, wait_after_min_clients_s=0.0)
    first, second, late = (Site(run, name) for name in ("C1", "C2", "C3"))
    for site in (first, second):
        site.push(1)
    with monkeypatch.context() as full:
        full.setattr(
            store.Store,
            "keep_selection",
            lambda *given: raising(OSError(errno.ENOSPC, "No space left on device")),
        )
        with pytest.raises(OSError, match="No space left"):
            run.lead.advance()
        with pytest.raises(errors.StorageTrouble, match="the site tries again by itself"):
            late.push(1)
    run.lead.advance()
    with pytest.raises(errors.StaleUpdate, match="'C3' sent round 1, round 2 is open"):
        late.push(1)
    assert run.store.counted(1) == {"C1", "C2"} and run.lead.orders.status()["best_round"] == 1


def test_a_site_that_was_evicted_and_readmitted_lends_its_models_again(
    serving, operator, take_part
):
    running = serving(num_rounds=1, max_num_clients=2)
    let_in_again = threading.Event()

    class Trainer(toy.ToyTrainer):
        def local_models(self):
            if self.site == "C1":  # until then the models to evaluate cannot be fixed
                assert let_in_again.wait(60)
                return super().local_models()
            return {"C2_one": toy.INITIAL, "C2_two": toy.INITIAL}

    class Transport:
        def __init__(self, inner):
            self._inner = inner

        def __getattr__(self, name):
            return getattr(self._inner, name)

        def declare_models(self, names):
            if not let_in_again.is_set():
                for order in ("evict", "admit"):
                    operator(running).order(order, "C2")
                let_in_again.set()
            return self._inner.declare_models(names)

    transports = {"C1": running.connect("C1"), "C2": Transport(running.connect("C2"))}
    take_part(transports, {site: Trainer(site) for site in transports})
    assert running.join().finished
    assert set(verification.verify(running.folder).models) == {"C1_baseline", "C2_one", "C2_two"}


def test_an_eviction_cut_short_by_a_kill_counts_and_is_in_the_log(opened, monkeypatch, tmp_path):
    settings = {"num_rounds": 2, "min_num_clients": 3, "max_num_clients": 3}
    run = opened(**settings)
    for name in ("C1", "C2"):
        Site(run, name).push(1)
    with monkeypatch.context() as killed, contextlib.suppress(Killed):
        killed.setattr(store.Store, "forget_update", lambda self, update: raising(Killed()))
        run.lead.orders.evict("C2")
    run = opened(**settings)
    assert run.lead.orders.status()["updates"] == ["C1"]
    log = audit_log.AuditLog(tmp_path / "events.jsonl")
    for evicted, told in ((True, "evicted"), (False, "readmitted")):
        run.store.evict("C2", evicted)
        backfill.complete(log, run.store)
        backfill.complete(log, run.store)
        told_of = [record["event"] for record in log.read() if record.get("site") == "C2"]
        assert told_of[-1] == told and told_of.count(told) == 1


def test_models_of_an_evicted_site_leave_the_store_and_the_evaluation_in_one_step(
    opened, monkeypatch
):
    run, first, second = finished_rounds(opened)
    fixed_models(run, first, second)
    assert "C2_FL_local" in run.store.fixed_models()
    with monkeypatch.context() as killed, contextlib.suppress(Killed):
        killed.setattr(store.Store, "fix_models", lambda *given: raising(Killed()))
        run.lead.orders.evict("C2")
    assert "C2_FL_local" not in run.store.models() and "C2_FL_local" not in run.store.fixed_models()


def test_where_few_files_may_be_open_there_are_fewer_places_for_connections(monkeypatch):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (240, 240))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: None)
    assert serve._places(300) == 80


def test_updates_that_are_refused_again_and_again_do_not_hold_a_round_open(opened, clock):
    run = opened(min_num_clients=2, max_num_clients=3, wait_after_min_clients_s=10.0)
    first, second, hostile = (Site(run, name) for name in ("C1", "C2", "C3"))

    def refused():
        run.lead.offer("C3", hostile.offer(1e9, round=1, num_examples=5)[1])
        with pytest.raises(errors.UpdateRefused, match="it changes the model by"):
            hostile.push(1, 1e9)

    refused()
    first.push(1)
    second.push(1)
    for _ in range(3):
        clock.now += 4.0
        refused()
    run.lead.advance()
    assert first.task().round == 2
