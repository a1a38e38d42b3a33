"""absl flags of the experiments, and the one place that turns them into frozen values.

A module that defines `main` calls the `define_*` functions it needs; nothing else in the code base
reads `FLAGS`.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import pathlib
import sys
import threading
import traceback
import types
from collections.abc import Sequence
from typing import Any

from absl import app, flags, logging

from experiments import flag_files, program_help, setting_flags
from experiments.configuration import ExperimentConfig
from runkit import disk, interrupts, printable, private, settings

FLAGS = flags.FLAGS

_SINCE_FIRST_RELEASE = ("vae_rate", "missing_labels", "absence_evidence", "shared_candidates")
_WINDOWS = 2  # computed at the same time by a program that does not train: each needs its memory


@program_help.group(
    "Settings of the experiment, the same at every site; see the flag files in experiments/flagfiles"
)
def define_experiment() -> None:
    """Defines the flags of `ExperimentConfig`, which decide the numbers of a run."""
    setting_flags.define(ExperimentConfig)


@program_help.group("This machine")
def define_runtime() -> None:
    """Flags of the machine: they change the speed; results are bit-equal for the same thread count
    only.
    """
    flags.DEFINE_integer(
        "threads",
        0,
        "Threads of TensorFlow, 0 for one a core. Several patches or windows are computed at the same time, with a share each.",
    )
    flags.DEFINE_bool(
        "deterministic",
        True,
        "Use only deterministic kernels, so that a rerun gives the same bits.",
    )


@program_help.group("Training")
def define_training() -> None:
    """Flags of a program that trains; none of them decides a number of the result."""
    flags.DEFINE_bool(
        "xla",
        False,
        "Compile the step's arithmetic by XLA: GPUs only, where the first step takes minutes and the later ones are shorter.",
    )
    flags.DEFINE_list(
        "profile_steps",
        [],
        "first,last: record a profile of these steps (from 1) for TensorBoard, below the model's folder tensorboard/. Leave out the first "
        "few, which compile; ten steps are plenty. View it with the plug-in tensorboard-plugin-profile.",
    )


def profile_steps() -> tuple[int, int] | None:
    """Returns the first and last step to profile. Raises app.UsageError where they make no range."""
    if not FLAGS.profile_steps:
        return None
    try:
        first, last = numbers("profile_steps", int, 2)
    except ValueError as error:
        raise app.UsageError(f"--{error}") from error
    if not 1 <= first <= last:
        raise app.UsageError(
            f"--profile_steps is {first},{last}; expected first,last with 1 <= first <= last"
        )
    return first, last


@program_help.group("Site")
def define_site() -> None:
    flags.DEFINE_string(
        "site",
        None,
        "Name of the site, e.g. C1. Default: the name in the manifest or the site's kit.",
    )
    flags.DEFINE_string(
        "site_folder",
        None,
        "Folder of the site's prepared cases, models and figures; made private to this account. Never leaves the site.",
    )


@program_help.group("Scans")
def define_orientation() -> None:
    flags.DEFINE_string(
        "orientation",
        None,
        "Where the axes of the array run in NIfTI files whose header does not say it (sform and qform code 0), e.g. LPS: towards the left, the "
        "back, the head. Files that say it themselves are read as they say. Without this flag such a file is refused.",
    )


def orientation() -> str | None:
    """Returns the flag. Raises app.UsageError where it names no orientation."""
    if FLAGS.orientation is None:
        return None
    from preprocessing import geometry

    try:
        geometry.require_axes(FLAGS.orientation)
    except ValueError as error:
        raise app.UsageError(f"--{error}") from error
    return FLAGS.orientation


def experiment_config() -> ExperimentConfig:
    """Returns the checked configuration.

    Raises:
      app.UsageError: naming the flag, its value and what is expected.
    """
    try:
        return ExperimentConfig(**setting_flags.values(ExperimentConfig, FLAGS))
    except ValueError as error:
        raise app.UsageError(f"--{error}") from error


def genotype_file() -> dict[str, list[str]]:
    """Returns the genotype's flag and file where it is one, for `overwriting.require_apart`."""
    return {"--genotype": [FLAGS.genotype]} if os.path.isfile(FLAGS.genotype) else {}


def experiment_flags_text() -> str:
    """Returns the experiment's flags as the text of a flag file, for a sub-process or a colleague."""
    lines = []
    for name in settings.declared(ExperimentConfig):
        value = getattr(FLAGS, name)
        if name in _SINCE_FIRST_RELEASE and value == FLAGS[name].default:
            continue  # so that a run of an earlier release has the same text and can be resumed
        lines.append(f"--{name}={','.join(value) if isinstance(value, list) else value}")
    return "\n".join(lines) + "\n"


def parse_experiment(arguments: list[str]) -> tuple[ExperimentConfig, str]:
    """Returns the configuration that these arguments give, and the text of its flag file.

    A study calls it once for each of its settings.
    """
    for name in settings.declared(ExperimentConfig):
        FLAGS[name].unparse()
    flag_files.parse(FLAGS, ["experiment", *arguments])
    return experiment_config(), experiment_flags_text()


