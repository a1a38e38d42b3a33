"""A corpus of malformed inputs, and of unusual inputs that are valid.

Each kind is a folder with a manifest.json of one small case. The tests read them with the product,
`tests/benchmarks/malformed.py` with other software. To write all kinds, and an index in
corpus.json:

    python -m tests.preprocessing.corpus FOLDER
"""

from __future__ import annotations

import json
import pathlib
import sys

from tests.preprocessing.corpus_files import Kind, site
from tests.preprocessing.corpus_malformed import malformed
from tests.preprocessing.corpus_valid import valid

MALFORMED: tuple[Kind, ...] = tuple(malformed())
VALID: tuple[Kind, ...] = tuple(valid())


def write_kind(kind: Kind, folder: pathlib.Path) -> pathlib.Path:
    """Writes a kind into a folder and returns the path of its manifest."""
    folder.mkdir(parents=True)
    changes = kind.make(folder)
    path = folder / "manifest.json"
    if not path.exists():
        path.write_text(json.dumps(site(**(changes if isinstance(changes, dict) else {}))))
    return path


def write_all(folder: pathlib.Path) -> None:
    index = []
    for number, kind in enumerate((*MALFORMED, *VALID)):
        path = write_kind(kind, folder / f"{number:03d}")
        index.append(
            {
                "name": kind.name,
                "group": kind.group,
                "rule": kind.rule,
                "manifest": str(path.relative_to(folder)),
            }
        )
    (folder / "corpus.json").write_text(json.dumps(index, indent=1))


if __name__ == "__main__":
    write_all(pathlib.Path(sys.argv[1]))
