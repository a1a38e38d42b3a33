import errno
import json
import os
import shutil
import socket
import sqlite3
import ssl
import threading

import numpy as np
import pytest
from cryptography import x509

from federated import errors
from federated.audit import chain
from federated.rounds import tasks
from federated.security import certificates, provisioning
from federated.security.tls import Identity
from federated.server import config as server_config
from federated.server.serve import serve
from federated.site import grpc_transport
from federated.site import loop as site_loop
from federated.storage import store
from federated.tensors import tensor_files
from runkit import events
from tests.federated import toy


@pytest.fixture
def logged_in(serving):
    """A server and a transport for C1 that has a token."""
    running = serving()
    transport = running.connect("C1")
    transport.login(toy.PLAN, 30)
    yield running, transport
    transport.close()


def push(transport, path, round_number=1, num_examples=30):
    with tensor_files.TensorFile(path) as file:
        sha256 = tensor_files.file_digest(file)
    return transport.push(
        path, sha256, round_number=round_number, num_examples=num_examples, metrics={"loss": 0.5}
    )


def test_a_whole_federation_over_mutual_tls(serving, take_part):
    running = serving()
    trainers = {site: toy.ToyTrainer(site) for site in ("C1", "C2")}
    summaries = take_part({site: running.connect(site) for site in trainers}, trainers)
    assert all(summary.finished for summary in summaries.values())
    summary = running.join()
    assert (summary.finished, summary.rounds, summary.sites, summary.best_round, summary.rows) == (
        True,
        3,
        ("C1", "C2"),
        2,
        16,
    )
    for number, model in enumerate(toy.expected_globals(("C1", "C2"), 3)):
        arrays, _ = tensor_files.load(running.folder / "global" / f"round_{number:03d}.safetensors")
        for name, array in model.items():
            np.testing.assert_array_equal(arrays[name], array.astype(np.float32))
    logged = list(events.EventLog(running.folder / "events.jsonl").read())
    assert [e["round"] for e in logged if e["event"] == "aggregated"] == [1, 2, 3]
    assert {e["event"] for e in logged} >= {
        "login",
        "round_opened",
        "pulled",
        "scored",
        "pushed",
        "published",
        "models_fixed",
        "rows",
        "finished",
    }
    # No row may change its columns or values on the wire.
    rows = [json.loads(line) for line in (running.folder / "rows.jsonl").read_text().splitlines()]
    assert {"model", "site", "case", "grid", "volume_error_ml_pancreas", "dice_tumour"} == set(
        rows[0]
    ) and rows[0]["dice_tumour"] is None


def test_a_federation_with_one_transfer_at_a_time_makes_the_same_models(serving, take_part):
    running = serving(transfers_at_once=1)
    trainers = {site: toy.ToyTrainer(site) for site in ("C1", "C2")}
    take_part({site: running.connect(site) for site in trainers}, trainers)
    assert running.join().finished
    for number, model in enumerate(toy.expected_globals(("C1", "C2"), 3)):
        arrays, _ = tensor_files.load(running.folder / "global" / f"round_{number:03d}.safetensors")
        for name, array in model.items():
            np.testing.assert_array_equal(arrays[name], array.astype(np.float32))


def test_no_secret_and_no_path_is_logged_or_stored(serving, take_part, kits, tmp_path, caplog):
    running = serving(num_rounds=1, min_num_clients=1, max_num_clients=1)
    transport = running.connect("C1")
    tokens = []
    login = transport.login
    transport.login = lambda *given: tokens.append(login(*given)) or tokens[-1]
    with caplog.at_level("DEBUG"):
        take_part({"C1": transport}, {"C1": toy.ToyTrainer("C1")})
        running.join()
    written = (
        b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
        + caplog.text.encode()
    )
    assert b"dice_pancreas" in written and len(tokens) == 1
    for secret in (tokens[0].token, (kits / "C1" / "credential").read_text().strip()):
        assert secret.encode() not in written
    for line in (running.folder / "events.jsonl").read_text().splitlines():
        assert str(tmp_path) not in line


