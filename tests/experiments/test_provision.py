"""The program that makes kits: what is in them, and steps that do not go together."""

import json

import pytest
from cryptography import x509

from tests import forked
from tests.experiments.programs import refused


def test_each_kit_names_the_server_and_holds_its_own_certificate(tmp_path):
    done = forked.run(
        "experiments.provision",
        f"--output={tmp_path / 'fed'}",
        "--server_host=fl.example.org",
        "--port=9000",
        "--sites=C1,C7",
    )
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path / 'fed'}: authority, server, operator, C1, C7\n" in done.stdout
    for site in ("C1", "C7"):
        about = json.loads((tmp_path / "fed" / site / "site.json").read_text())
        assert (about["host"], about["port"], about["site"]) == ("fl.example.org", 9000, site)
        certificate = x509.load_pem_x509_certificate(
            (tmp_path / "fed" / site / "site.pem").read_bytes()
        )
        assert site in certificate.subject.rfc4514_string()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--add=C1", "--renew=C2"], "--add and --renew are separate steps"),
        (["--requests=r.csr", "--revoke=C2"], "--requests and --renew or --revoke are separate"),
        (["--requests=absent.csr"], "absent.csr"),
        (["--sites=C1/x"], "C1/x"),
    ],
)
def test_steps_that_do_not_go_together_and_wrong_names_are_refused(flags, words, tmp_path):
    assert words in refused("provision", "--output=fed", *flags, folder=tmp_path)
    assert not (tmp_path / "fed" / "server").exists()
