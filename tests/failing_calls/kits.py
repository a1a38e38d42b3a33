"""The programs that make kits, `request` and `provision`, whose system calls fail."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import shutil
from collections.abc import Callable, Collection, Sequence

from experiments import flags  # noqa: F401 - imported once, before the processes
from federated.errors import FederationError
from federated.security import certificate_request, certificates, provisioning, revocation, tls
from federated.security.credentials import CredentialBook, Credentials, hashed
from federated.wire.site_names import RESERVED
from runkit import atomic
from tests.failing_calls.commands import Command, Contents, files


@dataclasses.dataclass(frozen=True)
class _Work:
    """What one of the programs is asked to do.

    Attributes:
      flags: "FOLDER" stands for the folder of all inputs.
      before: makes the kit or the federation that is there before, given its path and the inputs.
      said: what the program prints once its work is done.
      done: as of `Command`.
      in_use: whether the site's kit can be used all the time.
    """

    program: str
    flags: Sequence[str]
    before: Callable[[pathlib.Path, pathlib.Path], object] | None
    said: str
    done: str = ""
    in_use: bool = False


def _federation(place: pathlib.Path, inputs: pathlib.Path) -> None:
    provisioning.provision(place, "localhost", ["C1", "C2"])


def _asked(kit: pathlib.Path, inputs: pathlib.Path) -> None:
    certificate_request.request(kit, "C3")
    provisioning.add(inputs / "federation", requests=[kit / "site.csr"])


def _enrolled(kit: pathlib.Path, inputs: pathlib.Path) -> None:
    _asked(kit, inputs)
    spoken = provisioning.authority_fingerprint(inputs / "federation")
    certificate_request.install(kit, inputs / "federation" / "C3", authority=spoken)


def _asked_again(kit: pathlib.Path, inputs: pathlib.Path) -> None:
    _enrolled(kit, inputs)
    _asked(kit, inputs)


def _revoked(kit: pathlib.Path, inputs: pathlib.Path) -> None:
    _enrolled(kit, inputs)
    provisioning.revoke(inputs / "federation", ["server"])


_ANSWER = "--answer=FOLDER/federation/C3"
_INSTALLED = "already; there is nothing to do"
_ADDED = "is there already"
WORKS = {
    "request": _Work("request", ["--site=C3"], None, "send "),
    "request-again": _Work("request", [], _enrolled, "send ", in_use=True),
    "answer": _Work("request", [_ANSWER, "--authority=SPOKEN"], _asked, "is installed", _INSTALLED),
    "answer-again": _Work("request", [_ANSWER], _asked_again, "is installed", _INSTALLED),
    "revoked": _Work(
        "request",
        [f"--revoked=FOLDER/federation/authority/{revocation.FILE}"],
        _revoked,
        "no longer trusted",
        in_use=True,
    ),
    "provision": _Work(
        "provision", ["--sites=C1,C2"], None, "authority, server", "holds authority"
    ),
    "provision-again": _Work(
        "provision", ["--sites=C1,C2", "--overwrite"], _federation, "authority, server"
    ),
    "add": _Work("provision", ["--add=C3"], _federation, "C3. ", _ADDED),
    "add-request": _Work("provision", ["--requests=FOLDER/C3.csr"], _federation, "C3. "),
    "renew": _Work("provision", ["--renew=server,operator,C1"], _federation, "renewed: "),
    "revoke": _Work("provision", ["--revoke=C2,server"], _federation, "revoked: ", "no part in it"),
    "list": _Work("provision", ["--list"], _federation, "fingerprint"),
}


def scenario(name: str, folder: pathlib.Path) -> Command:
    asked, inputs, before = WORKS[name], folder / "inputs", folder / "before"
    provisioning.provision(inputs / "federation", "localhost", ["C1"])
    certificate_request.request(folder / "other", "C3")
    shutil.copy(folder / "other" / "site.csr", inputs / "C3.csr")
    if asked.before is not None:
        asked.before(before, inputs)
    spoken = provisioning.authority_fingerprint(inputs / "federation")
    place = folder / ("federation" if asked.program == "provision" else "kit")
    flag = "output" if asked.program == "provision" else "kit"
    arguments = [
        text.replace("FOLDER", str(inputs)).replace("SPOKEN", spoken) for text in asked.flags
    ]
    state = _all_kits if asked.program == "provision" else _kit

    def confirmed(said: str, found: Contents, expected: Contents) -> list[str]:
        problems = []
        if asked.said in said and found != expected:
            problems.append(f"it says {asked.said!r}, but there is {found}")
        if asked.in_use and found["in use"] != b"yes":
            problems.append(f"the kit cannot be used: {found['in use']!r}")
        return problems

    def start() -> None:
        if asked.before is not None:
            shutil.copytree(before, place)

    return Command(
        name,
        f"experiments.{asked.program}",
        inputs,
        place,
        [f"--{flag}={place}", *arguments],
        kept=lambda place: state(place, before),
        confirmed=confirmed,
        start=start,
        done=asked.done,
        constant=name == "list",
    )


def _kit(kit: pathlib.Path, before: pathlib.Path) -> Contents:
    """Returns what must always be the same of a site's kit, although its keys are new."""
    return {
        "files": _names(kit),
        "in use": _told(lambda: tls.Identity.of(kit, "site")),
        "request": _told(lambda: _check_request(kit)),
        "credential": _told(lambda: _check_credential(kit, before)),
    }


