"""A site makes its own key and has the operator certify it; secrets are never sent.

    <kit>/{site.key.next, credential, site.csr}   after `request`; only site.csr is sent
    <kit>/{ca.pem, site.pem, site.key, credential, site.json}   after `install` of the answer

People verify both directions by telephone: the site reads out the request's fingerprint, and the
operator reads out the authority's.
"""

from __future__ import annotations

import os
import pathlib

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from federated.security import certificates, revocation
from federated.security.authority import write_private
from federated.security.credentials import hashed, new_secret
from federated.security.federation_folder import remove_partial
from federated.security.kit_files import FORMAT, NEXT_KEY, is_address, read_kit_file
from federated.security.provisioning import read_request_file
from federated.wire.site_names import check_site_name
from runkit import atomic, private


def request(kit_folder: str | os.PathLike, site: str) -> certificates.Request:
    """Makes a key and `site.csr`, the certificate request to send.

    In a kit that is in use, this begins a renewal. The first request makes the credential, and
    later ones keep it. Repeated before the answer is installed, it returns the same request; for
    another name it makes a new one with the same key.

    Raises:
      ValueError: if the name cannot be used, the kit belongs to another site, or a link is in place
        of a file.
    """
    kit = pathlib.Path(kit_folder)
    private.refuse_links(kit)
    check_site_name(site)
    if (kit / "site.json").is_file() and (owner := site_of(kit)) != site:
        raise ValueError(
            f"{kit} is the kit of site {owner}, not of {site}; "
            "give the folder of this site, or a new one"
        )
    private.tree(kit)
    remove_partial(kit)
    credential = kit / "credential"
    # An earlier release, if killed, may have left an empty one.
    if not credential.is_file() or not atomic.read_bytes(credential).strip():
        write_private(credential, new_secret().encode("ascii") + b"\n")
    secret = atomic.read_bytes(credential).decode("ascii").strip()
    # An earlier request may have been killed before the names of its files were on the disk.
    for folder in (kit.parent, kit):
        atomic.sync_directory(folder)
    key = _pending_key(kit)
    if key is None:
        key = certificates.new_key()
        write_private(kit / NEXT_KEY, certificates.key_to_pem(key))
    elif (asked := _asked(kit)) is not None and (
        asked.name == site
        and asked.public_key == key.public_key()
        and asked.credential_sha256 == hashed(secret)
    ):
        return asked
    atomic.write_bytes(kit / "site.csr", certificates.new_request(site, key, hashed(secret)))
    return read_request_file(kit / "site.csr")


def _pending_key(kit: pathlib.Path) -> ec.EllipticCurvePrivateKey | None:
    try:
        return certificates.load_key(atomic.read_bytes(kit / NEXT_KEY))
    except (FileNotFoundError, ValueError):  # an unreadable one fits no answer
        return None