@pytest.mark.parametrize("named", [{"port": 1}, {"port": 0}, {}])
def test_a_port_that_the_kits_do_not_name_is_pointed_out(serving, kits, tmp_path, caplog, named):
    shutil.copytree(kits / "server", tmp_path / "server")
    book = json.loads((tmp_path / "server" / "credentials.json").read_text())
    del book["port"]
    (tmp_path / "server" / "credentials.json").write_text(json.dumps({**book, **named}))
    with caplog.at_level("WARNING"):
        serving(server_kit=tmp_path / "server")
    assert ("start it with --port=1" in caplog.text) == (named == {"port": 1})


def test_a_wrong_credential_is_one_clear_refusal(serving, kits, tmp_path):
    shutil.copytree(kits / "C1", tmp_path / "kit")
    (tmp_path / "kit" / "credential").write_text("x" * 43)
    running = serving()
    transport = running.connect("kit", folder=tmp_path)
    with pytest.raises(
        errors.WrongCredential, match="site 'C1' and its credential do not go together"
    ):
        site_loop.run(toy.ToyTrainer("C1"), transport, tmp_path / "journal")


def test_the_credential_of_one_site_with_the_certificate_of_another_is_refused(
    serving, kits, tmp_path
):
    shutil.copytree(kits / "C1", tmp_path / "kit")
    for name in ("site.pem", "site.key"):
        shutil.copy(kits / "C2" / name, tmp_path / "kit" / name)
    transport = serving().connect("kit", folder=tmp_path)
    with pytest.raises(
        errors.CertificateRefused, match="certificate is that of 'C2', not of site 'C1'"
    ):
        transport.login(toy.PLAN, 30)
    transport.close()


def test_every_difference_of_the_plan_is_listed(serving):
    transport = serving().connect("C1")
    many = {f"setting_{i:03d}": i for i in range(150)}
    with pytest.raises(errors.PlanDiffers) as caught:
        transport.login({**toy.PLAN, "patch": {"size": [8, 8, 8]}, **many}, 30)
    assert "patch.size: server [4, 4, 4], site [8, 8, 8]" in str(caught.value)
    assert all(
        f"setting_{i:03d}: server nothing, site {i}" in str(caught.value) for i in range(150)
    )
    transport.close()


def test_a_site_too_many_hears_which_sites_take_part(serving):
    running = serving(min_num_clients=1, max_num_clients=1)
    first, second = running.connect("C1"), running.connect("C2")
    first.login(toy.PLAN, 30)
    with pytest.raises(
        errors.FederationFull, match="'C2' is one too many: C1 take part and max_num_clients is 1"
    ):
        second.login(toy.PLAN, 10)
    first.login(toy.PLAN, 30)  # a site that takes part may log in again
    first.close()
    second.close()


def test_an_expired_token_is_refused_and_the_site_loop_logs_in_again(
    serving, clock, take_part, tmp_path
):
    running = serving(
        clock=clock, token_lifetime_s=100.0, num_rounds=2, min_num_clients=1, max_num_clients=1
    )

    def later(round_number):
        clock.now += 101.0

    summary = take_part(
        {"C1": running.connect("C1")}, {"C1": toy.ToyTrainer("C1", on_train=later)}
    )["C1"]
    assert summary.finished
    retries = [
        e
        for e in events.EventLog(tmp_path / "journal_C1" / "events.jsonl").read()
        if e["event"] == "retry"
    ]
    assert retries and {e["error"] for e in retries} == {"SessionExpired"}


def test_a_token_stays_good_when_the_server_restarts(serving):
    running = serving()
    transport = running.connect("C1")
    transport.login(toy.PLAN, 30)
    running.stop()
    with pytest.raises(errors.ServerUnreachable):
        transport.heart_beat()
    again = serving()
    assert again.port == running.port  # port 0 means the same port after a restart
    transport.close()
    fresh = again.connect("C1")
    fresh._token, fresh._poll_s = transport._token, 5.0
    assert fresh.next_task() == tasks.Task("train", round=1, model="round_000")
    fresh.close()


def test_a_server_of_another_authority_is_not_talked_to(serving, other_kits):
    transport = serving().connect("C1", folder=other_kits)
    with pytest.raises(errors.CertificateRefused, match="its certificate is not trusted"):
        transport.login(toy.PLAN, 30)
    transport.close()


