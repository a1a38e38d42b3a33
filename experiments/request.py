"""Makes a site's key and certificate request, and installs the operator's answer.

    python -m experiments.request --kit=kit --site=C1
    python -m experiments.request --kit=kit --answer=answer/C1 \\
        --authority="515e abc8 5fd0 47e3 2f86 388d 5938 6c2e"
    python -m experiments.request --kit=kit --revoked=revoked.crl

The first command writes kit/site.csr: send it to the operator and compare fingerprints by
telephone; repeated before the answer is installed, it shows the same request. The second installs
the answer, after which the kit is ready for experiments.join. The third stops trusting earlier
certificates of the server, which the operator has revoked.

The operator reads out the fingerprint of the authority. Without that check, somebody between you
and the operator could impersonate the server. To renew a certificate, repeat the first two commands
without --authority. Neither site.csr nor the answer is secret.
"""

from __future__ import annotations

import pathlib

from absl import app, flags

from experiments import flags as experiment_flags
from experiments import program

FLAGS = flags.FLAGS
flags.DEFINE_string("kit", None, "The site's kit; made if missing.")
flags.DEFINE_string(
    "site",
    None,
    "Name of the site, as agreed with the operator. Needed for the first request only.",
)
flags.DEFINE_string(
    "answer", None, "Folder that the operator sent back, with ca.pem, site.pem and site.json."
)
flags.DEFINE_string(
    "authority",
    "",
    "With --answer: fingerprint of the authority, as the operator reads it out (at least its first "
    "32 digits, spaces allowed). Needed for the first answer; a renewal must come from the same "
    "authority.",
)
flags.DEFINE_bool(
    "confirm_change",
    False,
    "With --answer: accept a new authority, host, port or site name, which the operator has "
    "confirmed. A new authority needs --authority too.",
)
flags.DEFINE_string(
    "revoked",
    None,
    "File revoked.crl from the operator; the server certificates that it lists are no longer "
    "trusted.",
)


def main(argv: list[str]) -> None:
    del argv
    from federated.security import certificate_request, certificates
    from runkit import atomic

    kit = pathlib.Path(experiment_flags.required("kit", "the site's kit"))
    if FLAGS.answer and FLAGS.revoked:
        raise app.UsageError("--answer and --revoked are separate steps; run one after the other")
    if (FLAGS.authority or FLAGS.confirm_change) and not FLAGS.answer:
        raise app.UsageError(
            "--authority and --confirm_change need --answer, the folder that the operator sent back"
        )
    asked = certificate_request.pending(kit)
    own = certificate_request.site_of(kit)
    if (FLAGS.answer or FLAGS.revoked) and FLAGS.site and own and FLAGS.site != own:
        raise app.UsageError(
            f"--site is {FLAGS.site}, and {kit} is the kit of site {own}; omit --site, or give the "
            f"kit of {FLAGS.site}"
        )
    if FLAGS.revoked:
        generation = certificate_request.take_revocation(kit, FLAGS.revoked)
        print(f"{kit}: server certificates before generation {generation} are no longer trusted")
        return
    if FLAGS.answer:
        certificate = certificate_request.install(
            kit, FLAGS.answer, authority=FLAGS.authority, confirm_change=FLAGS.confirm_change
        )
        server = atomic.read_json(kit / "site.json")
        print(
            f"{kit}: the certificate of site {certificates.common_name(certificate)} is installed "
            f"and valid until {certificate.not_valid_after_utc:%Y-%m-%d}"
        )
        print(f"fingerprint {certificates.spoken(certificates.fingerprint(certificate))}")
        authority = certificates.spoken(certificate_request.authority_of(kit))
        print(f"server {server['host']}:{server['port']}; authority's fingerprint {authority}")
        return
    request = certificate_request.request(
        kit,
        FLAGS.site
        or own
        or experiment_flags.required("site", "the name of the site, as agreed with the operator"),
    )
    print(f"send {kit / 'site.csr'} to the operator; site {request.name}")
    print(
        f"fingerprint {certificates.spoken(request.fingerprint)}; read it out over the telephone "
        "when the operator calls"
    )
    if asked == request:
        print("it is the request that this kit made before; its answer is not installed yet")
    elif asked is not None:
        print(
            f"it replaces an earlier request of site {asked.name}, fingerprint "
            f"{certificates.spoken(asked.fingerprint)}: if you have sent that one, send this one "
            "too, because the answer to the earlier one is for another name"
        )
    if (kit / "ca.pem").is_file():
        authority = certificates.spoken(certificate_request.authority_of(kit))
        print(f"the answer must come from the authority with the fingerprint {authority}")
    else:
        print(
            "write down the authority's fingerprint that the operator reads out: you need it to "
            "install the answer (--authority)"
        )


if __name__ == "__main__":
    program.run(main, required=["kit"])
