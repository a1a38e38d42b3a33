"""Makes the authority of a federation and the kits of its server, operator and sites.

    <folder>/authority/{ca.pem, ca.key, federation.json}
             server/{ca.pem, server.pem, server.key, credentials.json}
             operator/{ca.pem, operator.pem, operator.key, credential, operator.json}
             <site>/{ca.pem, site.pem, site.key, credential, site.json}

`authority` is kept offline; it is needed only to provision, renew and revoke. A site that made its
own key (see `certificate_request`) gets ca.pem, site.pem and site.json only, none of which is
secret. Once a server's certificate has been revoked, `revoked.crl` states this (see `revocation`)
in the folders of the authority and the operator, and in every site's kit written from then on.

After a kill at any moment, the same call goes on; `add` and `revoke` may say that it was done.
"""

from __future__ import annotations

import dataclasses
import datetime
import os
import pathlib
from collections.abc import Sequence

from federated.security import certificates, federation_folder
from federated.security.authority import Authority, key_file, now, write_private
from federated.security.credentials import hashed, new_secret
from federated.security.kit_files import FORMAT
from federated.wire import addresses
from federated.wire.site_names import RESERVED, check_site_name
from runkit import atomic, folder_lock, private

DEFAULT_SITES = ("C1", "C2")
VALID_DAYS = 365  # of a certificate


def provision(
    folder: str | os.PathLike,
    server_hosts: Sequence[str] | str,
    sites: Sequence[str] = DEFAULT_SITES,
    *,
    port: int = addresses.DEFAULT_PORT,
    valid_days: int = VALID_DAYS,
    authority_days: int = 3650,
    requests: Sequence[str | os.PathLike] = (),
    overwrite: bool = False,
) -> pathlib.Path:
    """Writes a new authority and all kits, readable by this account only; returns the folder.

    Args:
      server_hosts: names or addresses under which sites reach the server. The first is written into
        the sites' kits; localhost, 127.0.0.1 and ::1 are added to the certificate.
      sites: names of the sites whose keys are made here. A site's folder, certificate and rows bear
        its name.
      port: the server's port, written into the sites' kits.
      valid_days: lifetime of the certificates, which can be renewed while the authority is valid.
      authority_days: lifetime of the authority, after which everything has to be provisioned again.
      requests: certificate requests of sites that made their own keys.
      overwrite: replaces existing kits, which then stop working.
    Raises:
      ValueError: if a name cannot be used, a file is not a request, the folder already contains
        kits, or another process works in it.
    """
    hosts = [
        addresses.plain(host)
        for host in ([server_hosts] if isinstance(server_hosts, str) else server_hosts)
    ]
    folder = pathlib.Path(folder)
    if not hosts or not all(hosts):
        raise ValueError(
            "server_hosts is empty; give the name or address under which sites reach the server"
        )
    for host in hosts:
        addresses.check_host(host)
    if not sites and not requests:
        raise ValueError("sites is empty; give the name of every site")
    asked = [read_request_file(path) for path in requests]
    names = [*sites, *(request.name for request in asked)]
    _check_names(sites, [request.name for request in asked])
    _check_apart(names)
    if not 0 <= port <= 65535:
        raise ValueError(
            f"port is {port}; expected 1 to 65535, or 0 for a local run on any free port"
        )
    if not 1 <= valid_days <= authority_days:
        raise ValueError(
            f"valid_days is {valid_days}; expected 1 to the {authority_days} days of the authority"
        )
    private.folder(folder)
    with folder_lock.hold(folder):
        federation_folder.remove_unfinished(folder, names)
        for name in (*RESERVED, *names):
            atomic.restore_folder(folder / name)
        there = [name for name in (*RESERVED[::-1], *names) if (folder / name).exists()]
        if there and not overwrite:
            raise ValueError(
                f"{folder} holds {', '.join(there)} already; a new kit makes the old one useless: "
                "choose another folder, add only further sites to this one (--add, --requests), or "
                "ask to overwrite all kits (--overwrite)"
            )
        for name in there:
            private.refuse_link(folder / name)
            private.refuse_links(folder / name)
        if not there:
            atomic.write_text(folder / federation_folder.UNFINISHED, "\n".join((*RESERVED, *names)))
        try:
            _write_all(folder, hosts, port, sites, asked, valid_days, authority_days)
        except BaseException:
            federation_folder.remove_unfinished(
                folder, names
            )  # half a federation would be of no use
            raise
        (folder / federation_folder.UNFINISHED).unlink(missing_ok=True)
        atomic.sync_directory(folder)
    return folder


