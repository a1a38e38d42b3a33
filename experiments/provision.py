"""Makes, renews and revokes the kits by which server, operator and sites trust each other.

    python -m experiments.provision --output=federation --server_host=fl.example.org --sites=C1,C2
    python -m experiments.provision --output=federation --server_host=fl.example.org --sites= --requests=C1.csr,C2.csr
    python -m experiments.provision --output=federation --add=C3        (or --renew=server,C1, --revoke=C2, --revoke=server, --list)

With --requests the sites made their own keys (`experiments.request`), and nothing secret is sent.
Read the authority's fingerprint out to every site: its answer is taken in with it only. Keep
`authority` offline.
"""

from __future__ import annotations

import pathlib

from absl import app, flags

from experiments import flags as experiment_flags

FLAGS = flags.FLAGS
flags.DEFINE_string("output", None, "Folder of the kits.")
flags.DEFINE_list(
    "server_host",
    ["localhost"],
    "Names or addresses under which sites reach the server; the first goes into their kits.",
)
flags.DEFINE_list("sites", ["C1", "C2"], "Names of the sites whose keys are made here.")
flags.DEFINE_list(
    "requests",
    [],
    "Certificate requests of sites that made their own keys; in a federation that is there, of new or renewing ones.",
)
flags.DEFINE_integer("port", 8443, "The server's port, written into the sites' kits.")
flags.DEFINE_integer("valid_days", 365, "Lifetime of the certificates.")
flags.DEFINE_bool("overwrite", False, "Replace kits that are there; the old ones stop working.")
flags.DEFINE_list("add", [], "Take these sites in: keys made here, the others' kits stay.")
flags.DEFINE_list(
    "renew", [], "New keys and certificates for these kits made here: site names, server, operator."
)
flags.DEFINE_list(
    "revoke",
    [],
    "Shut these out: site names, or operator. With server: a new key for it; sites refuse the old one once they hear of it.",
)
flags.DEFINE_list(
    "replace_credential",
    [],
    "Sites whose request may come with another credential than the known one, which ends the kit they have.",
)
flags.DEFINE_bool(
    "list",
    False,
    "Change nothing: show the fingerprints of --requests, and every certificate, its end and state.",
)


def main(argv: list[str]) -> None:
    del argv
    from federated.security import provisioning

    output = experiment_flags.required("output", "the folder to write the kits to")
    changes = [name for name in ("add", "renew", "revoke", "list") if getattr(FLAGS, name)]
    if len(changes) > 1:
        raise app.UsageError(
            f"--{changes[0]} and --{changes[1]} are two steps; take one after the other"
        )
    if FLAGS.requests and (FLAGS.renew or FLAGS.revoke):
        raise app.UsageError(
            "--requests and --renew or --revoke are two steps; take one after the other"
        )
    asked = [(path, provisioning.read_request_file(path)) for path in FLAGS.requests]
    for path, request in asked:
        _show_request(path, request, output)
    if FLAGS.list:
        if not asked or _is_there(output):
            _list(output)
        return
    if FLAGS.revoke:
        provisioning.revoke(output, FLAGS.revoke, valid_days=FLAGS.valid_days)
        print(
            f"revoked: {', '.join(FLAGS.revoke)}. {_CARRY_SERVER if 'server' in FLAGS.revoke else _CARRY}"
        )
    elif FLAGS.renew:
        provisioning.renew(output, FLAGS.renew, valid_days=FLAGS.valid_days)
        print(
            f"renewed: {', '.join(FLAGS.renew)}; carry each folder to where it is used; running programs read it there by themselves"
        )
    elif FLAGS.add or (asked and _is_there(output) and not FLAGS.overwrite):
        added = provisioning.add(
            output,
            sites=FLAGS.add,
            requests=FLAGS.requests,
            valid_days=FLAGS.valid_days,
            replace_credential=FLAGS.replace_credential,
        )
        print(f"{output}: {', '.join(added)}. {_CARRY}")
    else:
        sites = [site for site in FLAGS.sites if site]
        provisioning.provision(
            output,
            FLAGS.server_host,
            sites,
            port=FLAGS.port,
            valid_days=FLAGS.valid_days,
            requests=FLAGS.requests,
            overwrite=FLAGS.overwrite,
        )
        print(
            f"{output}: authority, server, operator, {', '.join([*sites, *(request.name for _, request in asked)])}"
        )
    print(
        f"authority's fingerprint {provisioning.authority_fingerprint(output)}; read it out to every site that takes an answer in"
    )
    _list(output)


_CARRY = "The server's credentials.json has changed; where the server uses a copy, carry it there"
_CARRY_SERVER = (
    "Carry the whole folder of the server there at once and start it again. Sites hear of it at their next login; authority/revoked.crl, "
    "sent by any channel, tells them before (experiments.request --revoked)"
)


def _is_there(output: str) -> bool:
    return (pathlib.Path(output) / "authority").is_dir()


def _show_request(path: str, request, output: str) -> None:
    from federated.security import certificates, provisioning

    what = provisioning.meaning(output, request) if _is_there(output) else "a new site"
    print(
        f"{path}: {request.name}, {what}; fingerprint {certificates.spoken(request.fingerprint)}, compare it with the site's by telephone"
    )


def _list(output: str) -> None:
    from federated.security import certificates, provisioning

    print(f"{'name':<34}{'ends':<13}{'state':<11}fingerprint (SHA-256, first half)")
    for entry in provisioning.issued(output):
        print(
            f"{entry.name:<34}{entry.ends:%Y-%m-%d}   {entry.state:<11}{certificates.spoken(entry.sha256)}"
        )


if __name__ == "__main__":
    experiment_flags.run(main, required=["output"])
