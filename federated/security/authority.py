"""The authority of a federation: issues certificates, writes kits, and keeps a list of both."""

from __future__ import annotations

import datetime
import os
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from federated.security import certificates, revocation
from federated.security.kit_files import FORMAT, read_kit_file
from runkit import atomic, private

_FILE = {"server": "server", "operator": "operator"}  # a site's files are called site.*


def key_file(name: str) -> str:
    """Returns the name of the key in the kit of the server, the operator or a site."""
    return f"{_FILE.get(name, 'site')}.key"


def write_private(path: pathlib.Path, content: bytes) -> None:
    """Writes a file into a private folder, completely or not at all.

    A truncated credential must never exist: anybody can guess an empty one.
    """
    atomic.write_bytes(path, content)


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)


class Authority:
    """The opened folder of the authority: issues certificates and keeps a list of them."""

    def __init__(
        self,
        folder: pathlib.Path,
        certificate: x509.Certificate,
        key: ec.EllipticCurvePrivateKey,
        about: dict[str, Any],
    ):
        self.folder, self.certificate, self._key, self.about = folder, certificate, key, about

    @classmethod
    def of(cls, folder: str | os.PathLike) -> Authority:
        """Opens the authority of a provisioned folder. Raises ValueError if there is none."""
        folder = pathlib.Path(folder)
        kit = folder / "authority"
        for name in ("authority", *_FILE):
            private.refuse_link(folder / name)
            private.refuse_links(folder / name)
        for name in ("ca.pem", "ca.key", "federation.json"):
            if not (kit / name).is_file():
                raise ValueError(
                    f"{kit / name}: no such file; "
                    "give the folder in which the federation was provisioned"
                )
        private.folder(folder)
        for name in ("authority", *_FILE):
            if (folder / name).is_dir():
                private.tree(folder / name)
        key = certificates.load_key(atomic.read_bytes(kit / "ca.key"))
        certificate = certificates.load(atomic.read_bytes(kit / "ca.pem"))
        return cls(folder, certificate, key, read_kit_file(kit / "federation.json"))

    def write_kit(self, name: str, valid_days: int, *, credential: str | None = None) -> None:
        """Writes a kit with a new key.

        Args:
          credential: None keeps the one in the existing kit.
        """
        there, file = self._member(name), _FILE.get(name, "site")
        key = certificates.new_key()
        hosts = [*self.about["hosts"], "localhost", "127.0.0.1", "::1"] if name == "server" else ()
        certificate = self._issue(name, key.public_key(), valid_days, hosts)
        with atomic.replacing_folder(there) as kit:
            (kit / "ca.pem").write_bytes(certificates.to_pem(self.certificate))
            (kit / f"{file}.pem").write_bytes(certificates.to_pem(certificate))
            write_private(kit / key_file(name), certificates.key_to_pem(key))
            if name == "server":
                if (there / "credentials.json").is_file():
                    shutil.copy(there / "credentials.json", kit)
                return
            secret = (
                atomic.read_bytes(there / "credential")
                if credential is None
                else credential.encode("ascii") + b"\n"
            )
            write_private(kit / "credential", secret)
            self._write_address(kit, name)

    def write_answer(self, request: certificates.Request, valid_days: int) -> None:
        """Writes the answer to a site that made its own key."""
        certificate = self._issue(request.name, request.public_key, valid_days, ())
        with atomic.replacing_folder(self._member(request.name)) as kit:
            (kit / "ca.pem").write_bytes(certificates.to_pem(self.certificate))
            (kit / "site.pem").write_bytes(certificates.to_pem(certificate))
            self._write_address(kit, request.name)

    def revoke_server(self, valid_days: int) -> bytes:
        """Begins a new generation of server certificates.

        Returns the statement that revokes all earlier ones.
        """
        held = [
            int(entry["serial"], 16)
            for entry in self.about["issued"]
            if entry["name"] == "server" and "serial" in entry
        ]
        self.about["server_generation"] = generation = self.about.get("server_generation", 0) + 1
        # The generation is recorded first; after a kill, the next attempt merely begins another.
        self.write_kit("server", valid_days)
        statement = certificates.new_revocation(
            generation, held, self.certificate, self._key, now()
        )
        for name in ("authority", "operator"):
            if (self.folder / name).is_dir():
                atomic.write_bytes(self.folder / name / revocation.FILE, statement)
        return statement

    def _member(self, name: str) -> pathlib.Path:
        """Returns the folder of a kit. Raises ValueError if it is a link or contains one."""
        private.refuse_link(self.folder / name)
        private.refuse_links(self.folder / name)
        return self.folder / name

    def book(self) -> dict[str, Any]:
        """Returns the content of the server's `credentials.json`."""
        book = read_kit_file(self.folder / "server" / "credentials.json")
        return {"sites": {}, "operator": "", "revoked": [], **book}

    def write_book(self, book: dict[str, Any]) -> None:
        atomic.write_json(self.folder / "server" / "credentials.json", book)

    def _write_address(self, kit: pathlib.Path, name: str) -> None:
        file = _FILE.get(name, "site")
        atomic.write_json(
            kit / f"{file}.json",
            {
                "format": FORMAT,
                file: name,
                "host": self.about["hosts"][0],
                "port": self.about["port"],
            },
        )
        if (statement := self.folder / "authority" / revocation.FILE).is_file():
            atomic.write_bytes(kit / revocation.FILE, atomic.read_bytes(statement))

    def _issue(
        self, name: str, key: ec.EllipticCurvePublicKey, valid_days: int, hosts: Sequence[str]
    ) -> x509.Certificate:
        generation = self.about.get("server_generation", 0) if name == "server" else 0
        certificate = certificates.issue(
            name,
            key,
            self.certificate,
            self._key,
            valid_days,
            now(),
            hosts=hosts,
            generation=generation,
        )
        entry = {
            "name": name,
            "sha256": certificates.fingerprint(certificate),
            "serial": f"{certificate.serial_number:x}",
            "ends": certificate.not_valid_after_utc.isoformat(),
        }
        self.about["issued"].append(entry)
        # This precedes the kit, so that every certificate that exists can be revoked.
        atomic.write_json(self.folder / "authority" / "federation.json", self.about)
        return certificate
