"""The results of `make search` in the docs: `docs/results/search.json`, its tables, its archive.

`doc_results` is the program that takes them. An archive holds what the search itself reads again:
its scores, winners and trainings, but no cases and no weights. Unpacked in a folder of runs, it
lets the same search go on there; cohort and preparation are repeated.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

from c2fnas.search import evolution
from experiments.reports import search_page
from experiments.run.run_cost import minutes
from experiments.search import evidence, federated_search, search_state, whole_run
from runkit import atomic, markdown_tables
from tests import doc_archives

STAGES = ("topology", "operations")
FEDERATED = "federated/search"
REPEATED = ("cohort", "preparation")
FILES = (
    "run.flags",
    "experiment.flags",
    *(f"{stage}/{name}" for stage in STAGES for name in ("search.json", f"{stage}.json")),
    *(f"{stage}/{stage}_random.json" for stage in STAGES),
    "operations/paths.json",
    *(f"{FEDERATED}/{name}" for name in ("search.json", *federated_search.WINNERS)),
    f"evidence/{evidence.SETTINGS}",
    f"evidence/{evidence.DOCUMENT}",
)


def document(folder: pathlib.Path, processor: str) -> dict[str, Any]:
    """Returns the results of a finished search.

    Args:
      folder: the folder of `experiments.search_all`.
      processor: the machine on which it ran, in words.
    Raises:
      ValueError: if the search is not finished.
    """
    times = json.loads((folder / "stages.json").read_text(encoding="utf-8"))
    if "page" not in times["wall_seconds"]:
        raise ValueError(f"the search is not finished: {', '.join(times['wall_seconds'])}")
    return {
        "processor": processor,
        "wall_seconds": times["wall_seconds"],
        "peak_memory_bytes": times["peak_memory_bytes"],
        "stages": {
            **{stage: _best(folder / stage, stage) for stage in STAGES},
            **(
                {"operations, federated": _best(folder / FEDERATED, "operations")}
                if (folder / FEDERATED).exists()
                else {}
            ),
        },
        "evidence": atomic.read_json(folder / "evidence" / evidence.DOCUMENT),
    }


def _best(folder: pathlib.Path, stage: str) -> dict[str, Any]:
    state = search_state.read(folder)
    assert state is not None  # the stage is finished
    found = {}
    for arm, file in (("evolution", stage), ("random", f"{stage}_random")):
        (best,) = evolution.best(state.arms[arm])
        found[arm] = {
            "genotype": atomic.read_json(folder / f"{file}.json")["name"],
            "score": best.score,
            "macs": best.details["macs"],
            "scored": len(state.arms[arm].scored),
        }
    return found


def pack(folder: pathlib.Path, archive: pathlib.Path) -> None:
    """Writes the archive of a search, finished or not, see the module's text."""
    times = json.loads((folder / "stages.json").read_text(encoding="utf-8"))
    for name in REPEATED:
        times["wall_seconds"].pop(name, None)
    trainings = sorted((folder / "evidence" / evidence.TRAININGS).glob("*.json"))
    names = [*FILES, *(str(path.relative_to(folder)) for path in trainings)]
    files = [("stages.json", json.dumps(times, indent=1).encode())]
    files += [(name, (folder / name).read_bytes()) for name in names if (folder / name).exists()]
    doc_archives.write(archive, [(f"{folder.name}/{name}", content) for name, content in files])


def table(content: dict[str, Any], heading: str) -> str:
    """Returns a table of a search as lines of Markdown.

    Args:
      heading: "Winners", "Claims", "Networks", "Measures" or "Cost".
    Raises:
      ValueError: for another heading.
    """
    found = content["evidence"]
    if heading == "Claims":
        head, rows = search_page.claims_table(found)
    elif heading == "Networks":
        head, rows = search_page.networks_table(found)
    elif heading == "Winners":
        head = ["Stage", "Arm", "Scored#", "Genotype", "Score on validation cases#", "GMAC#"]
        rows = [
            [
                stage,
                arm,
                str(one["scored"]),
                f"`{one['genotype']}`",
                f"{100 * one['score']:.1f}",
                f"{one['macs'] / 1e9:.3f}",
            ]
            for stage, arms in content["stages"].items()
            for arm, one in arms.items()
        ]
    elif heading == "Measures":
        head = ["Measure", "Result"]
        rows = [["Noise floor", search_page.noise_text(found["noise"])]]
        rows += [["Supernet's ranking", search_page.tau_text(found["ranks"])]]
    elif heading == "Cost":
        head = ["Stage", "Wall time#"]
        rows = [[stage, minutes(took)] for stage, took in content["wall_seconds"].items()]
        rows += [["all", minutes(sum(content["wall_seconds"].values()))]]
        rows += [["peak memory", f"{content['peak_memory_bytes'] / 2**30:.1f} GiB"]]
    else:
        raise ValueError(f"a search has no table {heading!r}")
    return "".join(f"{line}\n" for line in markdown_tables.lines(head, rows))


def is_search(folder: pathlib.Path) -> bool:
    """Returns whether a folder of a run is that of a search, and not of a study."""
    return any((folder / stage).is_dir() for stage in whole_run.SETTINGS_OF)
