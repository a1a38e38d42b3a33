"""A preparation of a small cohort, and what must hold after a power cut during it.

    python -m tests.power_loss.preparation ROOT SCANS

prepares the cases of SCANS in ROOT/site twice: the second time with another window, so that each
case takes the place of an earlier version.
"""

from __future__ import annotations

import contextlib
import io
import pathlib
import sys
from collections.abc import Mapping, Sequence

from preprocessing import case_store
from preprocessing import manifest as manifests
from preprocessing.preparation import pipeline
from tests.power_loss import recording, sync_lines
from tests.preprocessing.preparation.test_pipeline import cohort, contents

CASES = 4
_WINDOWS = ((-200.0, 250.0), (-160.0, 240.0))


def make_scans(scans: pathlib.Path) -> None:
    manifests.write(scans / "manifest.json", cohort(scans, CASES))


def command(root: pathlib.Path, scans: pathlib.Path) -> list[str]:
    return [sys.executable, "-m", "tests.power_loss.preparation", str(root), str(scans)]


def prepare(
    root: pathlib.Path, scans: pathlib.Path, window: Sequence[float] = _WINDOWS[-1]
) -> None:
    with contextlib.redirect_stderr(io.StringIO()):  # its bar
        pipeline.prepare(
            manifests.read(scans / "manifest.json"),
            root / "site",
            target_mm=(3, 3, 3),
            window_hu=window,
            split_seed=1,
            split_counts=(CASES, 0, 0),
        )


def check(
    root: pathlib.Path,
    marks: Sequence[str],
    *,
    scans: pathlib.Path,
    expected: Mapping[pathlib.Path, bytes],
) -> None:
    """Raises AssertionError, or what the program raises, unless every case that the last command
    finished is there whole, and the same command makes what it would have made without a cut.

    Args:
      expected: the store of a run without a cut.
    """
    told = [text.split() for text in marks]
    begun = max((int(words[1]) for words in told if words[0] == "begin"), default=0)
    finished = {words[1] for words in told if words[0] == "case" and int(words[2]) == begun}
    for case in sorted(finished):
        found = case_store.read_case_record(case_store.case_folder(root / "site", case))
        assert found, f"{case} is lost"
        assert found["settings"]["window_hu"] == list(_WINDOWS[begun]), f"{case} is an earlier one"
        if begun == len(_WINDOWS) - 1:
            _check_whole(root / "site", expected, case)
    if f"prepared {begun}" in marks:
        store = case_store.CaseStore(root / "site")
        assert store.settings["window_hu"] == list(_WINDOWS[begun]), "the index is an earlier one"
    prepare(root, scans)
    now = contents(root / "site")
    differing = {name for name in {*now, *expected} if now.get(name) != expected.get(name)}
    assert not differing, f"other content in {', '.join(sorted(map(str, differing)))}"


def _check_whole(site: pathlib.Path, expected: Mapping[pathlib.Path, bytes], case: str) -> None:
    found = contents(site)
    for name, content in expected.items():
        if case in name.parts:
            assert found.get(name) == content, f"{name} is lost or half there"


def _marking(version: int) -> None:
    """Marks each case of a version as soon as it is finished."""
    original = case_store.write_case

    def write_case(root: pathlib.Path, case_id: str, **named: object) -> None:
        original(root, case_id, **named)  # type: ignore[arg-type]
        recording.mark(f"case {case_id} {version}")

    case_store.write_case = write_case


if __name__ == "__main__":
    sync_lines.announce()
    given = [pathlib.Path(path) for path in sys.argv[1:]]
    plain = case_store.write_case
    for number, limits in enumerate(_WINDOWS):
        case_store.write_case = plain
        _marking(number)
        recording.mark(f"begin {number}")
        prepare(*given, limits)
        recording.mark(f"prepared {number}")
