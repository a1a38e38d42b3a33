"""A site that makes its own key: it sends a request, the operator certifies it, and no secret ever travels.

<kit>/{site.key, credential, site.csr}           after `request`; only site.csr is sent
<kit>/{ca.pem, site.pem, site.key, credential, site.json}   after `install` of the operator's answer
"""

from __future__ import annotations

import os
import pathlib

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from federated import certificates
from federated.credentials import hashed, new_secret
from federated.provision import RESERVED, SITE_NAME, read_request_file, write_private
from runkit import atomic

_NEXT_KEY = "site.key.next"  # the key of a request under way; the kit's own key goes on working until the answer is installed


def request(kit_folder: str | os.PathLike, site: str) -> certificates.Request:
    """Makes a key and `site.csr`, the certificate request to send. In a kit that is in use this begins its renewal.

    The credential is made with the first request and kept by later ones.

    Raises:
      ValueError: for a name that cannot be used, or a kit of another site.
    """
    kit = pathlib.Path(kit_folder)
    if not SITE_NAME.fullmatch(site) or site.lower() in RESERVED:
        raise ValueError(f"site name {site!r} cannot be used; letters, digits, '_' and '-', at most 32, and not {', '.join(RESERVED)}")
    if (kit / "site.json").is_file() and (owner := atomic.read_json(kit / "site.json").get("site")) != site:
        raise ValueError(f"{kit} is the kit of site {owner}, not of {site}; give the folder of this site, or a new one")
    kit.mkdir(parents=True, exist_ok=True)
    kit.chmod(0o700)
    if not (kit / "credential").is_file():
        write_private(kit / "credential", new_secret().encode("ascii") + b"\n")
    secret = (kit / "credential").read_text(encoding="ascii").strip()
    key = certificates.new_key()
    (kit / _NEXT_KEY).unlink(missing_ok=True)
    write_private(kit / _NEXT_KEY, certificates.key_to_pem(key))
    atomic.write_bytes(kit / "site.csr", certificates.new_request(site, key, hashed(secret)))
    return read_request_file(kit / "site.csr")


def install(kit_folder: str | os.PathLike, answer_folder: str | os.PathLike) -> x509.Certificate:
    """Takes the operator's answer into the kit; returns the certificate that is in use from now on.

    Raises:
      ValueError: where the answer is not whole, is for another key or site, or not of the authority it comes with.
    """
    kit, answer = pathlib.Path(kit_folder), pathlib.Path(answer_folder)
    for path in (answer / "ca.pem", answer / "site.pem", answer / "site.json", kit / "credential"):
        if not path.is_file():
            raise ValueError(f"{path}: no such file; give the kit that made the request, and the operator's answer to it, whole")
    if not (kit / _NEXT_KEY).is_file():
        raise ValueError(f"{kit / _NEXT_KEY}: no such file; make a request first, or the answer is installed already")
    key = serialization.load_pem_private_key((kit / _NEXT_KEY).read_bytes(), None)
    certificate = x509.load_pem_x509_certificate((answer / "site.pem").read_bytes())
    authority = x509.load_pem_x509_certificate((answer / "ca.pem").read_bytes())
    if not certificates.same_key(certificate, key):
        raise ValueError(f"{answer / 'site.pem'}: certifies another key than the newest request of {kit}; send site.csr again")
    if not certificates.is_issued_by(certificate, authority):
        raise ValueError(f"{answer / 'site.pem'}: is not of the authority in ca.pem beside it; ask the operator for the whole answer")
    for name in ("ca.pem", "site.json"):
        atomic.write_bytes(kit / name, (answer / name).read_bytes())
    # Certificate and key cannot be replaced in one step. A kill between the two leaves the next key in place: install again.
    atomic.write_bytes(kit / "site.pem", (answer / "site.pem").read_bytes())
    os.replace(kit / _NEXT_KEY, kit / "site.key")
    atomic.sync_directory(kit)
    (kit / "site.csr").unlink(missing_ok=True)
    return certificate
