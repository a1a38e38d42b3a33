"""What a site or an operator knows about revoked server certificates.

It is a statement by the authority, kept in a file:

    <kit>/revoked.crl              came with the operator's answer, or by `experiments.request
                                   --revoked`
    <site>/federated/revoked.crl   was handed on by the server at a login

gRPC for Python accepts no list of revoked certificates from a client, and does not show it the
server's certificate. The client therefore asks TLS for a *name* that only certificates from a
certain generation on bear (see `certificates.issue`); a revoked one does not bear it.
"""

from __future__ import annotations

import os
import pathlib

from absl import logging
from cryptography import x509

from federated.security import certificates
from runkit import atomic, private

FILE = "revoked.crl"
MAX_BYTES = 64 * 2**10


def lowest_trusted(authority: str | os.PathLike, *folders: str | os.PathLike) -> int:
    """Returns the first generation of server certificates that is trusted; 0 if none was revoked.

    Args:
      authority: file ca.pem. Statements that it did not sign, and damaged ones, are logged and
        ignored.
      folders: where statements are kept.
    """
    known = 0
    for folder in folders:
        path = pathlib.Path(folder) / FILE
        private.refuse_link(path)
        if path.is_file():
            try:
                known = max(known, read(path.read_bytes(), authority))
            except ValueError as error:
                logging.warning("event=revocation_passed_over file=%s reason=%s", path, error)
    return known


def read(statement: bytes, authority: str | os.PathLike) -> int:
    """Returns what `certificates.read_revocation` does, for an authority in a file.

    Raises ValueError.
    """
    if len(statement) > MAX_BYTES:
        raise ValueError(
            f"a list of revoked certificates of {len(statement)} bytes; "
            f"expected at most {MAX_BYTES}"
        )
    return certificates.read_revocation(
        statement, x509.load_pem_x509_certificate(pathlib.Path(authority).read_bytes())
    )


def keep(folder: str | os.PathLike, statement: bytes, authority: str | os.PathLike) -> int:
    """Keeps a statement in `folder` unless a newer one is there; returns its generation.

    Raises ValueError, OSError.
    """
    generation = read(statement, authority)
    if generation > lowest_trusted(authority, folder):
        atomic.write_bytes(pathlib.Path(folder) / FILE, statement)
    return generation
