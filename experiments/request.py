"""Makes a site's key where it stays, and the request to have it certified; then takes the operator's answer in.

    python -m experiments.request --kit=kit --site=C1               writes kit/site.csr: send it, compare fingerprints by telephone
    python -m experiments.request --kit=kit --answer=answer/C1      takes the answer in: the kit is ready for experiments.join

The same two steps renew a certificate. Neither site.csr nor the answer holds a secret.
"""

from __future__ import annotations

import pathlib

from absl import flags

from experiments import flags as experiment_flags

FLAGS = flags.FLAGS
flags.DEFINE_string("kit", None, "The site's folder; made if missing.")
flags.DEFINE_string("site", None, "Name of the site, as agreed with the operator; the kit knows it once it is in use.")
flags.DEFINE_string("answer", None, "Folder that the operator sent back: ca.pem, site.pem, site.json.")


def main(argv: list[str]) -> None:
    del argv
    from federated import certificates, enrolment
    from runkit import atomic

    kit = pathlib.Path(experiment_flags.required("kit", "the site's folder"))
    if FLAGS.answer:
        certificate = enrolment.install(kit, FLAGS.answer)
        print(
            f"{kit}: the certificate of site {certificates.common_name(certificate)} is in use until {certificate.not_valid_after_utc:%Y-%m-%d}"
        )
        print(f"fingerprint {certificates.spoken(certificates.fingerprint(certificate))}")
        return
    about = kit / "site.json"
    site = FLAGS.site or (atomic.read_json(about)["site"] if about.is_file() else None)
    request = enrolment.request(kit, site or experiment_flags.required("site", "the name of the site, as agreed with the operator"))
    print(f"send {kit / 'site.csr'} to the operator; site {request.name}")
    print(f"fingerprint {certificates.spoken(request.fingerprint)}; read it out over the telephone when the operator calls")


if __name__ == "__main__":
    experiment_flags.run(main)
