"""The program by which a site asks for its certificate."""

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from tests import forked
from tests.experiments.programs import refused


def test_a_request_is_the_sites_and_the_printed_fingerprint_is_its_keys_or_its_own(tmp_path):
    done = forked.run("experiments.request", "--kit=kit", "--site=C4", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("send kit/site.csr to the operator; site C4\n")
    request = x509.load_pem_x509_csr((tmp_path / "kit" / "site.csr").read_bytes())
    assert request.is_signature_valid and "C4" in request.subject.rfc4514_string()
    possible = []
    for content in (
        request.public_bytes(serialization.Encoding.DER),
        request.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        ),
    ):
        digest = hashes.Hash(hashes.SHA256())
        digest.update(content)
        possible.append(digest.finalize().hex())
    printed = done.stdout.split("fingerprint ")[1].split(";")[0].replace(" ", "")
    assert len(printed) >= 32 and any(full.startswith(printed) for full in possible)


def test_flags_of_an_answer_need_one_and_the_first_request_needs_a_name(tmp_path):
    error = refused("request", "--kit=kit", "--authority=00", folder=tmp_path)
    assert "--authority and --confirm_change need --answer" in error
    error = refused("request", "--kit=kit", folder=tmp_path)
    assert "--site is missing: the name of the site" in error
    assert not (tmp_path / "kit").exists()


def test_a_second_request_says_which_one_it_replaces(tmp_path):
    def ask(site):
        done = forked.run("experiments.request", "--kit=kit", f"--site={site}", folder=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    first = ask("C4")
    fingerprint = first.split("fingerprint ")[1].split(";")[0]
    assert "replaces" not in first
    second = ask("C5")
    assert f"replaces an earlier request of site C4, fingerprint {fingerprint}:" in second
    assert "send this one too" in second


def test_a_flag_that_contradicts_the_kit_or_another_flag_is_refused_and_nothing_changes(tmp_path):
    done = forked.run("experiments.request", "--kit=kit", "--site=C1", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    before = {file: file.read_bytes() for file in (tmp_path / "kit").iterdir()}
    cases = {
        ("--answer=answer", "--site=C2"): "--site is C2, and kit is the kit of site C1",
        ("--revoked=revoked.crl", "--site=C2"): "--site is C2, and kit is the kit of site C1",
        ("--answer=answer", "--revoked=revoked.crl"): "--answer and --revoked are separate steps",
        ("--answer=answer", "--site=C1"): "answer/ca.pem: no such file",
    }
    for flags, words in cases.items():
        assert words in refused("request", "--kit=kit", *flags, folder=tmp_path)
    assert {file: file.read_bytes() for file in (tmp_path / "kit").iterdir()} == before


def test_a_damaged_kit_is_named(tmp_path):
    (tmp_path / "kit").mkdir()
    for content in ("[]", '{"site": 1}', "{"):
        (tmp_path / "kit" / "site.json").write_text(content)
        for flags in ([], ["--site=C1"]):
            assert "kit/site.json" in refused("request", "--kit=kit", *flags, folder=tmp_path)
