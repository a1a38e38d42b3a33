"""Makes, renews and revokes the kits by which server, operator and sites trust each other.

    python -m experiments.provision --output=federation --server_host=fl.example.org --sites=C1,C2
    python -m experiments.provision --output=federation --server_host=fl.example.org --sites= \\
        --requests=C1.csr,C2.csr
    python -m experiments.provision --output=federation --add=C3

Further steps in an existing federation: --renew=server,C1, --revoke=C2, --revoke=server, --list.

With --requests the sites make their own keys (`experiments.request`), and nothing secret has to be
sent. Read the authority's fingerprint out to every site, which needs it to install your answer.
Keep the folder `authority` offline.
"""

from __future__ import annotations

from absl import app, flags

from experiments import flags as experiment_flags
from experiments import program
from federated.security import certificates, federation_folder, provisioning
from federated.wire import addresses

FLAGS = flags.FLAGS
flags.DEFINE_string("output", None, "Folder to write the kits to.")
flags.DEFINE_list(
    "server_host",
    ["localhost"],
    "Host names or addresses at which sites reach the server; the first goes into their kits.",
)
flags.DEFINE_list("sites", list(provisioning.DEFAULT_SITES), "Sites whose keys are made here.")
flags.DEFINE_list(
    "requests",
    [],
    "Certificate requests (.csr) of sites that made their own keys. In an existing federation: of "
    "new sites, or of sites that renew their certificate.",
)
flags.DEFINE_integer(
    "port", addresses.DEFAULT_PORT, "Port of the server, written into the sites' kits."
)
flags.DEFINE_integer(
    "valid_days", provisioning.VALID_DAYS, "Days for which the certificates are valid."
)
flags.DEFINE_bool("overwrite", False, "Replace existing kits; the old ones stop working.")
flags.DEFINE_list("add", [], "Add these sites to an existing federation; their keys are made here.")
flags.DEFINE_list(
    "renew",
    [],
    "Make new keys and certificates for these kits: names of sites, 'server' or 'operator'.",
)
flags.DEFINE_list(
    "revoke",
    [],
    "Revoke these kits: names of sites or 'operator'. 'server' gives the server a new key; sites "
    "refuse the old one as soon as they learn of it.",
)
flags.DEFINE_list(
    "replace_credential",
    [],
    "Sites whose request may contain a new credential; their present kit then stops working.",
)
flags.DEFINE_bool(
    "list",
    False,
    "Change nothing; show the fingerprints of --requests, and each certificate with its expiry and "
    "state.",
)


def main(argv: list[str]) -> None:
    del argv
    output = experiment_flags.required("output", "the folder to write the kits to")
    changes = [name for name in ("add", "renew", "revoke", "list") if getattr(FLAGS, name)]
    if len(changes) > 1:
        raise app.UsageError(
            f"--{changes[0]} and --{changes[1]} are separate steps; run one after the other"
        )
    if FLAGS.requests and (FLAGS.renew or FLAGS.revoke):
        raise app.UsageError(
            "--requests and --renew or --revoke are separate steps; run one after the other"
        )
    asked = [(path, provisioning.read_request_file(path)) for path in FLAGS.requests]
    for path, request in asked:
        _show_request(path, request, output)
    if FLAGS.list:
        if not asked or federation_folder.is_provisioned(output):
            _list(output)
        return
    if FLAGS.revoke:
        provisioning.revoke(output, FLAGS.revoke, valid_days=FLAGS.valid_days)
        remark = _NEW_SERVER_KEY if "server" in FLAGS.revoke else _NEW_CREDENTIALS
        print(f"revoked: {', '.join(FLAGS.revoke)}. {remark}")
    elif FLAGS.renew:
        provisioning.renew(output, FLAGS.renew, valid_days=FLAGS.valid_days)
        print(
            f"renewed: {', '.join(FLAGS.renew)}; copy each folder to the machine that uses it; "
            "running programs read it there by themselves"
        )
    elif FLAGS.add or (asked and federation_folder.is_provisioned(output) and not FLAGS.overwrite):
        added = provisioning.add(
            output,
            sites=FLAGS.add,
            requests=FLAGS.requests,
            valid_days=FLAGS.valid_days,
            replace_credential=FLAGS.replace_credential,
        )
        print(f"{output}: {', '.join(added)}. {_NEW_CREDENTIALS}")
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
        names = [*sites, *(request.name for _, request in asked)]
        print(f"{output}: authority, server, operator, {', '.join(names)}")
    print(
        f"authority's fingerprint {provisioning.authority_fingerprint(output)}; read it out to "
        "every site that installs an answer"
    )
    _list(output)


_NEW_CREDENTIALS = (
    "The server's credentials.json has changed; if the server uses a copy, copy it there again"
)
_NEW_SERVER_KEY = (
    "Copy the server's whole folder to the server at once and restart it. Sites learn of the "
    "revocation at their next login; to tell them earlier, send them authority/revoked.crl by any "
    "channel (experiments.request --revoked)"
)


def _show_request(path: str, request: certificates.Request, output: str) -> None:
    what = (
        provisioning.meaning(output, request)
        if federation_folder.is_provisioned(output)
        else "a new site"
    )
    print(
        f"{path}: {request.name}, {what}; fingerprint "
        f"{certificates.spoken(request.fingerprint)}, compare it with the site's by telephone"
    )


def _list(output: str) -> None:
    print(f"{'name':<34}{'expires':<13}{'state':<11}fingerprint (SHA-256, first half)")
    for entry in provisioning.issued(output):
        print(
            f"{entry.name:<34}{entry.ends:%Y-%m-%d}   "
            f"{entry.state:<11}{certificates.spoken(entry.sha256)}"
        )


if __name__ == "__main__":
    program.run(main, required=["output"])