def test_a_certificate_the_server_does_not_trust_is_reported_as_such(
    serving, kits, other_kits, tmp_path
):
    shutil.copytree(other_kits / "C1", tmp_path / "kit")
    shutil.copy(kits / "C1" / "ca.pem", tmp_path / "kit" / "ca.pem")
    transport = serving().connect("kit", folder=tmp_path)
    with pytest.raises(
        errors.CertificateRefused, match="the server refused this site's certificate"
    ):
        transport.login(toy.PLAN, 30)
    transport.close()


def test_a_name_that_the_servers_certificate_does_not_bear_is_refused(serving, tmp_path):
    elsewhere = provisioning.provision(tmp_path / "kits", "server.example", ("C1", "C2"), port=0)
    running = serving(server_kit=elsewhere / "server", host="0.0.0.0")
    with pytest.raises(errors.CertificateRefused, match="not trusted"):
        transport = running.connect("C1", folder=elsewhere, host="127.0.0.2")
        transport.login(toy.PLAN, 30)


def test_a_server_that_is_away_is_unreachable_not_refused(kits):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    transport = grpc_transport.connect(kits / "C1", host="127.0.0.1", port=port)
    with pytest.raises(errors.ServerUnreachable, match=f"127.0.0.1:{port}"):
        transport.login(toy.PLAN, 30)
    transport.close()


def test_a_port_in_use_is_one_error_with_its_number(serving, kits, initial, tmp_path):
    running = serving()
    config = server_config.ServerConfig(num_rounds=3, port=running.port, host="127.0.0.1")
    with pytest.raises(
        errors.PortInUse, match=f"port {running.port} on 127.0.0.1 is in use.*choose another port"
    ):
        serve(config, tmp_path / "second", kits / "server", initial, vocabulary=toy.VOCABULARY)
    assert not (tmp_path / "second" / "address.json").exists()


def test_two_servers_on_one_store_is_one_error(serving, kits, initial):
    running = serving()
    with pytest.raises(errors.StoreInUse):
        serve(
            server_config.ServerConfig(num_rounds=3, port=0),
            running.folder,
            kits / "server",
            initial,
            vocabulary=toy.VOCABULARY,
        )


@pytest.mark.parametrize("method", ["enrol", "session", "record_scores", "confirm", "finish"])
@pytest.mark.parametrize(
    "trouble",
    [
        sqlite3.OperationalError("database or disk is full"),
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    ],
    ids=["SQLite", "file"],
)
def test_a_site_learns_that_the_servers_disk_is_full_whatever_it_asked_and_tries_again(
    serving, take_part, tmp_path, monkeypatch, caplog, method, trouble
):
    done, failures = getattr(store.Store, method), [trouble] * 3

    def failing(self, *given, **named):
        if failures:
            raise failures.pop()
        return done(self, *given, **named)

    running = serving(num_rounds=1, min_num_clients=1, max_num_clients=1)
    monkeypatch.setattr(store.Store, method, failing)
    with caplog.at_level("INFO"):
        assert take_part({"C1": running.connect("C1")}, {"C1": toy.ToyTrainer("C1")})["C1"].finished
        assert running.join().finished and not failures
    assert not [record for record in caplog.records if record.exc_info]
    retries = [
        e["error"]
        for e in events.EventLog(tmp_path / "journal_C1" / "events.jsonl").read()
        if e["event"] == "retry"
    ]
    if method != "finish":  # without a request, only the server itself waits
        assert "StorageTrouble" in retries and set(retries) <= {"StorageTrouble"}
        assert (
            "the server cannot use its store (its disk is full); its operator must free space"
            in caplog.text
        )


def test_a_store_belongs_to_one_federation_and_takes_no_kit_of_another(serving, kits, other_kits):
    running = serving()
    running.stop()
    own, other = (
        certificates.spoken(Identity.of(kit / "server", "server").authority_fingerprint)
        for kit in (kits, other_kits)
    )
    with pytest.raises(
        errors.DifferentRun, match=f"authority is {own}; the authority of this kit is {other}"
    ):
        serving(server_kit=other_kits / "server")
    serving().stop()
    read = list(
        chain.read_chain(running.folder / "events.jsonl", authority_of(kits))
    )  # nothing of the other federation got into the log
    assert [record["event"] for record in read].count("started") == 2