def _write_all(
    folder: pathlib.Path,
    hosts: Sequence[str],
    port: int,
    sites: Sequence[str],
    asked: Sequence[certificates.Request],
    valid_days: int,
    authority_days: int,
) -> None:
    key = certificates.new_key()
    with atomic.replacing_folder(folder / "authority") as kit:
        (kit / "ca.pem").write_bytes(
            certificates.to_pem(certificates.new_authority(key, authority_days, now()))
        )
        write_private(kit / "ca.key", certificates.key_to_pem(key))
        atomic.write_json(
            kit / "federation.json",
            {"format": FORMAT, "hosts": hosts, "port": port, "issued": []},
        )
    authority = Authority.of(folder)
    secrets = {name: new_secret() for name in ("operator", *sites)}
    authority.write_kit("server", valid_days)
    authority.write_kit("operator", valid_days, credential=secrets["operator"])
    for site in sites:
        authority.write_kit(site, valid_days, credential=secrets[site])
    for request in asked:
        authority.write_answer(request, valid_days)
    digests = {site: hashed(secrets[site]) for site in sites} | {
        request.name: request.credential_sha256 for request in asked
    }
    authority.write_book(
        {
            "format": FORMAT,
            "sites": dict(sorted(digests.items())),
            "operator": hashed(secrets["operator"]),
            "revoked": [],
            "port": port,
        }
    )


def add(
    folder: str | os.PathLike,
    *,
    sites: Sequence[str] = (),
    requests: Sequence[str | os.PathLike] = (),
    valid_days: int = VALID_DAYS,
    replace_credential: Sequence[str] = (),
) -> list[str]:
    """Adds sites to a federation, and renews those that send a request; returns their names.

    This changes the server's `credentials.json`. If the server runs on another machine, copy the
    file there.

    Args:
      sites: names of new sites whose keys are made here.
      requests: certificate requests of new sites, or of sites that renew their certificates.
      valid_days: lifetime of the certificates.
      replace_credential: sites whose request may come with a credential other than the known one.
        A request alone does not let anybody take a site's place: the operator has to allow it here.
    Raises:
      ValueError: if a name cannot be used or exists already, a file is not a request, or a request
        comes with an unexpected credential.
    """
    with federation_folder.opened(folder) as authority:
        return _add(authority, sites, requests, valid_days, replace_credential)


def _add(
    authority: Authority,
    sites: Sequence[str],
    requests: Sequence[str | os.PathLike],
    valid_days: int,
    replace_credential: Sequence[str],
) -> list[str]:
    asked = [read_request_file(path) for path in requests]
    _check_names(sites, [request.name for request in asked])
    folder, book = authority.folder, authority.book()
    there = [site for site in sites if site.lower() in {name.lower() for name in book["sites"]}]
    if there:
        raise ValueError(
            f"{folder}: {', '.join(there)} is there already; renew it, or choose another name"
        )
    _check_apart(
        [
            name
            for name in (*sites, *(request.name for request in asked))
            if name not in book["sites"]
        ],
        tuple(book["sites"]),
    )
    similar = {name.lower(): name for name in book["sites"]}
    for path, request in zip(requests, asked, strict=True):
        if similar.get(request.name.lower(), request.name) != request.name:
            raise ValueError(
                f"{path}: asks for {request.name!r}, and there is "
                f"{similar[request.name.lower()]!r}; choose another name"
            )
        if (
            book["sites"].get(request.name, request.credential_sha256) != request.credential_sha256
            and request.name not in replace_credential
        ):
            raise ValueError(
                f"{path}: comes with another credential than site {request.name} has, whose kit "
                "would stop working. If the site has lost its kit and says so over the telephone, "
                f"add --replace_credential={request.name}"
            )
    for site in sites:
        credential = new_secret()
        authority.write_kit(site, valid_days, credential=credential)
        book["sites"][site] = hashed(credential)
    for request in asked:
        authority.write_answer(request, valid_days)
        book["sites"][request.name] = request.credential_sha256
    authority.write_book(book)
    return [*sites, *(request.name for request in asked)]


def meaning(folder: str | os.PathLike, request: certificates.Request) -> str:
    """Returns the effect that signing a request would have, to be shown to the operator."""
    with federation_folder.opened(folder) as authority:
        book = authority.book()
    if request.name not in book["sites"]:
        return "a new site"
    if book["sites"][request.name] == request.credential_sha256:
        return "a renewal by the existing site"
    return "WITH ANOTHER CREDENTIAL than the existing site, whose kit would stop working"


def renew(folder: str | os.PathLike, names: Sequence[str], *, valid_days: int = VALID_DAYS) -> None:
    """Replaces key and certificate in kits whose keys were made here.

    Credentials and running sessions stay valid.

    Raises:
      ValueError: if there is no kit of that name here. A site that made its own key sends a new
        request instead (see `add`).
    """
    with federation_folder.opened(folder) as authority:
        for name in names:
            if not (authority.folder / name / key_file(name)).is_file():
                raise ValueError(
                    f"{folder}: the key of {name!r} was not made here; renew the certificate by a "
                    "new request of that site"
                )
        for name in names:
            authority.write_kit(name, valid_days)


