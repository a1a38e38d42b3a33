import datetime
import json
import shutil

import pytest

from federated.doctor import local_checks
from federated.security import certificate_request, kit_files, provisioning, tls
from federated.security.kit import Kit


@pytest.fixture
def federation(tmp_path):
    return provisioning.provision(tmp_path / "federation", "localhost", ("C1",), port=8443)


def opened_as(folder, kind):
    """Returns the error of a program that takes a folder for a kit of some kind."""
    with pytest.raises(ValueError, match="no such file") as error:
        if kind == "server":
            tls.Identity.of(folder, kind)
        else:
            Kit.read(folder, kinds=[kind])
    return str(error.value)


def test_a_file_of_this_release_or_an_earlier_one_is_read(tmp_path):
    path = tmp_path / "site.json"
    for content in ({"site": "C1"}, {"site": "C1", "format": 1}, ["C1"]):
        path.write_text(json.dumps(content))
        assert kit_files.read_kit_file(path) == content


def test_a_file_of_a_newer_release_is_refused_by_name(tmp_path):
    path = tmp_path / "site.json"
    path.write_text(json.dumps({"site": "C1", "format": 2}))
    with pytest.raises(ValueError, match=r"site\.json.*format 2"):
        kit_files.read_kit_file(path)


def test_a_file_that_is_not_json_is_named(tmp_path):
    (tmp_path / "site.json").write_text("{half")
    with pytest.raises(ValueError, match=r"site\.json: not valid JSON"):
        kit_files.read_kit_file(tmp_path / "site.json")


@pytest.mark.parametrize("kind", kit_files.KINDS)
@pytest.mark.parametrize("given", kit_files.KINDS)
def test_a_kit_of_another_kind_is_called_what_it_is(federation, kind, given):
    if kind == given:
        return
    folder = federation / {"site": "C1"}.get(given, given)
    expected = f"{folder} is {kit_files.KINDS[given]}: give {kit_files.KINDS[kind]}"
    assert expected in opened_as(folder, kind)


@pytest.mark.parametrize("kind", kit_files.KINDS)
def test_the_folder_of_the_kits_is_not_a_kit(federation, kind):
    kit = federation / {"site": "C1"}.get(kind, kind)
    expected = f"give {kit_files.KINDS[kind]}, which is a folder in {federation}, e.g. {kit}"
    assert expected in opened_as(federation, kind)


def test_a_site_that_has_not_installed_the_answer_is_told_to(federation, tmp_path):
    kit = tmp_path / "kit"
    certificate_request.request(kit, "C2")
    provisioning.add(federation, requests=[kit / "site.csr"])
    now = datetime.datetime.now(datetime.timezone.utc)
    answer = federation / "C2"
    for folder, expected in (
        (kit, "install the operator's answer: python -m experiments.request"),
        (answer, f"{answer} is the operator's answer, not a kit: install it in the kit that made"),
    ):
        assert expected in opened_as(folder, "site")
        (finding,) = local_checks.check_kit(folder, now=now)
        assert finding.state == "fault" and expected in finding.remedy


@pytest.mark.parametrize("name", ["credential", "site.pem", "site.key", "ca.pem"])
def test_a_kit_with_a_missing_file_is_to_be_used_whole(federation, tmp_path, name):
    kit = shutil.copytree(federation / "C1", tmp_path / "kit")
    (kit / name).unlink()
    assert "use the whole folder" in opened_as(kit, "site")


@pytest.mark.parametrize("name", ["site.pem", "site.key", "ca.pem"])
@pytest.mark.parametrize("content", ["", "no PEM"])
def test_a_damaged_file_of_a_kit_is_described_in_words(federation, tmp_path, name, content):
    kit = shutil.copytree(federation / "C1", tmp_path / "kit")
    (kit / name).write_text(content)
    with pytest.raises(ValueError, match="use the whole folder") as error:
        Kit.read(kit)
    assert (f"{kit / name}: is empty" if not content else "one is damaged") in str(error.value)
    assert "None" not in str(error.value)
