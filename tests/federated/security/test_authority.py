import pytest

from federated.security import authority, provisioning
from federated.security.kit_files import read_kit_file


def test_every_certificate_is_listed_before_its_kit_is_written(tmp_path):
    folder = provisioning.provision(tmp_path / "kits", "localhost", ["C1"])
    opened = authority.Authority.of(folder)
    with pytest.raises(OSError, match="no room"):
        opened._write_address = fails  # after the certificate was issued
        opened.write_kit("C1", 30)
    listed = read_kit_file(folder / "authority" / "federation.json")["issued"]
    assert [entry["name"] for entry in listed].count("C1") == 2  # both can be revoked
    assert (folder / "C1" / "site.key").is_file()  # the kit of before is whole


def fails(*_):
    raise OSError("no room")


@pytest.mark.parametrize("name", ["server", "operator", "C1"])
def test_each_kit_has_the_key_of_its_kind(tmp_path, name):
    folder = provisioning.provision(tmp_path / "kits", "localhost", ["C1"])
    assert (folder / name / authority.key_file(name)).is_file()


def test_a_folder_without_an_authority_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"ca\.pem: no such file; give the folder"):
        authority.Authority.of(tmp_path)
