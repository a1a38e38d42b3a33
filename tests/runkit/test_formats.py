import json

import pytest

from runkit import formats


@pytest.mark.parametrize("found", [None, 1, 2, "1", "2"])
def test_a_known_format_passes(found):
    formats.refuse_newer("a.json", found, 2)


@pytest.mark.parametrize("found", [3, "3"])
def test_a_newer_format_is_refused_with_file_both_numbers_and_remedy(found):
    with pytest.raises(
        ValueError, match=r"a\.json: has format 3.* up to 2\. Install the release that wrote it"
    ):
        formats.refuse_newer("a.json", found, 2)


def test_a_file_without_a_number_has_the_number_of_its_release():
    formats.refuse_newer("a.json", None, 2, unstated=2)
    with pytest.raises(ValueError, match=r"has format 2, .* up to 1\."):
        formats.refuse_newer("a.json", None, 1, unstated=2)


@pytest.mark.parametrize("found", ["", "two", "²", -1, 0, 1.5, True, [], {"a": 1}])
def test_what_is_not_a_number_is_refused(found):
    with pytest.raises(ValueError, match=r"a\.json: its format is .*, expected a number up to 2"):
        formats.refuse_newer("a.json", found, 2)


def test_a_json_file_is_read_unless_a_newer_release_wrote_it(tmp_path):
    file = tmp_path / "a.json"
    for text in ('{"format": 2}', "{}", "[3]"):
        file.write_text(text)
        assert formats.read_json(file, 2) == json.loads(text)
    file.write_text('{"format": 3}')
    with pytest.raises(ValueError, match=r"a\.json: has format 3"):
        formats.read_json(file, 2)
    file.write_text("{")
    with pytest.raises(ValueError, match=r"a\.json: not valid JSON .*; make another"):
        formats.read_json(file, 2, remedy="make another")
