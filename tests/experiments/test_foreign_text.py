"""Foreign text through every input: programs print no control character and no forged line."""

import datetime
import json
import logging
import pathlib
import subprocess
import sys
import tempfile
import unicodedata

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID

from federated import errors
from federated.audit import log as audit_log
from federated.doctor import diagnosis
from federated.security import certificates, provisioning, report_filter
from federated.wire import conversion, operation_pb2
from preprocessing import rules
from tests import forked
from tests.experiments.foreign_text import LINE, NASTY
from tests.federated import fake_server, toy
from tests.federated.conftest import initial, kits, serving  # noqa: F401 - fixtures


def fresh(module, *flags):
    """Runs a program as a user starts it; Python itself prints an error that nobody catches."""
    command = [sys.executable, "-m", module, *flags]
    done = subprocess.run(command, cwd=forked.ROOT, capture_output=True, timeout=120, check=False)
    return done.returncode, done.stdout.decode("utf-8"), done.stderr.decode("utf-8")


def run(module, *flags):
    """Runs a program; its output is not changed, unlike that of `forked.run`."""
    with tempfile.TemporaryDirectory() as folder:
        out, errors = (pathlib.Path(folder) / name for name in ("stdout", "stderr"))
        code = forked.start(module, flags, out=out, errors=errors).wait(120)
        return code, out.read_bytes().decode("utf-8"), errors.read_bytes().decode("utf-8")


def clean(text):
    """Raises if a text contains terminal control sequences or a forged line."""
    for line in text.split("\n"):
        acting = [
            c
            for c in line
            if c != "\t" and unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"}
        ]
        assert not acting, (acting, line)
        assert not line.startswith(LINE), line
    return text


def printed(module, *flags, code=0, expect, run=run):
    """Returns a program's output after checking that it contains `expect`.

    The check shows that the foreign text did reach the output.
    """
    returned, out, err = run(module, *flags)
    assert returned == code, err
    whole = clean(out) + clean(err)
    assert expect in whole, whole
    return whole


@pytest.mark.parametrize(
    ("how", "code"),
    [("log", 0), ("error", 1), ("misbehaves", 76), ("thread", 0), ("nobody catches it", 1)],
)
def test_the_net_under_all_programs(how, code):
    program, flag = "tests.experiments.foreign_program", f"--how={how}"
    printed(program, flag, code=code, expect="desrever", run=fresh)


@pytest.fixture
def fake(tmp_path):
    return fake_server.FakeServer(tmp_path)


def _abort(kind):
    def refuse(request, context):
        context.set_trailing_metadata(((conversion.ERROR_KEY, kind),))
        context.abort(fake_server.grpc.StatusCode.INTERNAL, NASTY)

    return refuse


STATUS = {
    "run": NASTY, "phase": NASTY, "release": NASTY, "rounds_done": 1, "num_rounds": 2, "attempt": 1, "min_num_clients": 2,
    "open_round": 2, "best_round": 1, "model_bytes": 1, "disk_free_bytes": 1, "updates": [NASTY], "finished": False,
    "sites": {NASTY: {"num_examples": 1, "updates": 1, "refused": 0, "seconds_since_heard": 1, "bytes_received": 1, "bytes_sent": 1,
                      "scores": {"1": {"dice": 0.5}}, "state": NASTY, "doing": NASTY}},
    "rounds": [{"round": 1, "sites": {NASTY: NASTY}, "bytes": 1, "seconds": 1.0, "mean": 0.5, "worst": 0.5}],
    "warnings": [NASTY], "audit": {"lines": 1, "head": NASTY},
}  # fmt: skip


def test_what_a_server_tells_the_operator(fake, kits):  # noqa: F811
    fake.answers["Order"] = lambda request, context: operation_pb2.OrderReply(answer=NASTY)
    fake.answers["Status"] = lambda request, context: operation_pb2.StatusReply(
        status_json=json.dumps(STATUS)
    )
    with fake_server.serving(fake, kits / "server") as port:
        at = (f"--kit={kits / 'operator'}", f"--server=localhost:{port}")
        printed("experiments.operate", *at, "--order=pause", expect="desrever")
        printed("experiments.status", *at, expect="desrever")
        printed("experiments.status", *at, "--json", expect="desrever")
        fake.answers["Order"] = fake.answers["Status"] = _abort("OrderRefused")
        printed("experiments.operate", *at, "--order=pause", code=1, expect="desrever")
        printed("experiments.status", *at, code=1, expect="desrever")


def test_what_a_server_tells_the_doctor(fake, kits, tmp_path):  # noqa: F811
    with fake_server.serving(fake, kits / "server") as port:
        at = (f"--kit={kits / 'C1'}", f"--server=localhost:{port}")
        fake.answers["Probe"] = _abort("WrongCredential")
        printed("experiments.doctor", *at, code=1, expect="desrever")
        printed("experiments.doctor", *at, "--json", code=1, expect="desrever")

        def probe(request, context):
            reply = fake._probe(request, context)
            reply.release = reply.standing = NASTY
            return reply

        fake.answers["Probe"] = probe
        printed("experiments.doctor", *at, code=1, expect="sends a probe whose release is")


