"""Makes a site's key and certificate request, and installs the operator's answer.

    python -m experiments.request --kit=kit --site=C1               writes kit/site.csr: send it, compare fingerprints by telephone
    python -m experiments.request --kit=kit --answer=answer/C1 --authority="515e abc8 5fd0 47e3 2f86 388d 5938 6c2e"
                                                                    takes the answer in: the kit is
                                                                        ready for experiments.join
    python -m experiments.request --kit=kit --revoked=revoked.crl   takes in that the server's earlier certificates are revoked

The fingerprint of the authority is what the operator reads out; without it anybody on the way could
pose as the server. The same two steps renew a certificate, then without --authority. Neither
site.csr nor the answer holds a secret.
"""

from __future__ import annotations

import pathlib

from absl import app, flags

from experiments import flags as experiment_flags

FLAGS = flags.FLAGS
flags.DEFINE_string("kit", None, "The site's folder; made if missing.")
flags.DEFINE_string(
    "site",
    None,
    "Name of the site, as agreed with the operator; the kit knows it once it is in use.",
)
flags.DEFINE_string(
    "answer", None, "Folder that the operator sent back: ca.pem, site.pem, site.json."
)
flags.DEFINE_string(
    "authority",
    "",
    "With --answer: fingerprint of the study's authority, as the operator reads it out; at least its first 32 digits, in groups or not. "
    "Needed for the first answer; a renewal must come from the same authority.",
)
flags.DEFINE_bool(
    "confirm_change",
    False,
    "With --answer: the operator has confirmed that authority, host, port or the site's name is another from now on. A new authority needs "
    "--authority too.",
)
flags.DEFINE_string(
    "revoked",
    None,
    "File revoked.crl of the operator: earlier certificates of the server are no longer trusted.",
)


def main(argv: list[str]) -> None:
    del argv
    from federated.security import certificate_request, certificates
    from runkit import atomic

    kit = pathlib.Path(experiment_flags.required("kit", "the site's folder"))
    if (FLAGS.authority or FLAGS.confirm_change) and not FLAGS.answer:
        raise app.UsageError(
            "--authority and --confirm_change go with --answer, the folder that the operator sent back"
        )
    if FLAGS.revoked:
        print(
            f"{kit}: certificates of the server before generation {certificate_request.take_revocation(kit, FLAGS.revoked)} are no longer trusted"
        )
        return
    if FLAGS.answer:
        certificate = certificate_request.install(
            kit, FLAGS.answer, authority=FLAGS.authority, confirm_change=FLAGS.confirm_change
        )
        about = atomic.read_json(kit / "site.json")
        print(
            f"{kit}: the certificate of site {certificates.common_name(certificate)} is in use until {certificate.not_valid_after_utc:%Y-%m-%d}"
        )
        print(f"fingerprint {certificates.spoken(certificates.fingerprint(certificate))}")
        print(
            f"server {about['host']}:{about['port']}; authority's fingerprint {certificates.spoken(certificate_request.authority_of(kit))}"
        )
        return
    about = kit / "site.json"
    site = FLAGS.site or (atomic.read_json(about)["site"] if about.is_file() else None)
    request = certificate_request.request(
        kit,
        site
        or experiment_flags.required("site", "the name of the site, as agreed with the operator"),
    )
    print(f"send {kit / 'site.csr'} to the operator; site {request.name}")
    print(
        f"fingerprint {certificates.spoken(request.fingerprint)}; read it out over the telephone when the operator calls"
    )
    if (kit / "ca.pem").is_file():
        print(
            f"the answer must come from the authority with the fingerprint {certificates.spoken(certificate_request.authority_of(kit))}"
        )
    else:
        print(
            "write down the authority's fingerprint that the operator reads out: the answer is taken in with it only, by --authority"
        )


if __name__ == "__main__":
    experiment_flags.run(main, required=["kit"])