def required(name: str, why: str) -> str:
    """Returns a flag's value; a missing one is a usage error that says what the flag is for."""
    value = getattr(FLAGS, name)
    if not value:
        raise app.UsageError(f"--{name} is missing: {why}")
    return value


def site_folder(
    why: str = "the folder that experiments.prepare made", *, make: bool = False
) -> pathlib.Path:
    """Returns --site_folder, closed to other accounts: prepared scans, pictures and models are in
    it.
    """
    path = pathlib.Path(required("site_folder", why))
    return private.folder(path) if make or path.is_dir() else path


def address(text: str) -> tuple[str, int]:
    """Returns host and port of "host:port". Raises app.UsageError."""
    from federated.wire import addresses

    try:
        return addresses.split(text)
    except ValueError as error:
        raise app.UsageError(f"--server is {error}") from error


def run(
    main,
    *,
    required: Sequence[str] = (),
    resumes: bool = False,
    needs_tensorflow: bool = False,
    expected: tuple[type[Exception], ...] = (),
) -> None:
    """Runs an entry point. An error in what the user gave is one clear line and exit code 1, or the
    error's own, not a stack trace.

    Ctrl-C ends it with one line and exit code 130. --help prints what the program does and its
    flags, and ends it with exit code 0.

    Args:
      main: called with the arguments that are no flags; what it returns is the exit code.
      required: names of the flags that the program needs, which --help shows first; `main` asks for
          them by `required`.
      resumes: whether the same command goes on where Ctrl-C ended the program.
      needs_tensorflow: sets threads, seed and determinism first.
      expected: errors of the program's own that speak for themselves, beside ValueError and
          OSError.
    """

    def guarded(argv: list[str]) -> None:
        if len(argv) > 1:
            raise app.UsageError(
                f"unexpected argument {argv[1]!r}; every setting is a flag (--help lists them)"
            )
        if needs_tensorflow:
            from c2fnas import keras_stack

            samples = FLAGS.batch_size if "batch_size" in FLAGS else _WINDOWS
            keras_stack.set_up(
                FLAGS.seed, FLAGS.threads or os.cpu_count(), FLAGS.deterministic, samples=samples
            )
        sys.exit(main(argv))

    def caught(argv: list[str]) -> None:
        try:
            guarded(argv)
        except (ValueError, OSError, app.UsageError, ModuleNotFoundError, *expected) as error:
            if interrupts.received() or (
                isinstance(error, ModuleNotFoundError) and not _is_of_an_extra(error)
            ):
                raise
            logging.debug("stack trace of the error below", exc_info=True)
            print(f"error: {printable.block(_words(error, resumes))}", file=sys.stderr)
            sys.exit(getattr(error, "exit_code", 1))

    for stream in (sys.stdout, sys.stderr):
        # a name of a file that the terminal's encoding cannot show is shown escaped, and ends
        # nothing
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
        # Ctrl-C within an import or a library may arrive here as any other error
        if interrupts.received() and not isinstance(error, SystemExit):
            again = "to resume" if resumes else "to start over"
            interrupts.end(f"stopped by Ctrl-C; run the same command again {again}")
        raise


def _is_of_an_extra(error: ModuleNotFoundError) -> bool:
    """Whether what is missing is a package that the base installation leaves out, rather than a
    module of this product.
    """
    top = (error.name or "").partition(".")[0]
    return top not in ("", "c2fnas", "experiments", "federated", "preprocessing", "runkit")


def _words(error: Exception, resumes: bool) -> str:
    if isinstance(error, ModuleNotFoundError):
        return (
            f"this program needs the package {(error.name or '').partition('.')[0]}, which is not installed here. The base installation is for "
            "servers and operators; install the packages of a site: pip install '.[site]' (with DICOM '.[dicom]')"
        )
    full = disk.full_text(error) if isinstance(error, OSError) else None
    if full is None:
        return str(error)
    stays = (
        "what is finished stays, and it resumes there"
        if resumes
        else "what was finished before stays valid"
    )
    remedy = (
        "Raise the limit of a file's size (ulimit -f), or use another file system,"
        if error.errno == errno.EFBIG
        else "Free space"
    )
    return f"{full}. {remedy} and run the same command again: {stays}"


def _parse(argv: list[str]) -> list[str]:
    try:
        return flag_files.parse(FLAGS, argv)
    except flag_files.WrongFlags as error:
        print(f"error: {printable.block(error)} (--help lists the flags)", file=sys.stderr)
        sys.exit(1)


def _print_help(main, required: Sequence[str]) -> None:
    own = [flag.name for flag in FLAGS.flags_by_module_dict().get(sys.argv[0], [])]
    with contextlib.suppress(BrokenPipeError):  # `--help | head`
        print(
            program_help.text(sys.modules[main.__module__].__doc__ or "", own, required),
            end="",
            flush=True,
        )


def _escape_foreign_text() -> None:
    """Nets under all that is printed: logs, and the traces of errors that nobody caught."""

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


def numbers(name: str, kind: type, count: int) -> tuple[Any, ...]:
    """Returns a list flag as `count` numbers of one kind.

    Raises:
      ValueError: naming the flag, its value and what is expected.
    """
    return setting_flags.numbers(name, getattr(FLAGS, name), kind, count)
