"""experiments.request and experiments.provision as a site and an operator start them."""

import re

from tests.experiments import programs


def run(folder, program, *arguments, code=0):
    done = programs.run(program, *arguments, folder=folder)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def authority_in(output):
    return re.findall(r"authority's fingerprint ((?:[0-9a-f]{4} ){7}[0-9a-f]{4})", output)


def test_both_ends_show_the_authority_and_a_site_takes_no_answer_without_it(tmp_path):
    said = run(tmp_path, "request", "--kit=kit", "--site=C1")
    assert "write down the authority's fingerprint" in said
    said = run(
        tmp_path,
        "provision",
        "--output=fed",
        "--server_host=fl.example.org",
        "--sites=",
        "--requests=kit/site.csr",
    )
    (authority,) = authority_in(said)
    for arguments in (
        ["--add=C2"],
        ["--renew=server,operator,C2"],
        ["--requests=kit/site.csr"],
        ["--revoke=C2"],
    ):
        assert authority_in(run(tmp_path, "provision", "--output=fed", *arguments)) == [
            authority
        ], arguments
    error = run(tmp_path, "request", "--kit=kit", "--answer=fed/C1", code=1)
    assert "the authority's fingerprint is missing" in error and authority not in error
    error = run(
        tmp_path,
        "request",
        "--kit=kit",
        "--answer=fed/C1",
        f"--authority={authority[:-4]}{'0' * 4}",
        code=1,
    )
    assert "is not the authority with the fingerprint" in error and "Traceback" not in error
    said = run(
        tmp_path,
        "request",
        "--kit=kit",
        "--answer=fed/C1",
        f"--authority={authority.upper().replace(' ', ':')}",
    )
    assert authority_in(said) == [authority] and "server fl.example.org:8443" in said

    said = run(tmp_path, "request", "--kit=kit")
    assert f"must come from the authority with the fingerprint {authority}" in said
    run(tmp_path, "provision", "--output=fed", "--requests=kit/site.csr")
    run(tmp_path, "request", "--kit=kit", "--answer=fed/C1")


def test_another_credential_and_a_stolen_key_of_the_server(tmp_path):
    run(tmp_path, "provision", "--output=fed", "--server_host=localhost", "--sites=C1")
    run(tmp_path, "request", "--kit=somebody", "--site=C1")
    error = run(tmp_path, "provision", "--output=fed", "--requests=somebody/site.csr", code=1)
    assert "WITH ANOTHER CREDENTIAL" in error and "add --replace_credential=C1" in error
    run(
        tmp_path,
        "provision",
        "--output=fed",
        "--requests=somebody/site.csr",
        "--replace_credential=C1",
    )
    run(tmp_path, "provision", "--output=fed", "--add=C2")
    said = run(tmp_path, "provision", "--output=fed", "--revoke=server")
    assert "Copy the server's whole folder" in said and re.search(
        r"^server .* revoked ", said, re.MULTILINE
    )
    said = run(tmp_path, "request", "--kit=fed/C2", "--revoked=fed/authority/revoked.crl")
    assert "server certificates before generation 1 are no longer trusted" in said
