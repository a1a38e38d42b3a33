"""The programs that only look or ask, and `list_cases`, whose system calls fail."""

from __future__ import annotations

import contextlib
import pathlib
import shutil
import sys
from collections.abc import Callable, Sequence

from experiments import flags  # noqa: F401 - imported once, before the processes
from tests.failing_calls import interception
from tests.failing_calls.commands import Command, files
from tests.federated import server_program, toy
from tests.power_loss import federation
from tests.preprocessing.preparation import test_pipeline


def audit(folder: pathlib.Path) -> Command:
    inputs, store = _finished_run(folder)
    authority = f"--authority={inputs / 'kits' / 'server' / 'ca.pem'}"
    place = folder / "place"
    return _command("audit", inputs, place, [f"--store={place}", authority, "--show"], store)


def verify(folder: pathlib.Path) -> Command:
    from tests.experiments import run_folder

    place, run = folder / "place", folder / "run"
    _in_a_process(folder, lambda: run_folder.leave_verifiable(run))
    return _command("verify", _inputs(folder), place, [f"--run={place}"], run, finds=True)


def doctor(folder: pathlib.Path) -> Command:
    """At a site, with its prepared cases and the running server."""
    inputs, port = _server(folder)
    test_pipeline.prepare(test_pipeline.cohort(folder / "scans", 2), folder / "site" / "cases")
    place = folder / "place"
    arguments = [f"--kit={inputs / 'kits' / 'C1'}", f"--site_folder={place}", "--site=C1"]
    arguments = [*arguments, f"--server=localhost:{port}"]
    return _command("doctor", inputs, place, arguments, folder / "site", finds=True, constant=False)


def doctor_server(folder: pathlib.Path) -> Command:
    inputs, store = _finished_run(folder)
    place = folder / "place"
    arguments = [
        f"--kit={inputs / 'kits' / 'server'}",
        f"--store={place}",
        f"--initial_model={inputs / 'kits' / 'initial.safetensors'}",
        "--host=127.0.0.1",
        "--port=0",
    ]
    return _command("doctor", inputs, place, arguments, store, finds=True, constant=False)


def status(folder: pathlib.Path) -> Command:
    inputs, port = _server(folder)
    place = folder / "place"
    arguments = [f"--kit={place}", f"--server=localhost:{port}"]
    kit = inputs / "kits" / "operator"
    return _command("status", inputs, place, arguments, kit, constant=False)


def operate(folder: pathlib.Path) -> Command:
    inputs, port = _server(folder)
    place = folder / "place"
    arguments = [f"--kit={place}", f"--server=localhost:{port}", "--order=pause"]
    return _command("operate", inputs, place, arguments, inputs / "kits" / "operator")


def list_cases(folder: pathlib.Path) -> Command:
    inputs, place = _inputs(folder), folder / "place"
    test_pipeline.cohort(inputs, 2)
    arguments = [
        "--site=C2",
        f"--images={inputs / 'images'}",
        f"--labels={inputs / 'labels'}",
        f"--output={place / 'manifest.json'}",
    ]
    return _command("list_cases", inputs, place, arguments)


SCENARIOS: dict[str, Callable[[pathlib.Path], Command]] = {
    "audit": audit,
    "verify": verify,
    "doctor": doctor,
    "doctor-server": doctor_server,
    "status": status,
    "operate": operate,
    "list-cases": list_cases,
}


def _command(
    program: str,
    inputs: pathlib.Path,
    place: pathlib.Path,
    arguments: Sequence[str],
    before: pathlib.Path | None = None,
    *,
    finds: bool = False,
    constant: bool = True,
) -> Command:
    """`place`, a copy of `before`, must be the same in the end."""

    def start() -> None:
        if before is not None:
            shutil.copytree(before, place)

    return Command(
        program,
        f"experiments.{program}",
        inputs,
        place,
        arguments,
        kept=files,
        finds=finds,
        constant=constant,
        before=_without_tensorflow,
        start=start,
    )


def _without_tensorflow() -> None:
    sys.modules["tensorflow"] = None  # type: ignore[assignment] - as if it were not installed


def _inputs(folder: pathlib.Path) -> pathlib.Path:
    (folder / "inputs").mkdir()
    return folder / "inputs"


def _finished_run(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """Returns the folder of the kits, and the store of a run that has ended."""
    kits, run = _inputs(folder) / "kits", folder / "run"
    federation.prepare(kits)
    run.mkdir()
    _in_a_process(folder, lambda: federation.run(run, kits))
    return kits.parent, run / federation.STORE


def _server(folder: pathlib.Path) -> tuple[pathlib.Path, int]:
    """Starts a server that waits for its sites; returns the folder of the kits, and its port.

    It ends with this process.
    """
    inputs = _inputs(folder)
    federation.prepare(inputs / "kits")
    serving = server_program.serving(inputs, num_rounds=1)
    toy.write_initial(inputs / "initial.safetensors")
    _, port = _running.enter_context(serving)
    return inputs, port


_running = contextlib.ExitStack()


def _in_a_process(folder: pathlib.Path, work: Callable[[], object]) -> None:
    """Does something that may leave threads, which a process that forks must not have."""

    def be() -> int:
        work()
        return 0

    ended = interception.run(be, folder / "made.log", seconds=120)
    if ended.code:
        raise AssertionError(ended.output[-2000:])
