"""All of the doctor's checks for a site or a server.

They are ordered so that the first fault explains those after it.
"""

from __future__ import annotations

import datetime
import errno
import json
import os
import pathlib
import shutil
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from federated.doctor import connection_checks, local_checks
from federated.doctor.diagnosis import Diagnosis, fault, good, is_well, skipped, warning
from federated.security import certificates
from federated.security.credentials import CredentialBook
from federated.security.kit import Kit, NoPort
from federated.tensors.tensor_files import TensorFile
from federated.wire import addresses
from federated.wire.proxy import ServerEndpoint
from runkit import atomic, byte_counts

if TYPE_CHECKING:  # the messages do not load with an unsuitable protobuf
    from federated.wire.operation_pb2 import ProbeReply

# Bytes of the full-size network in float32; used while the real size is unknown.
_USUAL_MODEL = 100 * 10**6
# Copies of the model in a site's folder: two checkpoints of model and Adam's moments, the best
# model, and the update that has not been sent yet.
_SITE_COPIES = 6


def of_site(
    kit: pathlib.Path,
    *,
    folder: pathlib.Path | None = None,
    site: str | None = None,
    host: str | None = None,
    port: int | None = None,
    plan: dict[str, Any] | None = None,
    environ: Mapping[str, str] = os.environ,
    now: Callable[[], float] = time.time,
    disk_usage: local_checks.DiskUsage = shutil.disk_usage,
    timeout_s: float = 5.0,
) -> list[Diagnosis]:
    """Examines a site, or the operator's machine.

    Args:
      kit: folder of the kit.
      folder: the site's folder of models, if there is one.
      site: name of the site whose prepared cases are in `folder`.
      host, port: those of the server, used instead of those in the kit.
      plan: the plan of the site's flags, compared with the server's.
      environ, now, disk_usage: the machine; parameters, so that tests can plant faults.
      timeout_s: time limit for each connection.
    """
    findings = [
        *local_checks.check_packages(),
        *local_checks.check_kit(kit, now=_moment(now()), site=site),
    ]
    model_bytes = _USUAL_MODEL
    if is_well(finding for finding in findings if finding.check != "validity"):
        # Imported only now that the packages are known to work.
        from federated.admin import client as admin_client

        try:
            opened = Kit.read(kit, host=host, port=port, learned=folder and folder / "federated")
        except NoPort as error:
            remedy = "--server=host:port, or the port in the kit's file"
            return [*findings, fault("port", str(error), remedy)]
        except ValueError as error:
            return [
                *findings,
                fault("kit", str(error), local_checks.fresh_kit(local_checks.kind_of(kit))),
            ]
        endpoint = ServerEndpoint(opened.host, opened.port, environ, timeout_s)
        replies: list[ProbeReply] = []

        def probe() -> ProbeReply:
            with admin_client.AdminClient(opened, timeout_s=3 * timeout_s) as operator:
                replies.append(operator.probe())
            return replies[-1]

        findings += connection_checks.examine(endpoint, opened.identity, probe, now=now, plan=plan)
        model_bytes = replies[-1].model_bytes if replies else model_bytes
    else:
        findings.append(skipped("network", "repair the kit first"))
    if folder is not None:
        findings += local_checks.check_folder(
            "site's folder", folder, _SITE_COPIES * model_bytes, disk_usage
        )
        findings.append(local_checks.check_private("private folder", folder))
    return findings


def of_server(
    kit: pathlib.Path,
    *,
    store: pathlib.Path | None = None,
    initial_model: pathlib.Path | None = None,
    listen: str = "0.0.0.0",
    port: int = addresses.DEFAULT_PORT,
    num_rounds: int = 60,
    now: Callable[[], float] = time.time,
    disk_usage: local_checks.DiskUsage = shutil.disk_usage,
    open_files: int | None = None,
) -> list[Diagnosis]:
    """Examines the server's machine, whether or not the server is running."""
    findings = [*local_checks.check_packages(), *local_checks.check_kit(kit, now=_moment(now()))]
    model_bytes, sites = _USUAL_MODEL, 2
    if is_well(finding for finding in findings if finding.check != "validity"):
        sites = len(CredentialBook.read(kit / "credentials.json").current().sites)
        findings += [_names(kit), _listening(kit, listen, port)]
    if initial_model is not None:
        found, model_bytes = _initial(initial_model, model_bytes)
        findings.append(found)
    if store is not None:
        # All global models; per site two updates (of the open round and the last one) and two
        # models that it lends.
        needed = model_bytes * (num_rounds + 1 + 4 * sites)
        findings += local_checks.check_folder("store", store, needed, disk_usage)
        findings.append(local_checks.check_private("private folder", store))
    findings.append(local_checks.check_open_files(open_files))
    return findings


def _names(kit: pathlib.Path) -> Diagnosis:
    hosts = certificates.hosts_of(certificates.load(atomic.read_bytes(kit / "server.pem")))
    unknown = []
    for host in hosts:
        try:
            socket.getaddrinfo(host, None)
        except (OSError, UnicodeError):
            unknown.append(host)
    if unknown:
        return warning(
            "names",
            f"{', '.join(unknown)} cannot be looked up here",
            "if sites cannot look them up either: add a DNS entry, or provision with another name",
        )
    return good("names", "all can be looked up")


def _listening(kit: pathlib.Path, listen: str, port: int) -> Diagnosis:
    """Finds out whether the port is free, or taken by this server or by another program."""
    listen = addresses.plain(listen)
    family = socket.AF_INET6 if ":" in listen else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((listen, port))
            return good("port", f"{port} is free")
        except OSError as error:
            if error.errno == errno.EACCES:
                return fault(
                    "port",
                    f"this user may not listen on {port}",
                    "choose a port of 1024 or more, and tell the sites",
                )
            if error.errno != errno.EADDRINUSE:
                return fault(
                    "port",
                    f"{addresses.joined(listen, port)}: {error.strerror}",
                    "give an address of this machine as --host, or 0.0.0.0",
                )
    own = certificates.fingerprint_of_pem(atomic.read_bytes(kit / "server.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Only the fingerprint matters here.
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    address = "localhost" if listen in ("0.0.0.0", "::", "") else listen
    try:
        with (
            socket.create_connection((address, port), timeout=5.0) as plain,
            context.wrap_socket(plain) as secure,
        ):
            served = secure.getpeercert(binary_form=True) or b""
            if certificates.fingerprint_of_bytes(served) == own:
                return good("port", f"this server is running on {port}")
    except OSError:
        pass
    return fault(
        "port",
        f"another program is listening on {port}",
        "stop it (ss -ltnp names it), or choose another port and tell the sites",
    )


def _initial(path: pathlib.Path, otherwise: int) -> tuple[Diagnosis, int]:
    try:
        with TensorFile(path) as file:
            json.loads(file.metadata["plan"])
            return good(
                "initial model", f"{len(file.specs)} tensors, {byte_counts.text(file.nbytes)}"
            ), file.nbytes
    except (ValueError, KeyError, OSError) as error:
        words = "has no plan in it" if isinstance(error, KeyError) else str(error)
        return fault("initial model", words, "write it with experiments.init_model"), otherwise


def _moment(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
