import json

import pytest

from federated.security import kit_files


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
