import json
import shutil

import pytest

from federated.security.kit import Kit, NoPort
from tests import wrong_values


@pytest.fixture
def kit(kits, tmp_path):
    shutil.copytree(kits / "C1", tmp_path / "kit")
    return tmp_path / "kit"


def test_a_site_and_the_operator_are_told_apart(kits):
    site, operator = (Kit.read(kits / name, port=8443) for name in ("C1", "operator"))
    assert (site.name, operator.name) == ("C1", "operator")
    assert site.credential != operator.credential
    with pytest.raises(ValueError, match=r"site\.json: no such file"):
        Kit.read(kits / "operator", kinds=("site",), port=8443)


def test_host_and_port_come_from_the_kit_unless_given(kit):
    (kit / "site.json").write_text(json.dumps({"site": "C1", "host": "h.example", "port": 8500}))
    found = Kit.read(kit)
    assert (found.host, found.port) == ("h.example", 8500)
    found = Kit.read(kit, host="10.0.0.1", port=9000)
    assert (found.host, found.port) == ("10.0.0.1", 9000)


@pytest.mark.parametrize(("member", "file"), [("C1", "site"), ("operator", "operator")])
def test_a_kit_without_a_port_says_where_to_get_one(kits, member, file):
    with pytest.raises(NoPort, match=rf"{file}\.json: port is 0.*that the server printed"):
        Kit.read(kits / member)


@pytest.mark.parametrize(
    "content",
    [b"", b" \n", "Kennwört".encode(), b"two\nlines", b"a\0b", b"\x7f", b"a b", b"x" * 513],
)
def test_a_credential_that_cannot_be_one_is_named(kit, content):
    (kit / "credential").write_bytes(content)
    with pytest.raises(ValueError, match="credential: holds no credential"):
        Kit.read(kit, port=8443)


@pytest.mark.parametrize("name", ["", "C1\n", "é", "a b", "x" * 65, "\x1b[2J"])
def test_a_name_that_no_call_can_carry_is_refused_with_its_file(kit, name):
    (kit / "site.json").write_text(json.dumps({"site": name, "host": "h.example", "port": 8500}))
    with pytest.raises(
        ValueError, match=r'site\.json: expected {"site", "host", "port"}'
    ) as caught:
        Kit.read(kit)
    assert str(caught.value).isprintable()


ABOUT = {"format": 1, "site": "C1", "host": "h.example", "port": 8500}


@pytest.mark.parametrize("path", wrong_values.places(ABOUT), ids=wrong_values.named)
def test_any_value_at_any_place_is_taken_or_refused_with_its_file(kit, path):
    for content in wrong_values.replaced(ABOUT, path):
        (kit / "site.json").write_text(json.dumps(content))
        try:
            found = Kit.read(kit)
        except ValueError as error:
            assert str(kit / "site.json") in str(error) and str(error).isprintable()
        else:
            assert 0 < found.port <= 65535 and found.host.isprintable() and found.host


def test_a_kit_never_shows_its_credential(kit):
    found = Kit.read(kit, port=8443)
    assert found.credential and found.credential not in repr(found)


@pytest.mark.parametrize("missing", ["credential", "operator.json"])
def test_a_kit_that_is_not_whole_names_what_is_missing(kits, tmp_path, missing):
    shutil.copytree(kits / "operator", tmp_path / "kit")
    (tmp_path / "kit" / missing).unlink()
    with pytest.raises(ValueError, match=rf"{missing}.*provision"):
        Kit.read(tmp_path / "kit")
