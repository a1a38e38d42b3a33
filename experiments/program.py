"""The wrapper in which every program runs: --help, one line per error, Ctrl-C and exit codes."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
import threading
import traceback
import types
from collections.abc import Callable, Sequence
from typing import Any

from absl import app, flags, logging

from experiments import flag_files, program_help
from runkit import disk, interrupts, printable

FLAGS = flags.FLAGS

_REMEDIES = {
    errno.ENOENT: "correct the path",
    errno.ENOTDIR: "correct the path",
    errno.EISDIR: "give the path of a file",
    errno.EACCES: "give this account the right to use it, or choose another path",
    errno.EPERM: "give this account the right to use it, or choose another path",
    errno.EROFS: "choose a path on a disk that can be written",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "remove the link that leads back to itself",
    errno.EMFILE: "allow more open files (ulimit -n)",
}


def run(
    main: Callable[[list[str]], int | None],
    *,
    required: Sequence[str] = (),
    resumes: bool = False,
    expected: tuple[type[Exception], ...] = (),
) -> None:
    """Runs a program's `main` and ends the process with its exit code.

    An error in the user's input prints one line instead of a stack trace and exits with code 1 or
    the error's own code. Ctrl-C prints one line and exits with code 130. --help prints the
    program's purpose and flags and exits with code 0.

    Args:
      main: called with the program's name; returns the exit code, None for 0.
      required: names of the flags that the program needs; --help shows them first, and `main` gets
        them by the function `required`.
      resumes: whether running the same command again continues an interrupted run.
      expected: further errors with a message for the user, besides ValueError and OSError.
    """

    shown: tuple[type[Exception], ...] = (
        ValueError,
        OSError,
        app.UsageError,
        ModuleNotFoundError,
        *expected,
    )

    def guarded(argv: list[str]) -> None:
        if len(argv) > 1:
            raise app.UsageError(
                f"unexpected argument {argv[1]!r}; every setting is a flag (--help lists them)"
            )
        sys.exit(main(argv))

    def caught(argv: list[str]) -> None:
        try:
            guarded(argv)
        except shown as error:
            if interrupts.received() or (
                isinstance(error, ModuleNotFoundError) and not _is_of_an_extra(error)
            ):
                raise
            logging.debug("stack trace of the error below", exc_info=True)
            print(f"error: {printable.block(_words(error, resumes))}", file=sys.stderr)
            sys.exit(getattr(error, "exit_code", 1))

    for stream in (sys.stdout, sys.stderr):
        # Escape file names that the terminal's encoding cannot show.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if program_help.asked_for(sys.argv[1:]):
        _print_help(main, required)
        return
    _escape_foreign_text()
    logging.set_verbosity(logging.INFO)
    interrupts.raise_instead()
    try:
        app.run(caught, flags_parser=_parse)
    except BaseException as error:
        # Ctrl-C inside an import or a library may arrive here as another error.
        if interrupts.received() and not isinstance(error, SystemExit):
            again = "to resume" if resumes else "to start over"
            interrupts.end(f"stopped by Ctrl-C; run the same command again {again}")
        raise


def _is_of_an_extra(error: ModuleNotFoundError) -> bool:
    """Returns whether the missing module belongs to an optional package, not to this product."""
    top = (error.name or "").partition(".")[0]
    return top not in ("", "c2fnas", "experiments", "federated", "preprocessing", "runkit")


def _words(error: Exception, resumes: bool) -> str:
    if isinstance(error, ModuleNotFoundError):
        return (
            f"this program needs the package {(error.name or '').partition('.')[0]}, which is not "
            "installed here. The base installation is for servers and operators; install the "
            "packages of a site: pip install '.[site]' (with DICOM '.[dicom]')"
        )
    full = disk.full_text(error) if isinstance(error, OSError) else None
    if full is None:
        return (_of_a_path(error) if isinstance(error, OSError) else None) or str(error)
    kept = (
        "finished parts are kept, and the run continues after them"
        if resumes
        else "files finished before stay valid"
    )
    remedy = (
        "Raise the file size limit (ulimit -f) or use another file system,"
        if isinstance(error, OSError) and error.errno == errno.EFBIG
        else "Free space"
    )
    return f"{full}. {remedy} and run the same command again: {kept}"


def _of_a_path(error: OSError) -> str | None:
    """Returns the words for the system's error about one path, or None for any other error."""
    if error.errno is None or not error.strerror or error.filename2 is not None:
        return None
    if not isinstance(error.filename, (str, bytes, os.PathLike)):
        return None
    words = f"{os.fsdecode(error.filename)}: {error.strerror[0].lower()}{error.strerror[1:]}"
    remedy = _REMEDIES.get(error.errno) if error.strerror == os.strerror(error.errno) else None
    return f"{words}; {remedy}" if remedy else words


def _parse(argv: list[str]) -> list[str]:
    try:
        return flag_files.parse(FLAGS, argv)
    except flag_files.WrongFlags as error:
        print(f"error: {printable.block(error)} (--help lists the flags)", file=sys.stderr)
        sys.exit(1)


def _print_help(main: Callable[..., Any], required: Sequence[str]) -> None:
    own = [flag.name for flag in FLAGS.flags_by_module_dict().get(sys.argv[0], [])]
    with contextlib.suppress(BrokenPipeError):  # `--help | head`
        print(
            program_help.text(sys.modules[main.__module__].__doc__ or "", own, required),
            end="",
            flush=True,
        )


def _escape_foreign_text() -> None:
    """Escapes control characters from outside in logs and in traces of uncaught errors."""

    def print_trace(
        kind: type[BaseException], error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        print(
            printable.block("".join(traceback.format_exception(kind, error, trace)).rstrip()),
            file=sys.stderr,
        )

    logging.use_absl_handler()
    logging.get_absl_handler().setFormatter(printable.Formatter(logging.PythonFormatter()))
    sys.excepthook = print_trace
    threading.excepthook = lambda failure: print_trace(
        failure.exc_type, failure.exc_value, failure.exc_traceback
    )