def install(
    kit_folder: str | os.PathLike,
    answer_folder: str | os.PathLike,
    *,
    authority: str = "",
    confirm_change: bool = False,
) -> x509.Certificate:
    """Installs the operator's answer in the kit; returns the certificate that is now in use.

    The answer is sent unprotected. The fingerprint of its authority, which the operator reads out,
    proves that it is genuine. The first answer needs the fingerprint; later ones must have the
    authority, address and site name of the kit.

    Args:
      authority: fingerprint of the authority as it was read out; spaces, colons and upper or lower
        case do not matter.
      confirm_change: the operator has confirmed a new authority, host, port or name; a new
        authority needs its fingerprint too.
    Raises:
      ValueError: if the answer is incomplete, contains a link, is for another key or site, or was
        not issued by the authority that comes with it; or if that authority or a change is not
        confirmed. The kit is then left unchanged.
    """
    kit, answer = pathlib.Path(kit_folder), pathlib.Path(answer_folder)
    private.refuse_links(kit)
    private.refuse_links(answer)
    for path in (answer / "ca.pem", answer / "site.pem", answer / "site.json", kit / "credential"):
        if not path.is_file():
            raise ValueError(
                f"{path}: no such file; give the kit that made the request, and the operator's "
                "whole answer to it"
            )
    if not (kit / NEXT_KEY).is_file():
        installed = (kit / "site.pem").is_file() and (
            atomic.read_bytes(kit / "site.pem") == atomic.read_bytes(answer / "site.pem")
        )
        raise ValueError(
            f"{answer}: is installed in {kit} already; there is nothing to do"
            if installed
            else f"{kit}: waits for no answer ({NEXT_KEY} is missing); make a request first, or "
            "give the kit that made it"
        )
    key = certificates.load_key(atomic.read_bytes(kit / NEXT_KEY))
    certificate, issuer = _certificate(answer / "site.pem"), _certificate(answer / "ca.pem")
    if not certificates.same_key(certificate, key):
        named, asked = certificates.common_name(certificate), _asked(kit)
        if asked is not None and asked.name != named:
            raise ValueError(
                f"{answer / 'site.pem'}: is the certificate of site {named!r}, the request in "
                f"{kit} is of {asked.name!r}; give the answer to this kit's request, or the kit "
                f"of {named}"
            )
        raise ValueError(
            f"{answer / 'site.pem'}: certifies another key than the newest request of {kit}; "
            f"send {kit / 'site.csr'} to the operator"
            + (f": fingerprint {certificates.spoken(asked.fingerprint)}" if asked else "")
            + ". An answer fits only the newest request"
        )
    if not certificates.is_issued_by(certificate, issuer):
        raise ValueError(
            f"{answer / 'site.pem'}: was not issued by the authority in ca.pem beside it; "
            "ask the operator for the whole answer"
        )
    about = _address(answer / "site.json")
    if about["site"] != certificates.common_name(certificate):
        raise ValueError(
            f"{answer / 'site.json'}: is of site {about['site']!r}, the certificate beside it of "
            f"{certificates.common_name(certificate)!r}; ask the operator for the whole answer"
        )
    _check_authority(kit, answer, issuer, authority)
    _check_changes(kit, answer, issuer, about, authority, confirm_change)
    statement = answer / revocation.FILE
    if statement.is_file():
        try:
            revocation.read(atomic.read_bytes(statement), answer / "ca.pem")
        except ValueError as error:
            raise ValueError(
                f"{statement}: {error}; ask the operator for the whole answer"
            ) from error
    private.tree(kit)
    remove_partial(kit)
    if (kit / "ca.pem").is_file() and _certificate(kit / "ca.pem") != issuer:
        (kit / revocation.FILE).unlink(missing_ok=True)  # issued by the former authority
    atomic.write_bytes(kit / "ca.pem", atomic.read_bytes(answer / "ca.pem"))
    atomic.write_json(kit / "site.json", {"format": FORMAT, **about})
    if statement.is_file():
        revocation.keep(kit, atomic.read_bytes(statement), kit / "ca.pem")
    # Certificate and key cannot be replaced in one step. After a kill between the two, the next key
    # is still there, and the answer can be installed again.
    atomic.write_bytes(kit / "site.pem", atomic.read_bytes(answer / "site.pem"))
    (kit / "site.csr").unlink(missing_ok=True)
    os.replace(kit / NEXT_KEY, kit / "site.key")  # last, so that nothing is left to be done
    atomic.sync_directory(kit)
    return certificate


def authority_of(kit_folder: str | os.PathLike) -> str:
    """Returns the fingerprint of a kit's authority."""
    return certificates.fingerprint(_certificate(pathlib.Path(kit_folder) / "ca.pem"))


def take_revocation(kit_folder: str | os.PathLike, statement: str | os.PathLike) -> int:
    """Stores the authority's statement on revoked server certificates in a kit.

    The authority has signed it, so it may be sent over any channel.

    Returns:
      The first generation of server certificates that is trusted.
    Raises:
      ValueError: if the file is not such a statement by the kit's authority.
    """
    kit, path = pathlib.Path(kit_folder), pathlib.Path(statement)
    private.refuse_links(kit)
    for file in (path, kit / "ca.pem"):
        if not file.is_file():
            raise ValueError(
                f"{file}: no such file; give a kit in use, and the file {revocation.FILE} that the "
                "operator sent"
            )
    remove_partial(kit)
    try:
        return revocation.keep(kit, atomic.read_bytes(path), kit / "ca.pem")
    except ValueError as error:
        raise ValueError(f"{path}: {error}; ask the operator for it again") from error