def revoke(
    folder: str | os.PathLike, names: Sequence[str], *, valid_days: int = VALID_DAYS
) -> None:
    """Excludes sites or "operator": deletes their credentials and revokes all their certificates.

    This takes effect at the next call to a server that reads this folder's `credentials.json`. If
    the server runs on another machine, copy the file there; until then, the operator can evict the
    site.

    For "server", makes a new key and certificate for the server, and a statement that earlier ones
    are revoked. The server passes the statement on at every login, and from then on sites refuse
    the earlier certificates. Copy the whole folder to the server.

    Args:
      valid_days: lifetime of the server's new certificate.
    Raises:
      ValueError: if a name is not part of the federation.
    """
    with federation_folder.opened(folder) as authority:
        book = authority.book()
        unknown = [
            name
            for name in names
            if name not in (*book["sites"], "server")
            and not (name == "operator" and book["operator"])
        ]
        if unknown:
            raise ValueError(
                f"{folder}: {', '.join(unknown)} has no part in it; "
                f"there are {', '.join(book['sites'])}"
            )
        for name in names:
            book["sites"].pop(name, None)
            book["operator"] = "" if name == "operator" else book["operator"]
            held = {entry["sha256"] for entry in authority.about["issued"] if entry["name"] == name}
            book["revoked"] = sorted({*book["revoked"], *held})
        if "server" in names:
            book["server_revocation"] = authority.revoke_server(valid_days).decode("ascii")
        authority.write_book(book)


@dataclasses.dataclass(frozen=True)
class Issued:
    """One entry of the authority's list of certificates."""

    name: str
    sha256: str
    ends: datetime.datetime
    state: str  # "valid", "ends soon", "ended" or "revoked"


def issued(folder: str | os.PathLike) -> list[Issued]:
    """Returns every issued certificate: the authority's own, then the others from the oldest on."""
    with federation_folder.opened(folder) as authority:
        revoked = set(authority.book()["revoked"])
    today = now()

    def entry(name: str, sha256: str, ends: datetime.datetime) -> Issued:
        days = (ends - today).total_seconds() / 86400
        state = (
            "revoked"
            if sha256 in revoked
            else "ended"
            if days <= 0
            else "ends soon"
            if days < certificates.WARN_DAYS
            else "valid"
        )
        return Issued(name, sha256, ends, state)

    own = authority.certificate
    return [
        entry("authority", certificates.fingerprint(own), own.not_valid_after_utc),
        *(
            entry(e["name"], e["sha256"], datetime.datetime.fromisoformat(e["ends"]))
            for e in authority.about["issued"]
        ),
    ]


def authority_fingerprint(folder: str | os.PathLike) -> str:
    """Returns the fingerprint that the operator reads out to a site that installs an answer."""
    with federation_folder.opened(folder) as authority:
        return certificates.spoken(certificates.fingerprint(authority.certificate))


def read_request_file(path: str | os.PathLike) -> certificates.Request:
    """Reads a site's request. Raises ValueError naming a file that is a link, or not a request."""
    private.refuse_link(path)
    try:
        return certificates.read_request(atomic.read_bytes(path))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; give the request that the site made") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}; have the site make it again") from error


def _check_names(names: Sequence[str], requested: Sequence[str] = ()) -> None:
    for name in (*names, *requested):
        check_site_name(name)
    both = [name for name in names if name.lower() in {other.lower() for other in requested}]
    if both:
        raise ValueError(
            f"sites {', '.join(both)}: named, although they sent requests; name only sites whose "
            "keys are made here, or none (--sites=)"
        )
    names = [*names, *requested]
    if len({name.lower() for name in names}) != len(names):
        raise ValueError(
            f"sites {', '.join(names)}: a name is given twice; "
            "file systems may not distinguish upper and lower case"
        )


def _check_apart(new: Sequence[str], known: Sequence[str] = ()) -> None:
    """Raises ValueError if a model of one site could be mistaken for another's.

    A model's name begins with its site's name and "_". Pairs of sites that an earlier release
    accepted are kept; the server then assigns a model to the longer name (see `server.uploads`).
    """
    for name in new:
        for other in (*known, *new):
            short, long = sorted((name, other), key=len)
            if long.lower().startswith(f"{short.lower()}_"):
                example = f", e.g. {short}-{long[len(short) + 1 :]}" if long in new else ""
                raise ValueError(
                    f"site names {short!r} and {long!r} cannot be in one federation: models of "
                    f"{short!r} may begin with '{long}_', and those of {long!r} must; "
                    f"choose another name for the new site{example}"
                )
