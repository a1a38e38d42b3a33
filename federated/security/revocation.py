"""Revoked server certificates, as a site or the operator knows them.

The authority states in a file which ones they are:

    <kit>/revoked.crl              came with the operator's answer, or by `experiments.request
                                   --revoked`
    <site>/federated/revoked.crl   was passed on by the server at a login

gRPC for Python does not accept a list of revoked certificates from a client, nor does it give the
client access to the server's certificate. The client therefore has TLS verify a *name* that only
certificates from a certain generation on bear (see `certificates.issue`); a revoked one does not.
"""

from __future__ import annotations

import os
import pathlib

from absl import logging

from federated.security import certificates
from runkit import atomic, private

FILE = "revoked.crl"
MAX_BYTES = 64 * 2**10


def lowest_trusted(authority: str | os.PathLike, *folders: str | os.PathLike) -> int:
    """Returns the first generation of server certificates that is trusted; 0 if none was revoked.

    Args:
      authority: file ca.pem. Statements not signed by this authority, and damaged ones, are logged
        and ignored.
      folders: folders that may contain statements.
    """
    known = 0
    for folder in folders:
        path = pathlib.Path(folder) / FILE
        private.refuse_link(path)
        if path.is_file():
            try:
                known = max(known, read(atomic.read_bytes(path), authority))
            except ValueError as error:
                logging.warning("event=revocation_passed_over file=%s reason=%s", path, error)
    return known


def read(statement: bytes, authority: str | os.PathLike) -> int:
    """Calls `certificates.read_revocation` with an authority that is read from a file.

    Raises ValueError.
    """
    if len(statement) > MAX_BYTES:
        raise ValueError(
            f"a list of revoked certificates of {len(statement)} bytes; "
            f"expected at most {MAX_BYTES}"
        )
    return certificates.read_revocation(statement, certificates.load(atomic.read_bytes(authority)))


def keep(folder: str | os.PathLike, statement: bytes, authority: str | os.PathLike) -> int:
    """Stores a statement in `folder` unless a newer one is there; returns its generation.

    Raises ValueError or OSError.
    """
    generation = read(statement, authority)
    if generation > lowest_trusted(authority, folder):
        atomic.write_bytes(pathlib.Path(folder) / FILE, statement)
    return generation