def site_of(kit_folder: str | os.PathLike) -> str | None:
    """Returns the site whose kit this is, or for which it made a request; None if neither.

    Raises:
      ValueError: if site.json is malformed.
    """
    about = pathlib.Path(kit_folder) / "site.json"
    if about.is_file():
        return str(_address(about)["site"])
    asked = pending(kit_folder)
    return None if asked is None else asked.name


def pending(kit_folder: str | os.PathLike) -> certificates.Request | None:
    """Returns the request of a kit whose answer is not installed yet, or None."""
    kit = pathlib.Path(kit_folder)
    return _asked(kit) if (kit / NEXT_KEY).is_file() else None


def _asked(kit: pathlib.Path) -> certificates.Request | None:
    """Returns the content of site.csr, or None if it is missing or not a request."""
    try:
        return read_request_file(kit / "site.csr")
    except ValueError:
        return None


def _check_authority(
    kit: pathlib.Path, answer: pathlib.Path, issuer: x509.Certificate, given: str
) -> None:
    """Raises ValueError unless the authority has the fingerprint that was read out.

    A kit in use needs no fingerprint.
    """
    if not given:
        if not (kit / "ca.pem").is_file():
            raise ValueError(
                f"{answer}: the authority's fingerprint is missing; have the operator read it out "
                'over the telephone, and give it as --authority="1234 abcd …": anybody on the way '
                "can forge an answer, but not one with this fingerprint"
            )
        return
    if not certificates.is_spoken(given, certificates.fingerprint(issuer)):
        raise ValueError(
            f"{answer / 'ca.pem'}: is not the authority with the fingerprint {given[:100]!r}; the "
            "answer was changed in transit, or is of another federation: do not use it, and ask "
            "the operator for it again"
        )


def _check_changes(
    kit: pathlib.Path,
    answer: pathlib.Path,
    issuer: x509.Certificate,
    about: dict[str, str | int],
    given: str,
    confirmed: bool,
) -> None:
    """Raises ValueError for an unconfirmed change of the kit's authority, site, host or port."""
    changes = []
    if (kit / "ca.pem").is_file() and _certificate(kit / "ca.pem") != issuer:
        changes.append("its authority is not the kit's")
        if confirmed and not given:
            raise ValueError(
                f"{answer}: its authority is not that of {kit}; give the fingerprint of the new "
                "one, which the operator reads out, as --authority"
            )
    if (kit / "site.json").is_file():
        before = _address(kit / "site.json")
        changes += [
            f"{name} is {about[name]!r}, in the kit {before[name]!r}"
            for name in about
            if about[name] != before[name]
        ]
    elif (kit / "site.csr").is_file() and (
        asked := read_request_file(kit / "site.csr").name
    ) != about["site"]:
        changes.append(f"site is {about['site']!r}, the request was made for {asked!r}")
    if changes and not confirmed:
        raise ValueError(
            f"{answer}: does not fit the kit {kit}: {'; '.join(changes)}. Ask the operator over "
            "the telephone; if this is intended, add --confirm_change"
        )


def _certificate(path: pathlib.Path) -> x509.Certificate:
    try:
        return certificates.load(atomic.read_bytes(path))
    except ValueError as error:
        raise ValueError(
            f"{path}: is not a certificate ({type(error).__name__}); ask the operator for it again"
        ) from error


def _address(path: pathlib.Path) -> dict[str, str | int]:
    """Returns {"site", "host", "port"} of a site.json. Raises ValueError if one is malformed."""
    about = read_kit_file(path)
    try:
        site, host, port = about["site"], about["host"], about["port"]
        good = isinstance(site, str) and is_address(host, port)
    except (KeyError, TypeError):
        good = False
    if not good:
        raise ValueError(
            f'{path}: expected {{"site": name, "host": name or address, "port": number}}; '
            "ask the operator for it again"
        )
    return {"site": site, "host": host, "port": port}
