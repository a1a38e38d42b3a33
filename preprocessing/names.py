"""File names as people choose them: with spaces, umlauts and suffixes in capitals."""

from __future__ import annotations

import hashlib
import os
import pathlib
import re
import unicodedata
from collections.abc import Iterable, Mapping

_NIFTI = re.compile(r"\.nii(\.gz)?\Z", re.IGNORECASE)
_SCAN = re.compile(r"\.(nii(\.gz)?|zip|dcm|dicom|ima)\Z", re.IGNORECASE)
_NO_ID = re.compile(r"[^A-Za-z0-9._-]+")
CASE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")


def is_nifti(path: str | os.PathLike) -> bool:
    """Returns whether a file has the name of a NIfTI file.

    The ._ file that macOS writes beside each file of an archive is not one.
    """
    name = pathlib.Path(path).name
    return _NIFTI.search(name) is not None and not name.startswith(".")


def nifti_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the NIfTI files of a folder, sorted by name. Raises ValueError if it is missing."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; correct the path")
    return sorted(path for path in folder.iterdir() if is_nifti(path))


def stem(path: str | os.PathLike) -> str:
    """Returns the name of a scan without .nii, .nii.gz, .zip or .dcm, or the name of a folder.

    This also works for a folder given as "." or "..". Umlauts are converted to one form of Unicode
    (macOS decomposes them), so that equal names compare equal.
    """
    name = pathlib.Path(path).name
    if name in ("", ".", ".."):
        name = os.path.basename(os.path.abspath(path)) or "scan"
    return unicodedata.normalize("NFC", _SCAN.sub("", name))


def by_stem(paths: Iterable[pathlib.Path], *, without: str = "") -> dict[str, pathlib.Path]:
    """Returns stem -> file.

    Args:
      without: suffix to remove from the end of a stem.
    Raises:
      ValueError: naming all files that share a stem.
    """
    found: dict[str, list[pathlib.Path]] = {}
    for path in paths:
        found.setdefault(stem(path).removesuffix(without), []).append(path)
    twice = [" and ".join(map(str, same)) for same in found.values() if len(same) > 1]
    if twice:
        raise ValueError(
            f"files have the same name: {'; '.join(twice)}; rename or remove one of each"
        )
    return {name: same[0] for name, same in found.items()}


def case_ids(names: Iterable[str]) -> Mapping[str, str]:
    """Returns name -> case id.

    The id is the name itself if it is a valid id; otherwise only the name's letters, digits, '.',
    '_' and '-' are kept. If letters are lost (Cyrillic ones, say) or two names would become one id,
    a digest of the name is appended, so that an id depends only on names that resemble its own.
    """
    names = list(names)
    ids = {name: name if CASE_ID.match(name) else _readable(name) for name in names}
    shared = {
        name
        for name in names
        if name != ids[name] and sum(other == ids[name] for other in ids.values()) > 1
    }
    return {name: f"{ids[name]}-{_digest(name)}" if name in shared else ids[name] for name in names}


def _readable(name: str) -> str:
    plain = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    lost = any(not c.isascii() and (c.isalnum() or 0xDC80 <= ord(c) <= 0xDCFF) for c in plain)
    kept = _NO_ID.sub("_", plain).strip("_").lstrip("._-")
    if lost or not kept:
        return "-".join(part for part in (kept, _digest(name)) if part)
    return kept


def _digest(name: str) -> str:
    return hashlib.sha256(
        unicodedata.normalize("NFC", name).encode("utf-8", "surrogateescape")
    ).hexdigest()[:8]
