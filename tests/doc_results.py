"""Takes a finished study or search into the docs, and keeps the tables of the docs equal to it.

    .venv/py3.11/bin/python -m tests.doc_results --take=runs/study --name=study \
        --processor="AMD EPYC, AVX-512, two cores"
    .venv/py3.11/bin/python -m tests.doc_results          only rewrite the tables of the docs

`docs/results/<name>.json` is the study's `study.json` without its rows by case and the points of
FROC curves, which would be most of it. A page shows a table of it after the line

    <!-- study: results/<name>.json, <heading> -->

The table is the first one below that heading in `study.md`, as the study's own report renders it.
`tests/test_doc_results.py` compares every such table with the JSON. Tables of a search are marked
with `search:` in place of `study:`, see `doc_search`.

`--take` also writes `docs/results/<name>.tar.xz`: rows and settings of the finished runs, with
which a test compares the results.

Of a study that is not finished `--take` writes only this archive, with the runs' events. Unpacked in
a folder of runs, it lets the same study go on there, so that a study of many hours can be computed
in parts:

    mkdir -p runs && tar -xf docs/results/<name>.tar.xz -C runs
"""

from __future__ import annotations

import argparse
import json
import pathlib
import re
from typing import Any

from experiments.studies import study_results
from runkit import atomic
from tests import doc_archives, doc_search

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
_MARK = re.compile(
    r"(<!-- (?P<kind>study|search): (?P<file>results/\w+\.json), (?P<heading>[^\n]+) -->\n)"
    r"(?P<table>(?:\|[^\n]*\n)*)"
)


def shortened(study: dict[str, Any], processor: str) -> dict[str, Any]:
    """Returns `study.json` without rows by case and FROC curves, and with the processor's name.

    Raises:
      ValueError: if a run is not finished.
    """
    unfinished = [
        f"{run['label']}, seed {run['seed']}: {run['state']}"
        for run in study["runs"]
        if run["state"] != "finished"
    ]
    if "leakage" in study:
        measured = study["leakage"]["seeds"]
        unfinished += [
            f"{label}: membership inference measured in {measured.get(label, 0)} runs"
            for label in dict.fromkeys(run["label"] for run in study["runs"])
            if measured.get(label, 0) < len(study["seeds"])
        ]
    if unfinished:
        raise ValueError(f"the study is not finished: {'; '.join(unfinished)}")
    kept = {key: value for key, value in study.items() if key != "cases"}
    if "patients" in kept:
        kept["patients"] = {
            model: {name: value for name, value in measures.items() if name != "froc"}
            for model, measures in kept["patients"].items()
        }
    return {"processor": processor, **kept}


# What a study that goes on reads of a finished run. Its events, most of the bytes, are left out once
# the study is finished and has nothing to go on with.
EVENTS = "server/events.jsonl"
RUN_FILES = ("experiment.flags", "run.flags", "stages.json", "table1.json", EVENTS)
# Of a study that measures membership inference; a run without it is not finished.
MEMBERSHIP = "membership/membership.json"


def pack(study: dict[str, Any], folder: pathlib.Path, archive: pathlib.Path) -> None:
    """Writes the files of a study's finished runs; equal files give an equal archive.

    Args:
      folder: the study's folder.
      archive: a name that ends in ".tar.xz".
    """
    wanted = (*RUN_FILES, MEMBERSHIP) if "leakage" in study else RUN_FILES
    finished = [
        run
        for run in study["runs"]
        if run["state"] == "finished"
        and ("leakage" not in study or (folder / run["folder"] / MEMBERSHIP).is_file())
    ]
    goes_on = len(finished) < len(study["runs"])
    files = [name for name in wanted if goes_on or name != EVENTS]
    names = [f"{run['folder']}/{name}" for run in finished for name in files]
    doc_archives.write(
        archive, [(f"{folder.name}/{name}", (folder / name).read_bytes()) for name in names]
    )


def table(study: dict[str, Any], heading: str) -> str:
    """Returns the first table below a heading of the study's report, as lines of Markdown.

    Raises:
      ValueError: if the report has no such heading, or no table below it.
    """
    report = study_results.markdown(study)
    found = re.search(rf"^## {re.escape(heading)}\n(?P<below>.*?)(?=^## |\Z)", report, re.M | re.S)
    rows = found and re.search(r"(?:^\|[^\n]*\n)+", found["below"], re.M)
    if not rows:
        raise ValueError(f"study {study['name']} has no table below the heading {heading!r}")
    return rows[0]


def marked(page: str) -> list[tuple[str, str]]:
    """Returns the table of each marked place of a page's text, and what it should be."""
    return [(found["table"], _made(found)) for found in _MARK.finditer(page)]


def _made(found: re.Match[str]) -> str:
    content = json.loads((DOCS / found["file"]).read_text(encoding="utf-8"))
    tables = doc_search.table if found["kind"] == "search" else table
    return tables(content, found["heading"])


def rewritten(page: str) -> str:
    """Returns a page's text with the table of each marked place as the JSON has it."""
    return _MARK.sub(lambda found: found[1] + _made(found), page)


def take(folder: pathlib.Path, name: str, processor: str) -> None:
    """Writes the archive of a run, and its results if it is finished."""
    archive = DOCS / "results" / f"{name}.tar.xz"
    try:
        if doc_search.is_search(folder):
            doc_search.pack(folder, archive)
            result = doc_search.document(folder, processor)
        else:
            study = json.loads((folder / "study.json").read_text(encoding="utf-8"))
            pack(study, folder, archive)
            result = shortened(study, processor)
    except ValueError as unfinished:
        print(f"only what is finished is packed: {unfinished}")
    else:
        atomic.write_json(DOCS / "results" / f"{name}.json", result)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--take", type=pathlib.Path, help="folder of a study or search")
    parser.add_argument("--name", help="of the file in docs/results, without .json")
    parser.add_argument("--processor", help="on which the study ran")
    flags = parser.parse_args()
    if flags.take is not None:
        if not (flags.name and flags.processor):
            parser.error("--take needs --name and --processor")
        take(flags.take, flags.name, flags.processor)
    for path in sorted(DOCS.glob("*.md")):
        page = path.read_text(encoding="utf-8")
        if rewritten(page) != page:
            path.write_text(rewritten(page), encoding="utf-8")
            print(f"{path.relative_to(ROOT)}: rewritten")


if __name__ == "__main__":
    main()
