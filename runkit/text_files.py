"""Text files written by hand or by other programs: UTF-8, or the encoding of a byte-order mark."""

from __future__ import annotations

import codecs
import os
import pathlib

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark is a prefix of this one
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def read(path: str | os.PathLike, *, errors: str = "strict") -> str:
    """Returns the text of a file without its byte-order mark.

    Args:
      errors: "surrogateescape" keeps bytes that are not UTF-8, which file names may contain.
    Raises:
      ValueError: naming the file and the first byte that its encoding does not allow.
    """
    content = pathlib.Path(path).read_bytes()
    mark, encoding = next(
        ((mark, name) for mark, name in _MARKS if content.startswith(mark)), (b"", "utf-8")
    )
    if not mark and b"\0" in content:
        raise ValueError(
            f"{path}: contains zero bytes, perhaps UTF-16 without a byte-order mark; "
            "save it as UTF-8"
        )
    try:
        return content[len(mark) :].decode(encoding, errors if encoding == "utf-8" else "strict")
    except UnicodeDecodeError as error:
        byte = content[len(mark) + error.start]
        guess = ", perhaps Latin-1 or Windows-1252" if encoding == "utf-8" and byte >= 0x80 else ""
        raise ValueError(
            f"{path}: is not {encoding.upper()} "
            f"(byte {byte:#04x} at position {len(mark) + error.start}{guess}); save it as UTF-8"
        ) from error
