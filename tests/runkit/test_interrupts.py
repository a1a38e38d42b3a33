"""Each program is started as a separate process and sends itself the signal of Ctrl-C."""

import signal
import subprocess
import sys

import pytest

PRESS = "import os, signal, threading\nos.kill(os.getpid(), signal.SIGINT)\n"


def run(program, *, ignoring=False):
    """Returns the exit code, the output and the error output of a program."""

    # Set here, since the process that runs the tests may itself be in the background.
    handler = "SIG_IGN" if ignoring else "default_int_handler"
    begin = f"import signal\nsignal.signal(signal.SIGINT, signal.{handler})\n"
    done = subprocess.run(
        [sys.executable, "-c", f"{begin}from runkit import interrupts\n{program}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr


def test_before_it_began_a_program_ends_with_one_line():
    code, out, said = run(f"interrupts.end_at_once()\n{PRESS}\nprint('goes on')")
    assert (code, out) == (130, "")
    assert said == "stopped by Ctrl-C before it began; run the same command again\n"


def test_once_it_has_begun_a_program_hears_of_it_and_says_how_to_resume():
    program = (
        "interrupts.end_at_once()\ninterrupts.raise_instead()\nassert not interrupts.received()\n"
        f"try:\n    exec({PRESS!r})\nexcept KeyboardInterrupt:\n    print(interrupts.received())\n"
        "    interrupts.end('stopped; the same command resumes')\n"
    )
    assert run(program) == (130, "True\n", "stopped; the same command resumes\n")


def test_a_second_ctrl_c_ends_the_program_while_it_says_so():
    program = (
        "import sys\ninterrupts.raise_instead()\nclass Pressed:\n    isatty = lambda self: False\n"
        f"    write = lambda self, text: exec({PRESS!r})\n    flush = lambda self: None\n"
        "sys.stderr = Pressed()\ninterrupts.end('stopped')\n"
    )
    assert run(program)[0] == -signal.SIGINT


@pytest.mark.parametrize("call", ["end_at_once", "raise_instead"])
def test_a_program_in_the_background_goes_on_ignoring_it(call):
    """As a shell starts it with an ampersand."""
    assert run(f"interrupts.{call}()\n{PRESS}\nprint('goes on')", ignoring=True) == (
        0,
        "goes on\n",
        "",
    )


def test_only_the_main_thread_sets_handlers():
    program = (
        "import signal, threading\nbefore = signal.getsignal(signal.SIGINT)\n"
        "thread = threading.Thread(target=interrupts.end_at_once)\nthread.start()\nthread.join()\n"
        "assert signal.getsignal(signal.SIGINT) is before\n"
    )
    assert run(program) == (0, "", "")


@pytest.mark.parametrize(("number", "heard"), [("SIGTERM", "False"), ("SIGINT", "True")])
def test_a_program_with_its_own_handler_records_ctrl_c_only(number, heard):
    program = f"import signal\ninterrupts.note(signal.{number})\nprint(interrupts.received())"
    assert run(program) == (0, f"{heard}\n", "")
