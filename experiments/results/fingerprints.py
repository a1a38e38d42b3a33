"""Digests of the inputs of a result: rows, models, each site's prepared data.

A digest reveals neither a case's name nor any number.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from runkit import atomic


def of_rows(rows: Iterable[Mapping[str, Any]]) -> str:
    """Returns the digest of per-case rows; the order of rows and columns does not matter."""
    lines = sorted(json.dumps(dict(row), sort_keys=True, allow_nan=False) for row in rows)
    return hashlib.sha256("\n".join(lines).encode("utf-8")).hexdigest()


def of_file(path: str | os.PathLike) -> str:
    """Returns the SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with atomic.naming(path), open(path, "rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def of_prepared_data(case_store: str | os.PathLike) -> str:
    """Returns the digest of a site's prepared cases: their files, settings and splits."""
    index = atomic.read_json(pathlib.Path(case_store) / "index.json")
    kept = {key: index[key] for key in ("settings", "splits", "sources", "numbers") if key in index}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode("utf-8")).hexdigest()


def of_run(folder: str | os.PathLike) -> dict[str, dict[str, str]]:
    """Returns the digests of a run's `models` (by name) and prepared `data` (by site).

    Whatever is not in the folder is left out, e.g. the sites' data at a real server.
    """
    folder = pathlib.Path(folder)
    models = {"initial": folder / "initial.safetensors"}
    models |= {file.stem: file for file in sorted(folder.glob("server/models/*.safetensors"))}
    globals_ = sorted(folder.glob("server/global/round_*.safetensors"))
    models |= {file.stem: file for file in globals_[-1:]}
    stores = {
        file.parents[1].name: file.parent
        for file in sorted(folder.glob("sites/*/cases/index.json"))
    }
    return {
        "models": {name: of_file(file) for name, file in models.items() if file.exists()},
        "data": {site: of_prepared_data(store) for site, store in stores.items()},
    }
