import pytest

from runkit import atomic, text_files

TEXT = "Müller/scan 1.nii.gz\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_determines_the_encoding(tmp_path, encoding):
    (tmp_path / "list.txt").write_text(TEXT, encoding=encoding)
    assert text_files.read(tmp_path / "list.txt") == TEXT
    (tmp_path / "value.json").write_text('{"name": "Müller"}', encoding=encoding)
    assert atomic.read_json(tmp_path / "value.json") == {"name": "Müller"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            TEXT.encode("latin-1"),
            r"is not UTF-8 \(byte 0xfc at position 1, perhaps Latin-1 or Windows-1252\); "
            "save it as UTF-8",
        ),
        (TEXT.encode("utf-16")[:-1], "is not UTF-16-LE"),
        (TEXT.encode("utf-16-le"), "UTF-16 without a byte-order mark"),
    ],
)
def test_any_other_encoding_is_one_clear_error(tmp_path, content, words):
    path = tmp_path / "list.txt"
    path.write_bytes(content)
    for read in (text_files.read, atomic.read_json):
        with pytest.raises(ValueError, match=words) as caught:
            read(path)
        assert str(path) in str(caught.value)


def test_file_names_that_are_not_utf8_keep_their_bytes(tmp_path):
    name = b"M\xfcller.nii.gz"
    (tmp_path / "list.txt").write_bytes(name + b"\n")
    text = text_files.read(tmp_path / "list.txt", errors="surrogateescape")
    assert text.strip().encode("utf-8", "surrogateescape") == name
    atomic.write_text(tmp_path / "table.csv", text)
    assert (tmp_path / "table.csv").read_bytes() == name + b"\n"
    atomic.write_json(tmp_path / "value.json", {"scan": text})
    assert atomic.read_json(tmp_path / "value.json") == {"scan": text}


def test_deeply_nested_json_is_an_error(tmp_path):
    (tmp_path / "deep.json").write_text("[" * 200_000)
    with pytest.raises(ValueError, match=r"deep\.json: not valid JSON"):
        atomic.read_json(tmp_path / "deep.json")
