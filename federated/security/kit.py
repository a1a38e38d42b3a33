"""Reads a kit as `provision` wrote it, for a site, the operator or the doctor."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
from collections.abc import Sequence

from federated.security import kit_files, tls
from federated.security.kit_files import read_kit_file
from federated.wire import addresses
from runkit import atomic, private

KINDS = ("site", "operator")
# What fits into the headers of a call. Otherwise gRPC fails on each call without the reason.
_NAME, _CREDENTIAL = re.compile(r"[!-~]{1,64}"), re.compile(r"[!-~]{1,512}")


class NoPort(ValueError):
    """Neither the kit nor the caller states the port of the server."""


@dataclasses.dataclass(frozen=True)
class Kit:
    """The name, server address and credentials of a member of the federation."""

    name: str  # "operator", or the site's name
    host: str
    port: int
    credential: str = dataclasses.field(repr=False)  # must never appear in a log
    identity: tls.Identity

    @classmethod
    def read(
        cls,
        folder: str | os.PathLike,
        *,
        kinds: Sequence[str] = KINDS,
        host: str | None = None,
        port: int | None = None,
        learned: str | os.PathLike | None = None,
    ) -> Kit:
        """Reads a kit without changing anything in it.

        Args:
          kinds: the kinds of kit that are accepted.
          host, port: used instead of the kit's own.
          learned: as in `tls.Identity.of`.
        Raises:
          NoPort: if neither the kit nor `port` names a port.
          ValueError: naming a file that is missing, malformed, a link or written by a newer
            release.
        """
        folder = pathlib.Path(folder)
        private.refuse_links(folder)
        kind = next((kind for kind in kinds if (folder / f"{kind}.json").is_file()), None)
        if kind is None:
            names = " or ".join(f"{kind}.json" for kind in kinds)
            raise ValueError(f"{folder / names}: no such file; {kit_files.remedy(folder, kinds)}")
        path = folder / f"{kind}.json"
        credential, about = _credential(folder / "credential", kind), read_kit_file(path)
        try:
            name = about[kind]
            if not _NAME.fullmatch(name) or not kit_files.is_address(about["host"], about["port"]):
                raise ValueError(name)
            host, port = addresses.plain(host or about["host"]), port or about["port"]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f'{path}: expected {{"{kind}", "host", "port"}}; '
                "use the whole folder as `provision` made it"
            ) from error
        if not port:
            raise NoPort(
                f"{path}: port is 0, which names no server; give the port that the server printed, "
                f"with --server={host}:PORT"
            )
        return cls(name, host, port, credential, tls.Identity.of(folder, kind, learned=learned))


def _credential(path: pathlib.Path, kind: str) -> str:
    if not path.is_file():
        raise ValueError(f"{path}: no such file; {kit_files.remedy(path.parent, [kind])}")
    credential = atomic.read_bytes(path).strip().decode("ascii", "replace")
    if not _CREDENTIAL.fullmatch(credential):
        raise ValueError(
            f"{path}: holds no credential; use the whole folder as `provision` made it"
        )
    return credential
