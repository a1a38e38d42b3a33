"""A site, an operator's machine and a server are examined from beginning to end."""

import json
import shutil
import socket

from federated.doctor import connection_checks, examination
from federated.doctor import diagnosis as doctor
from federated.security import provisioning
from runkit import atomic
from tests.federated import toy
from tests.federated.doctor.planted import listening, one, only_fault, site, tls_treatment


def test_a_healthy_site_passes_every_check(serving, kits, tmp_path):
    running = serving()
    findings = site(kits / "C1", running.port, folder=tmp_path / "site", plan=toy.PLAN, site="C1")
    assert all(finding.state == "good" for finding in findings), doctor.table(findings)
    assert [
        finding.check for finding in findings if finding.check in connection_checks._STEPS
    ] == list(connection_checks._STEPS)
    assert (
        len(running.folder.joinpath("events.jsonl").read_text().splitlines()) == 2
    )  # looked at, not logged in


def test_the_operators_machine_is_examined_in_the_same_way(serving, kits):
    findings = site(kits / "operator", serving().port)
    assert doctor.is_well(findings) and one(findings, "server").found == "knows the operator"


def machine(kits, **named):
    return examination.of_server(
        kits / "server", **{"port": free_port(), "listen": "127.0.0.1", "open_files": 4096, **named}
    )


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


def test_a_healthy_server_passes_whether_or_not_it_is_running(serving, kits, initial, tmp_path):
    findings = machine(kits, store=tmp_path / "new", initial_model=initial)
    assert all(finding.state == "good" for finding in findings), doctor.table(findings)
    running = serving()
    findings = machine(kits, port=running.port, store=running.folder, initial_model=initial)
    assert all(finding.state == "good" for finding in findings), doctor.table(findings)
    assert "is running" in one(findings, "port").found


def test_another_program_has_the_port(kits, other_kits):
    with listening(tls_treatment(other_kits / "server")) as port:
        only_fault(
            machine(kits, port=port), "port", f"another program is listening on {port}", "ss -ltnp"
        )


def test_the_initial_model_has_no_plan(kits, tmp_path):
    from federated.tensors import tensor_files

    tensor_files.save(tmp_path / "initial.safetensors", toy.INITIAL)
    only_fault(
        machine(kits, initial_model=tmp_path / "initial.safetensors"),
        "initial model",
        "no plan",
        "experiments.init_model",
    )
    (tmp_path / "initial.safetensors").write_bytes(b"nothing")
    only_fault(
        machine(kits, initial_model=tmp_path / "initial.safetensors"),
        "initial model",
        "not a whole",
        "experiments.init_model",
    )


def test_a_name_in_the_certificate_cannot_be_looked_up(tmp_path):
    federation = provisioning.provision(tmp_path / "federation", "no-such-host.invalid", ("C1",))
    finding = one(
        examination.of_server(federation / "server", port=free_port(), listen="127.0.0.1"), "names"
    )
    assert finding.state == "warning" and "no-such-host.invalid" in finding.found


def test_no_site_may_log_in(tmp_path):
    federation = provisioning.provision(tmp_path / "federation", "localhost", ("C1",))
    provisioning.revoke(federation, ["C1"])
    findings = examination.of_server(federation / "server", port=free_port(), listen="127.0.0.1")
    only_fault(findings, "sites", "no site may log in", "--add=")


def test_too_few_files_may_be_open(kits):
    assert one(machine(kits, open_files=64), "open files").state == "warning"


def test_the_store_has_no_room_for_a_run(kits, initial, tmp_path):
    findings = machine(
        kits,
        store=tmp_path,
        initial_model=initial,
        disk_usage=lambda _: shutil._ntuple_diskusage(1, 1, 10),
    )
    only_fault(findings, "store, room", "10 B free", "free space")


def test_the_probe_is_no_login(serving, kits):
    running = serving()
    site(kits / "C1", running.port)
    log = (running.folder / "events.jsonl").read_text()
    assert '"login"' not in log


def test_the_host_and_port_of_a_kit_may_be_edited(serving, kit):
    """The address is not part of any signed content."""
    atomic.write_json(
        kit / "site.json", {"site": "C1", "host": "127.0.0.1", "port": serving().port}
    )
    assert doctor.is_well(examination.of_site(kit, environ={}))


def test_a_kit_without_a_port_is_a_fault(kit):
    (kit / "site.json").write_text(json.dumps({"site": "C1", "host": "localhost", "port": 0}))
    finding = one(examination.of_site(kit, environ={}), "port")
    assert finding.state == "fault" and "the port that the server printed" in finding.found
