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