def _check_request(kit: pathlib.Path) -> None:
    """The request is for the key and the credential beside it."""
    asked = provisioning.read_request_file(kit / "site.csr")
    key = certificates.load_key((kit / "site.key.next").read_bytes())
    secret = (kit / "credential").read_text().strip()
    if asked.public_key != key.public_key() or asked.credential_sha256 != hashed(secret):
        raise ValueError("is for another key or credential")


def _check_credential(kit: pathlib.Path, before: pathlib.Path) -> None:
    secret = (kit / "credential").read_bytes()
    if not secret.strip() or (before.exists() and secret != (before / "credential").read_bytes()):
        raise ValueError("another credential")


def _all_kits(folder: pathlib.Path, before: pathlib.Path) -> Contents:
    """Returns what must always be the same of a federation. Changes nothing there."""
    state = {"files": _names(folder)}
    try:
        book = CredentialBook.read(folder / "server" / "credentials.json").current()
        listed = atomic.read_json(folder / "authority" / "federation.json")["issued"]
    except (OSError, ValueError) as error:
        return {**state, "federation": str(error).encode()}
    digests = {entry["sha256"] for entry in listed}
    state["sites"] = " ".join(book.sites).encode()
    for name in ("server", "operator", *book.sites):
        check = functools.partial(_check_member, folder / name, before / name, book, digests)
        state[name] = _told(check)
    return state


def _check_member(
    kit: pathlib.Path, before: pathlib.Path, book: Credentials, digests: Collection[str]
) -> None:
    """The kit is one pair, its certificate can be revoked, and its credential is known."""
    kind = kit.name if kit.name in RESERVED else "site"
    if (kit / f"{kind}.key").exists():  # else it is an answer
        tls.Identity.of(kit, kind)
        if kind == "operator":
            book.check_operator((kit / "credential").read_text().strip())
        elif kind == "site":
            book.check(kit.name, (kit / "credential").read_text().strip())
    if tls.fingerprint_of_pem((kit / f"{kind}.pem").read_bytes()) not in digests:
        raise ValueError("its certificate is not listed")


def _names(folder: pathlib.Path) -> bytes:
    return "\n".join(files(folder)).encode()


def _told(check: Callable[[], object]) -> bytes:
    try:
        check()
    except (FederationError, OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}".encode()
    return b"yes"
