"""Checks the connection to the server step by step.

The steps are proxy, name, port, TLS, certificates, and the server's own report. gRPC reports all of
these failures as UNAVAILABLE; this module distinguishes them.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from cryptography import x509

from federated import errors
from federated.doctor.diagnosis import Diagnosis, fault, good, skipped, warning
from federated.doctor.local_checks import check_validity
from federated.rounds import plan as plans
from federated.security import certificates
from federated.security.tls import Identity
from federated.wire.messages import PROTOCOL
from federated.wire.proxy import ProxyRefused, ServerEndpoint
from runkit import atomic, release

if TYPE_CHECKING:  # the messages do not load with an unsuitable protobuf
    from federated.wire.operation_pb2 import ProbeReply

_STEPS = (
    "proxy",
    "name",
    "port",
    "TLS",
    "server's certificate",
    "own certificate",
    "server",
    "clock",
    "release",
    "plan",
    "server's log",
)
_SKEW_WARN_S, _SKEW_FAULT_S = 30.0, 300.0


def examine(
    endpoint: ServerEndpoint,
    identity: Identity,
    probe: Callable[[], ProbeReply],
    *,
    now: Callable[[], float] = time.time,
    plan: dict[str, Any] | None = None,
) -> list[Diagnosis]:
    """Checks step by step until one fails, and marks the later steps as skipped.

    Args:
      endpoint: where the server is, and the proxy settings.
      identity: the kit's certificates.
      probe: asks the server about itself, as `AdminClient.probe` does.
      now: this machine's clock, in seconds since the epoch.
      plan: this site's plan, if known.
    """
    findings = []
    for finding in _steps(endpoint, identity, probe, now, plan):
        findings.append(finding)
        if finding.state == "fault" and finding.check in _STEPS[:7]:
            findings += [
                skipped(step, f"after {finding.check}")
                for step in _STEPS[_STEPS.index(finding.check) + 1 :]
            ]
            break
    return findings


def _steps(
    endpoint: ServerEndpoint,
    identity: Identity,
    probe: Callable[[], ProbeReply],
    now: Callable[[], float],
    plan: dict[str, Any] | None,
) -> Iterator[Diagnosis]:
    yield _proxy(endpoint)
    yield _name(endpoint)
    yield _port(endpoint)
    yield from _tls(
        endpoint, identity, datetime.datetime.fromtimestamp(now(), datetime.timezone.utc)
    )
    before = now()
    try:
        reply = probe()
    except errors.FederationError as error:
        yield _refusal(error)
        return
    after = now()
    yield _standing(reply)
    yield _clock((before + after) / 2 - reply.time, after - before)
    yield _release(reply)
    yield _plan(reply, plan)
    yield good(
        "server's log",
        f"line {reply.log_lines}, {reply.log_head[:32]}; "
        "note this down, and you can prove later that the log was not rewritten",
    )


def _proxy(endpoint: ServerEndpoint) -> Diagnosis:
    proxy = endpoint.proxy
    if proxy is None:
        passed_over = endpoint.passed_over
        found = "; ".join(["none is used", *(why for why, _ in passed_over)])
        remedies = [remedy for _, remedy in passed_over if remedy]
        if not remedies:
            return good("proxy", found)
        return warning("proxy", found, f"{'; '.join(remedies)}, if the server is behind that proxy")
    variable, host, port, _ = proxy
    around = f"or go around it: no_proxy={endpoint.host}"
    try:
        with endpoint.connected():
            return good(
                "proxy", f"{variable} names {host}:{port}, which lets this connection through"
            )
    except ProxyRefused as refused:
        allow = f"have it allow CONNECT to {endpoint.address}"
        if " 407" in str(refused):
            allow = (
                f"write user and password into {variable}=http://user:password@host:port, "
                f"percent-encoded, or {allow}"
            )
        return fault("proxy", f"{host}:{port} ({variable}) answers {refused}", f"{allow}, {around}")
    except OSError as error:
        return fault(
            "proxy",
            f"{host}:{port} ({variable}) cannot be reached ({_reason(error)})",
            f"correct {variable}, {around}",
        )


def _name(endpoint: ServerEndpoint) -> Diagnosis:
    if endpoint.proxy:
        return good(
            "name",
            f"{endpoint.host} is looked up by the proxy that {endpoint.proxy.variable} names",
        )
    try:
        entries = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        return fault(
            "name",
            f"{endpoint.host} is not known here ({_reason(error)})",
            "check the host in the kit; ask the network team for a DNS entry, or add the server to "
            "the hosts file",
        )
    found = sorted({str(address[0]) for *_, address in entries})
    return good("name", f"{endpoint.host} is {', '.join(found)}")


def _port(endpoint: ServerEndpoint) -> Diagnosis:
    began = time.monotonic()
    try:
        with endpoint.connected():
            return good(
                "port", f"{endpoint.port} answers in {1000 * (time.monotonic() - began):.0f} ms"
            )
    except ConnectionRefusedError:
        return fault(
            "port",
            f"nothing is listening on {endpoint.address}",
            "check the port in the kit; have the server's operator check that the server is "
            "running (experiments.doctor there)",
        )
    except TimeoutError:
        return fault(
            "port",
            f"{endpoint.address} does not answer within {endpoint.timeout_s:g} s: a firewall drops "
            "the connection",
            f"ask the network team to allow outgoing TCP to {endpoint.address}; "
            "no incoming connection is needed",
        )
    except OSError as error:
        return fault(
            "port",
            f"{endpoint.address}: {_reason(error)}",
            "ask the network team for a route to that address",
        )


def _tls(
    endpoint: ServerEndpoint, identity: Identity, now: datetime.datetime
) -> Iterator[Diagnosis]:
    try:
        der, protocol = _look(endpoint, identity)
    except ssl.SSLError as error:
        reason = (error.reason or "").replace("_", " ").lower()
        if "wrong version" in reason or "http request" in reason or "record layer" in reason:
            yield fault(
                "TLS",
                f"the program listening on {endpoint.address} does not speak TLS",
                "check host and port; a load balancer in front must pass TCP on unchanged and not "
                "terminate TLS",
            )
        elif "eof" in reason:
            yield _hung_up(endpoint, "closed")
        else:
            yield fault(
                "TLS",
                f"the handshake failed ({reason or 'closed'})",
                "have the operator run experiments.doctor at the server",
            )
        return
    except TimeoutError:
        yield fault(
            "TLS",
            f"{endpoint.address} accepts the connection and then says nothing",
            "a device on the way holds it: ask the network team to pass TCP on unchanged, without "
            "inspection",
        )
        return
    except OSError as error:
        yield _hung_up(endpoint, _reason(error))
        return
    yield good("TLS", f"{protocol}")
    try:
        served = certificates.load_der(der)
    except ValueError as error:
        yield fault(
            "server's certificate",
            f"it cannot be read ({error}), so it is not one of this federation",
            f"check host and port; ask the network team to exempt {endpoint.address} from TLS "
            "inspection",
        )
        return
    finding = _judge(endpoint, identity, served, now)
    yield finding
    if finding.state != "fault":
        yield _own(endpoint, identity)


def _hung_up(endpoint: ServerEndpoint, reason: str) -> Diagnosis:
    return fault(
        "TLS",
        f"{endpoint.address} hangs up in the handshake ({reason})",
        "a firewall cuts TLS that it cannot inspect, or the server is starting: try again, and ask "
        "the network team",
    )


def _judge(
    endpoint: ServerEndpoint, identity: Identity, served: x509.Certificate, now: datetime.datetime
) -> Diagnosis:
    check = "server's certificate"
    authority = certificates.load(atomic.read_bytes(identity.authority))
    if not certificates.is_issued_by(served, authority):
        issuer = served.issuer.rfc4514_string()
        ours = authority.subject.rfc4514_string()
        if issuer == ours:
            return fault(
                check,
                "it was issued by another federation's authority, not the one in ca.pem",
                "check host and port; if they are right, the federation was provisioned again: ask "
                "the operator for the new kit",
            )
        return fault(
            check,
            f"it was issued by {issuer!r}, not by this federation: TLS is inspected on the way, or "
            "this is another server",
            f"ask the network team to exempt {endpoint.address} from TLS inspection; check host "
            "and port",
        )
    if certificates.generation_of(served) < identity.generation:
        return fault(
            check,
            "it was revoked by the operator: whoever shows it may have stolen the server's key",
            "do not join; tell the operator, and check host and port. The real server needs the "
            "new folder that was made for it",
        )
    finding = check_validity(check, "it", served, now)
    if finding.state == "fault":
        if now <= served.not_valid_after_utc:
            return finding
        return dataclasses.replace(
            finding,
            remedy="tell the server's operator to renew it: experiments.provision --renew=server; "
            "and check this machine's clock",
        )
    names = certificates.hosts_of(served)
    if not any(_matches(name, endpoint.host) for name in names):
        # After a revocation, TLS asks for another name, see `tls.Identity`.
        report = warning if identity.generation else fault
        return report(
            check,
            f"it does not bear the name {endpoint.host}, but {', '.join(names)}",
            "use one of these in the kit's json file; or have the operator provision with this "
            "name in --server_host",
        )
    return finding


def _own(endpoint: ServerEndpoint, identity: Identity) -> Diagnosis:
    check = "own certificate"
    # A server that refuses a certificate hangs up after a handshake that the client sees succeed.
    for _ in range(2):
        try:
            with (
                endpoint.connected() as plain,
                _context(identity).wrap_socket(
                    plain, server_hostname=identity.expected_name(endpoint.host)
                ) as secure,
            ):
                if secure.recv(1):
                    return good(check, "the server accepts it")
        except TimeoutError:
            return warning(
                check,
                "the server says nothing after the handshake",
                "it may be very busy: try again",
            )
        except OSError:
            continue
    return fault(
        check,
        "the server refuses it in the handshake",
        "its authority is not the server's, or it is not valid by the server's clock: compare "
        "clocks, ask the operator for a new kit",
    )


def _refusal(error: errors.FederationError) -> Diagnosis:
    remedies: dict[type[errors.FederationError], str] = {
        errors.WrongCredential: "the server has another credential for this name, or the site was "
        "revoked: ask the operator, who can see it with experiments.provision --list",
        errors.CertificateOutOfDate: "renew it: experiments.request at a site, "
        "experiments.provision --renew=server for the server",
        errors.CertificateRefused: "this certificate was revoked, or two kits were mixed: ask the "
        "operator to certify a new key of this site",
        errors.ServerMisbehaves: "do not join: ask the operator, by telephone, whether this is the "
        "federation's server and what runs there",
        errors.VersionDiffers: "install the same release at both ends; check that the port is the "
        "federation's",
    }
    otherwise = "try again; if it fails again, look into the server's log, which names the reason"
    return fault("server", str(error), remedies.get(type(error), otherwise))


def _standing(reply: ProbeReply) -> Diagnosis:
    words = {
        "admitted": good("server", "knows this site, which takes part"),
        "welcome": good("server", "knows this site, which may join"),
        "operator": good("server", "knows the operator"),
        "evicted": fault(
            "server", "the operator has evicted this site", "ask the operator to admit it again"
        ),
        "full": fault(
            "server",
            "it has as many sites as it admits",
            "ask the operator to raise --max_num_clients",
        ),
    }
    return words.get(
        reply.standing,
        warning("server", f"says {reply.standing!r}", "install the same release at both ends"),
    )


def _clock(skew_s: float, uncertainty_s: float) -> Diagnosis:
    words = f"{abs(skew_s):.1f} s {'ahead of' if skew_s > 0 else 'behind'} the server's"
    remedy = "set it: timedatectl set-ntp true; it decides when certificates and tokens expire"
    if abs(skew_s) - uncertainty_s > _SKEW_FAULT_S:
        return fault("clock", words, remedy)
    if abs(skew_s) - uncertainty_s > _SKEW_WARN_S:
        return warning("clock", words, remedy)
    return good("clock", words)


def _release(reply: ProbeReply) -> Diagnosis:
    own = release.version()
    if reply.protocol != PROTOCOL:
        return fault(
            "release",
            f"the server (release {reply.release}) speaks version {reply.protocol} of the "
            f"exchange, this site (release {own}) {PROTOCOL}",
            f"install release {reply.release} here",
        )
    unknown = [
        end
        for end, known in (("the server's", reply.release), ("this site's", own))
        if known == release.UNKNOWN
    ]
    if unknown:
        return warning(
            "release",
            f"{' and '.join(unknown)} release is unknown: the source is used without installation; "
            f"exchange version {PROTOCOL} at both ends",
            "install the same release at both ends (pip install)",
        )
    if reply.release != own:
        return warning(
            "release",
            f"the server has {reply.release}, this site {own}; they understand each other",
            "install the same",
        )
    return good("release", f"{own} at both ends, exchange version {PROTOCOL}")


def _plan(reply: ProbeReply, plan: dict[str, Any] | None) -> Diagnosis:
    if plan is None:
        return skipped("plan", "give the flag file to compare plans")
    differing = plans.differences(json.loads(reply.plan_json), plan)
    if differing:
        return fault(
            "plan", "; ".join(differing[:5]), "start this site with the server's flag file"
        )
    return good("plan", f"the server's, {plans.fingerprint(plan)[:16]}")


def _look(endpoint: ServerEndpoint, identity: Identity) -> tuple[bytes, str]:
    """Returns the server's certificate (DER), trusted or not, and the TLS version."""
    context = _context(identity)
    # The certificate is only read: `_judge` checks it, and nothing is sent to this server.
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        endpoint.connected() as plain,
        context.wrap_socket(plain, server_hostname=endpoint.host) as secure,
    ):
        return secure.getpeercert(binary_form=True) or b"", str(secure.version())


def _context(identity: Identity) -> ssl.SSLContext:
    context = identity.context(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2"])
    return context


def _matches(name: str, host: str) -> bool:
    return name.lower() == host.lower() or (
        name.startswith("*.") and host.lower().partition(".")[2] == name[2:].lower()
    )


def _reason(error: OSError | UnicodeError) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