def test_a_store_of_an_earlier_release_takes_the_authority_of_its_next_start(serving, other_kits):
    running = serving()
    running.stop()
    with sqlite3.connect(running.folder / "state.sqlite") as database:
        database.execute("DELETE FROM run WHERE key = 'authority'")
    serving().stop()
    with pytest.raises(errors.DifferentRun, match="the authority of this kit is"):
        serving(server_kit=other_kits / "server")


def test_the_log_says_with_which_settings_the_server_started(serving):
    running = serving(
        min_num_clients=1,
        max_num_clients=3,
        wait_after_min_clients_s=float("inf"),
        transport="deflate",
    )
    running.stop()
    started = next(events.EventLog(running.folder / "events.jsonl").read())
    assert started["event"] == "started"
    wanted = {
        "num_rounds": 3,
        "min_num_clients": 1,
        "max_num_clients": 3,
        "wait_after_min_clients_s": "inf",
        "transport": "deflate",
    }
    assert {name: started["settings"][name] for name in wanted} == wanted
    assert started["settings"].keys() == {
        name
        for name in server_config.ServerConfig.__dataclass_fields__
        if not name.startswith("secure_aggregation")  # it is off
    }


def authority_of(kits):
    return x509.load_pem_x509_certificate((kits / "server" / "ca.pem").read_bytes())


def test_a_minimum_that_the_kit_cannot_reach_is_refused(kits, initial, tmp_path):
    with pytest.raises(errors.FederationFull, match=r"min_num_clients is 4, but .* knows 3 sites"):
        serve(
            server_config.ServerConfig(num_rounds=1, min_num_clients=4, max_num_clients=4, port=0),
            tmp_path / "s",
            kits / "server",
            initial,
            vocabulary=toy.VOCABULARY,
        )


def test_a_model_of_another_genotype_is_refused_with_what_differs(logged_in, tmp_path):
    running, transport = logged_in
    other = {
        **toy.INITIAL,
        "stem/kernel": np.zeros((64, 2**15), np.float32),
    }  # 8 MiB that nobody reads
    del other["head/bias"]
    tensor_files.save(tmp_path / "other.safetensors", other)
    with pytest.raises(errors.IncompatibleWeights) as caught:
        push(transport, tmp_path / "other.safetensors")
    for line in (
        "update of site 'C1' for round 1",
        "2 tensors differ",
        "head/bias: missing",
        "stem/kernel: expected F32[2, 3], received F32[64, 32768]",
    ):
        assert line in str(caught.value)
    assert (
        list((running.folder / "spool").iterdir())
        == list((running.folder / "incoming").iterdir())
        == []
    )
    assert transport.next_task() == tasks.Task(
        "train", round=1, model="round_000"
    )  # nothing else has changed


@pytest.mark.parametrize(
    ("spoil", "kind", "message"),
    [
        (
            lambda path: push_with(np.nan),
            errors.UpdateRefused,
            "head/bias holds a value that is not finite",
        ),
        (
            lambda path: {"num_examples": 0},
            errors.UpdateRefused,
            "num_examples 0 for round 1; expected 30, the number it logged in with",
        ),
        (lambda path: {"num_examples": -5}, errors.UpdateRefused, "num_examples -5"),
        (
            lambda path: {"round_number": 2},
            errors.StaleUpdate,
            "'C1' sent round 2, round 1 is open",
        ),
    ],
    ids=["nan", "no examples", "negative", "round"],
)
def test_a_bad_update_is_refused_with_its_reason(logged_in, tmp_path, spoil, kind, message):
    running, transport = logged_in
    given = spoil(tmp_path)
    tensor_files.save(tmp_path / "update.safetensors", given.pop("arrays", toy.INITIAL))
    with pytest.raises(kind, match=message):
        push(transport, tmp_path / "update.safetensors", **given)
    assert (
        list((running.folder / "spool").iterdir())
        == list((running.folder / "incoming").iterdir())
        == []
    )


def push_with(value):
    return {"arrays": {**toy.INITIAL, "head/bias": np.array([value, 0], np.float32)}}


