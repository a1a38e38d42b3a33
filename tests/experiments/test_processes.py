import pytest

from experiments import processes


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """Programs of the test's own, startable with `python -m`."""
    (tmp_path / "works.py").write_text(
        "import sys\nprint('step 1', end='\\r')\nprint('step 2')\nblock = bytearray(200 << 20)\nsys.stdin.read()\n"
    )
    (tmp_path / "fails.py").write_text("import sys\nprint('reading')\nprint('error: scan.nii.gz: truncated; copy it again')\nsys.exit(1)\n")
    (tmp_path / "waits.py").write_text("import signal\nprint('up', flush=True)\nsignal.pause()\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def test_programs_end_well_and_their_last_words_and_memory_are_seen(modules):
    with processes.ProgramGroup(modules / "logs") as group:
        program = group.start("C1", "works", [])
        group.wait([program], "work")
    assert program.last_words() == "step 2"
    assert group.peak_memory_bytes > 10 << 20


def test_a_failing_program_is_explained_and_the_others_are_stopped(modules):
    with (
        pytest.raises(processes.ProgramFailed, match=r"C2 ended with exit code 1.*C2\.log\n  error: scan\.nii\.gz: truncated"),
        processes.ProgramGroup(modules / "logs") as group,
    ):
        server = group.start("server", "waits", [])
        group.wait([group.start("C2", "fails", [])], "work", also_alive=[server])
    assert server.process.poll() is not None


def test_waiting_for_a_program_that_ends_instead(modules):
    with processes.ProgramGroup(modules / "logs") as group:
        program = group.start("server", "fails", [])
        with pytest.raises(processes.ProgramFailed, match="truncated"):
            group.wait_for(lambda: False, program, "starting", timeout_s=60)


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("progress: C1 round 3: 5 of 9 step, in 0:10\n2026-11-28 08:15:33.1: I tensorflow/core/x.cc:1] Reduce to /job:a\n", "C1 round 3: 5 of 9 step"),
        ("progress: C1 round 3: 5 of 9 step\nI1128 08:15:33.123456 1 join.py:49] event=waiting site=C1\nW0000 x.cc:1] slow\n", "event=waiting site=C1"),
        ("progress: half\nerror: scan.nii.gz: truncated\n", "error: scan.nii.gz: truncated"),
        ("reading\n\nready\n", "ready"),
        ("", ""),
    ],
)  # fmt: skip
def test_the_last_words_are_the_products_own(tmp_path, log, words):
    (tmp_path / "a.log").write_text(log)
    program = processes.Program("C1", tmp_path / "a.log", None)
    assert words in program.last_words() and "progress:" not in program.last_words()


def test_off_a_terminal_each_program_has_a_line_of_its_own(monkeypatch, capsys):
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
