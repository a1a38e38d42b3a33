import dataclasses
import json
import pathlib
import signal
import subprocess
import sys

import psutil
import pytest

from c2fnas import genotype
from experiments import configuration
from experiments.run import processes
from federated.security import provisioning
from tests.experiments.studies import small_study
from tests.federated import toy
from tests.signals import usual

ROOT = pathlib.Path(__file__).parents[3]


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """Programs that only this test uses, startable with `python -m`."""
    (tmp_path / "works.py").write_text(
        "import sys\nprint('step 1', end='\\r')\nprint('step 2')\n"
        "block = bytearray(200 << 20)\nsys.stdin.read()\n"
    )
    (tmp_path / "fails.py").write_text(
        "import sys\nprint('reading')\nprint('error: scan.nii.gz: truncated; "
        "copy it again')\nsys.exit(1)\n"
    )
    (tmp_path / "waits.py").write_text("import signal\nprint('up', flush=True)\nsignal.pause()\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def test_a_program_that_succeeds_shows_its_latest_line_and_memory(modules):
    with processes.ProgramGroup(modules / "logs") as group:
        program = group.start("C1", "works", [])
        group.wait([program], "work")
    assert program.latest_line() == "step 2"
    assert group.peak_memory_bytes > 10 << 20


def test_a_failing_program_is_explained_and_the_others_are_stopped(modules):
    with (
        pytest.raises(
            processes.ProgramFailed,
            match=r"C2 ended with exit code 1.*C2\.log\n  error: scan\.nii\.gz: truncated",
        ),
        processes.ProgramGroup(modules / "logs") as group,
    ):
        server = group.start("server", "waits", [])
        group.wait([server, group.start("C2", "fails", [])], "work")
    assert server.process.poll() is not None


def test_waiting_for_a_program_that_ends_instead(modules):
    with processes.ProgramGroup(modules / "logs") as group:
        program = group.start("server", "fails", [])
        with pytest.raises(processes.ProgramFailed, match="truncated"):
            group.wait_for(lambda: False, program, "starting", timeout_s=60)


@pytest.mark.parametrize(
    ("log", "words"),
    [
        (
            "progress: C1 round 3: 5 of 9 step, in 0:10\n"
            "2026-11-28 08:15:33.1: I tensorflow/core/x.cc:1] Reduce to /job:a\n",
            "C1 round 3: 5 of 9 step",
        ),
        (
            "progress: C1 round 3: 5 of 9 step\n"
            "I1128 08:15:33.123456 1 join.py:49] event=waiting site=C1\n"
            "W0000 x.cc:1] slow\n",
            "event=waiting site=C1",
        ),
        ("progress: half\nerror: scan.nii.gz: truncated\n", "error: scan.nii.gz: truncated"),
        ("reading\n\nready\n", "ready"),
        ("", ""),
    ],
)
def test_the_latest_line_comes_from_the_product(tmp_path, log, words):
    (tmp_path / "a.log").write_text(log)
    program = processes.Program("C1", tmp_path / "a.log", None)
    assert words in program.latest_line() and "progress:" not in program.latest_line()


def test_without_a_terminal_each_program_has_its_own_line(monkeypatch, capsys):
    now = iter([0.0, 59.0, 61.0, 90.0, 125.0])
    monkeypatch.setattr(processes.time, "monotonic", lambda: next(now))
    display = processes._Display("baselines")
    for _ in range(4):
        display.show(["C1: round 1: 5 of 9 step", "C2: round 1: 6 of 9 step"])
    display.close()
    assert capsys.readouterr().err.splitlines() == [
        "baselines  1:01  C1: round 1: 5 of 9 step",
        "baselines  1:01  C2: round 1: 6 of 9 step",
        "baselines  2:05  C1: round 1: 5 of 9 step",
        "baselines  2:05  C2: round 1: 6 of 9 step",
    ]


def _started(logs, *program):
    """Returns a process that has started a program as its only child, and that child."""
    parent = subprocess.Popen(
        [sys.executable, "-m", "tests.experiments.programs_program", str(logs), *program],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=usual,
    )
    return parent, psutil.Process(int(parent.stdout.readline()))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_programs_end_in_order_when_their_parent_ends(tmp_path, number):
    """A server that outlived it would keep port and store, and the next start would be refused."""
    kits = provisioning.provision(tmp_path / "kits", "localhost", ("C1", "C2"), port=0)
    config = small_study.CONFIG
    plan = configuration.plan(
        config,
        genotype.load(config.genotype).with_size(filters=config.filters, classes=3).to_json(),
    )
    initial = toy.write_initial(tmp_path / "initial.safetensors", plan=plan)
    store = tmp_path / "store"
    settings = {
        name: ",".join(map(str, v)) if isinstance(v, tuple) else v
        for name, v in dataclasses.asdict(config).items()
    }
    flags = [f"--{name}={value}" for name, value in settings.items()]
    serve = [
        "experiments.serve",
        *flags,
        "--port=0",
        "--host=127.0.0.1",
        f"--kit={kits / 'server'}",
        f"--store={store}",
        f"--initial_model={initial}",
    ]
    parent, server = _started(tmp_path / "logs", *serve)
    log = tmp_path / "logs" / "one.log"
    while "serving on port" not in log.read_text():
        assert parent.poll() is None and server.is_running(), log.read_text()
        psutil.wait_procs([server], timeout=0.05)
    parent.send_signal(number)
    _, errors = parent.communicate(timeout=60)
    assert parent.returncode == -number
    assert errors.splitlines()[-1:] == (
        ["stopped by SIGTERM; run the same command again to resume"]
        if number == signal.SIGTERM
        else []
    )
    assert number != signal.SIGTERM or not server.is_running()
    assert _ended(server)
    assert json.loads((store / "events.jsonl").read_text().splitlines()[-1])["event"] == "stopped"
    assert (
        "stopped; run the same command again to resume" in log.read_text()
        and "Traceback" not in log.read_text()
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_program_that_works_or_imports_ends_with_its_parent(tmp_path, number):
    cohort = [
        "experiments.synthesize",
        "--site=C1",
        "--cases=100000",
        f"--output={tmp_path / 'cohort'}",
    ]
    parent, started = _started(tmp_path / "logs", *cohort)
    parent.send_signal(number)
    parent.communicate(timeout=60)
    assert _ended(started)


def _ended(process):
    _, alive = psutil.wait_procs([process], timeout=60)
    for left in alive:
        left.kill()  # nothing outlives the tests
    return not alive