def test_the_same_bytes_again_give_the_same_receipt_even_when_the_round_is_over(
    logged_in, tmp_path
):
    running, transport = logged_in
    second = running.connect("C2")
    second.login(toy.PLAN, 10)
    tensor_files.save(tmp_path / "update.safetensors", toy.INITIAL)
    first = push(transport, tmp_path / "update.safetensors")
    assert push(transport, tmp_path / "update.safetensors") == first
    assert (first.site, first.what) == ("C1", "round_001")
    push(second, tmp_path / "update.safetensors", num_examples=10)
    assert transport.next_task().round == 2
    assert push(transport, tmp_path / "update.safetensors") == first
    with pytest.raises(errors.StaleUpdate):
        push(transport, tmp_path / "update.safetensors", num_examples=29)
    second.close()


def test_a_waiting_site_is_answered_as_soon_as_there_is_something_to_do(logged_in, tmp_path):
    running, transport = logged_in
    second = running.connect("C2")
    second.login(toy.PLAN, 10)
    tensor_files.save(tmp_path / "update.safetensors", toy.INITIAL)
    push(transport, tmp_path / "update.safetensors")
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(transport.next_task()))
    waiting.start()
    push(second, tmp_path / "update.safetensors", num_examples=10)
    waiting.join(30)
    assert answers == [tasks.Task("train", round=2, model="round_001")]
    second.close()


def test_many_megabytes_both_ways(serving, tmp_path):
    arrays = {
        f"layer_{i}": np.random.default_rng(i).normal(size=(300_000 + i,)).astype(np.float32)
        for i in range(6)
    }
    start = toy.write_initial(tmp_path / "large.safetensors", arrays=arrays)
    transport = serving(start=start, min_num_clients=1, max_num_clients=1).connect("C1")
    transport.login(toy.PLAN, 30)
    incoming = tmp_path / "incoming.safetensors"
    assert (
        transport.pull("round_000", incoming).nbytes
        == sum(array.nbytes for array in arrays.values())
        > 6 * 2**20
    )
    for name, array in arrays.items():
        np.testing.assert_array_equal(tensor_files.load(incoming)[0][name], array)
    push(transport, start)
    assert transport.next_task().round == 2
    transport.pull("round_001", incoming)
    np.testing.assert_array_equal(tensor_files.load(incoming)[0]["layer_5"], arrays["layer_5"])
    transport.close()


def test_connections_without_tls_or_with_an_old_version_are_refused(serving):
    running = serving()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", running.port), timeout=10) as plain:
        plain.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert plain.recv(100)[:1] != b"\0"  # no HTTP/2 frame comes back
    with pytest.warns(DeprecationWarning):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", running.port), timeout=10) as plain,
        pytest.raises((ssl.SSLError, OSError)),
    ):
        context.wrap_socket(plain)


def test_a_finished_store_is_served_to_its_end_at_once(serving, take_part):
    running = serving(num_rounds=1, min_num_clients=1, max_num_clients=1)
    take_part({"C1": running.connect("C1")}, {"C1": toy.ToyTrainer("C1")})
    first = running.join()
    assert serving(num_rounds=1, min_num_clients=1, max_num_clients=1).join() == first


@pytest.mark.parametrize(("mib", "expected"), [(16.0, "2"), (0.01, "3")])
def test_a_log_in_several_segments_makes_release_0_1_0_refuse_the_store(
    serving, take_part, mib, expected
):
    """That release compares the format, and would take the newest segment for the whole log."""
    running = serving(log_segment_mib=mib)
    trainers = {site: toy.ToyTrainer(site) for site in ("C1", "C2")}
    take_part({site: running.connect(site) for site in trainers}, trainers)
    running.join()
    assert (running.folder / "events").exists() == (expected == "3")

    def stored():
        opened = store.Store(running.folder)
        settings = opened._value("settings")
        opened.close()
        return settings

    assert stored()["format"] == expected
    opened = store.Store(running.folder)
    opened._set_value("settings", {**opened._value("settings"), "format": "2"})
    opened.close()  # as if the server had been killed before it noted the second segment
    serving(log_segment_mib=mib).stop()
    assert stored()["format"] == expected