def _foreign_server(folder):
    """A server's kit whose certificate and authority have such names."""
    key, now = certificates.new_key(), datetime.datetime.now(datetime.timezone.utc)
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, NASTY[:60])])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    folder.mkdir()
    for file in ("ca.pem", "server.pem"):
        (folder / file).write_bytes(certificates.to_pem(certificate))
    (folder / "server.key").write_bytes(certificates.key_to_pem(key))
    return folder


def test_certificates_that_a_doctor_looks_at(fake, kits, tmp_path):  # noqa: F811
    with fake_server.serving(fake, _foreign_server(tmp_path / "foreign")) as port:
        printed(
            "experiments.doctor",
            f"--kit={kits / 'C1'}",
            f"--server=localhost:{port}",
            code=1,
            expect="it was issued by",
        )
    assert "\\x1b" in diagnosis.fault("server's certificate", NASTY, NASTY).remedy


def test_a_request_that_bears_such_a_name(tmp_path):
    folder = provisioning.provision(tmp_path / "kits", "localhost", ("C1",), port=0)
    request = tmp_path / "C9.csr"
    request.write_bytes(
        certificates.new_request("C9\x1b[2J\n\u202ex", certificates.new_key(), "0" * 64)
    )
    for flags in (["--list"], []):
        returned, out, err = run(
            "experiments.provision", f"--output={folder}", f"--requests={request}", *flags
        )
        assert "C9" in clean(out) + clean(err)
    assert returned == 1 and not (folder / "C9").exists()
    assert certificates.common_name(
        x509.CertificateBuilder(
            issuer_name=certificates._name("a"), subject_name=certificates._name("b\x1b"), public_key=certificates.new_key().public_key(),
            serial_number=1, not_valid_before=datetime.datetime(2020, 1, 1), not_valid_after=datetime.datetime(2030, 1, 1),
        ).sign(certificates.new_key(), hashes.SHA256())
    ) == "b\\x1b"  # fmt: skip


def test_a_log_that_an_auditor_was_given(tmp_path):
    log = audit_log.AuditLog(tmp_path / "events.jsonl")
    log.append(NASTY, site=NASTY, models=[NASTY])
    printed("experiments.audit", f"--store={tmp_path}", "--show", expect="desrever")


def test_names_of_files(tmp_path):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    bad = "\x1b[2Jred\u202edesrever\n" + LINE[:40] + ".nii.gz"
    (tmp_path / "labels" / bad).write_bytes(b"")
    flags = (
        f"--images={tmp_path / 'images'}",
        f"--labels={tmp_path / 'labels'}",
        f"--output={tmp_path / 'm.json'}",
        "--site=C1",
    )
    (tmp_path / "images" / "a.nii.gz").write_bytes(b"")
    printed("experiments.list_cases", *flags, expect="desrever")
    (tmp_path / "images" / bad).write_bytes(b"")
    returned, out, _ = run(
        "experiments.list_cases", *flags
    )  # a name that is no case id is changed, and told
    assert returned == 0 and "desrever" in clean(out)


def test_headers_of_scans():
    error = rules.broken(rules.NOT_CT, f"/scans/{NASTY}.dcm", f"holds no CT slices, but {NASTY}")
    assert "desrever" in clean(str(error)) and "\n" not in str(error) and "\n" not in error.problem


def test_names_of_scores_which_become_tags_of_a_tensorboard():
    with pytest.raises(errors.PrivacyRefused) as caught:
        report_filter.check_metrics({NASTY: 1.0}, what="scores")
    clean(str(caught.value))


def test_what_a_site_tells_the_server(serving, caplog, tmp_path):  # noqa: F811
    caplog.set_level(logging.INFO)
    transport = serving().connect("C1")
    transport.login(toy.PLAN, 30)
    for call in (
        lambda: transport.declare_models([NASTY, "x" * 100_000]),
        lambda: transport.pull(NASTY, tmp_path / "x.safetensors"),
        lambda: transport.report_scores(0, {NASTY: 1.0}),
        lambda: transport.submit_rows([{"model": NASTY, "site": NASTY, "case": 1, "grid": NASTY}]),
        lambda: transport.login({**toy.PLAN, NASTY: NASTY, "long": "x" * 10_000}, 30),
    ):
        with pytest.raises(errors.FederationError) as caught:
            call()
        assert "\n" not in clean(str(caught.value)) and len(str(caught.value)) < 9_000
    transport.close()
    lines = [record.getMessage() for record in caplog.records]
    assert sum("event=refused" in line for line in lines) >= 5
    for line in lines:
        assert "\n" not in clean(line) and len(line) < 2_000
