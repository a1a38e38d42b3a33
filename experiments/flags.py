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

from absl import app, flags, logging

from experiments import flag_files, program_help
from experiments.configuration import ExperimentConfig
from runkit import disk, interrupts, printable, private

FLAGS = flags.FLAGS

_EXPERIMENT_FLAGS: list[str] = []
_SINCE_FIRST_RELEASE = ("vae_rate", "missing_labels", "absence_evidence", "shared_candidates")
_WINDOWS = 2  # computed at the same time by a program that does not train: each needs its memory


def define_experiment() -> None:
    """Flags that decide the numbers of a run; all sites of a federation give the same. Defaults are
    the paper's.
    """

    with program_help.group(
        "Settings of the experiment, the same at every site; see the flag files in experiments/flagfiles"
    ):
        _define_experiment()


def _define_experiment() -> None:
    def keep(name: str) -> str:
        _EXPERIMENT_FLAGS.append(name)
        return name

    flags.DEFINE_string(
        keep("profile"),
        "paper",
        "Name of the profile, kept with every result. Choose it by --flagfile, e.g. --flagfile=experiments/flagfiles/demo.flags.",
    )
    flags.DEFINE_integer(
        keep("seed"),
        1,
        "Seed of initial weights, patches, latent noise, splits and the synthetic cohort.",
    )
    flags.DEFINE_string(
        keep("genotype"), "c2fnas", "Named genotype, or the path of a genotype's JSON file."
    )
    flags.DEFINE_integer(
        keep("filters"), 32, "Filters at full resolution; each level doubles them."
    )
    flags.DEFINE_enum(
        keep("vae"),
        "reduced",
        ["reduced", "direct", "none"],
        "VAE branch at the encoder's end: 'reduced' has a stride-2 convolution to 16 channels before the dense layers "
        "(Myronenko 2018), 'direct' flattens the encoder's end itself, 'none' leaves the branch out.",
    )
    flags.DEFINE_integer(keep("latent_size"), 128, "Size of the VAE's latent vector.")
    flags.DEFINE_enum(
        keep("classifier_bias"), "zero", ["zero", "log_prior"], "Start of the classifier's bias."
    )
    flags.DEFINE_list(
        keep("class_prior"),
        ["0.985", "0.012", "0.003"],
        "Shares of background, pancreas and tumour, for --classifier_bias=log_prior.",
    )
    flags.DEFINE_list(
        keep("spacing_mm"), ["1.0", "1.0", "1.0"], "Spacing of the training grid along x,y,z in mm."
    )
    flags.DEFINE_list(
        keep("window_hu"), ["-200", "250"], "Intensity window in HU, mapped to [-1, 1]."
    )
    flags.DEFINE_list(keep("patch_size"), ["96", "96", "96"], "Training patch in voxels.")
    flags.DEFINE_integer(keep("patches_per_case"), 4, "Patches per training case and epoch.")
    flags.DEFINE_float(keep("foreground_fraction"), 0.5, "Share of patches centred on foreground.")
    flags.DEFINE_float(
        keep("tumour_fraction"),
        0.0,
        "Share of the foreground patches centred on tumour; 0 is the paper's.",
    )
    flags.DEFINE_list(
        keep("flip_axes"),
        [],
        "Augmentation: axes along which patches are reversed at random, e.g. x,z. None in the paper.",
    )
    flags.DEFINE_float(
        keep("intensity_scale"), 0.0, "Augmentation: patches are multiplied by 1 - s to 1 + s."
    )
    flags.DEFINE_float(
        keep("intensity_shift"),
        0.0,
        "Augmentation: -s to s is added to patches; the window is 2 wide.",
    )
    flags.DEFINE_integer(keep("batch_size"), 8, "Patches per step over all replicas.")
    flags.DEFINE_float(keep("learning_rate"), 1e-4, "Adam's rate at the first step.")
    flags.DEFINE_float(
        keep("final_learning_rate"),
        1e-5,
        "Rate at the last step, after cosine annealing over the whole training.",
    )
    flags.DEFINE_float(
        keep("vae_rate"),
        1.0,
        "Share of the learning rate by which the VAE branch's own weights move. Its decoder has no norm behind its convolutions and overshoots "
        "at rates far above the paper's 1e-4: lower the share there.",
    )
    flags.DEFINE_enum(
        keep("kl"),
        "voxels",
        ["voxels", "latent"],
        "Normaliser of the KL term: voxels of the patch (Myronenko 2018) or the latent's size.",
    )
    flags.DEFINE_enum(
        keep("missing_labels"),
        "background",
        ["background", "exclude", "restricted", "marginal", "distil"],
        "What the loss does, in a federation, about classes that a site's labels never show (`declared_labels` of its manifest): 'background' "
        "takes them for absent everywhere, as the paper does; 'exclude' leaves them out of the Dice; 'restricted' leaves them out of the "
        "softmax, so that no gradient reaches their own weights; 'marginal' lets a voxel be the class that was drawn or a missing one; 'distil' "
        "keeps what the received model says of them. See docs/missing-labels.md.",
    )
    flags.DEFINE_bool(
        keep("absence_evidence"),
        False,
        "With --missing_labels=restricted, marginal or distil: where a site's patients are known not to have a class (declared `absent`), "
        "voxels in which the received model sees it are false alarms, and the site trains against them.",
    )
    flags.DEFINE_integer(
        keep("shared_candidates"),
        0,
        "So many local models, 6 at most, does a site lend whose labels lack a class; every site scores them on its validation cases, and the "
        "best is the row <site>_FL_local_shared. 0: none. The paper's rule, the best by the site's own validation, stays as <site>_FL_local.",
    )
    flags.DEFINE_enum(
        keep("precision"),
        "float32",
        ["float32", "mixed_bfloat16", "mixed_float16"],
        "What convolutions compute in. The mixed ones halve a GPU's memory and use its matrix units; weights, sums of the norms, losses and "
        "KL stay float32. 'mixed_float16' scales the loss so that small gradients survive; 'mixed_bfloat16' needs no scale, but an Ampere GPU "
        "or later. On a CPU leave it at 'float32'.",
    )
    flags.DEFINE_float(
        keep("clip_norm"),
        0.0,
        "Scale the gradients down to this length, all weights together, where they are longer; 0 for never. Try 12 (nnU-Net's) where "
        "the logged gradient_norm has peaks that the loss does not come back from.",
    )
    flags.DEFINE_enum(
        keep("non_finite"),
        "stop",
        ["stop", "skip"],
        "What a step does whose loss or gradient is no number: 'stop' ends the training with the step and the cases named, no weight "
        "changed; 'skip' leaves the step out, says so in the log, and stops after ten in a row.",
    )
    flags.DEFINE_enum(
        keep("instance_norm"),
        "rows",
        ["rows", "library"],
        "Arithmetic of the instance norm; weights and values are the same. 'rows' is this package's, faster and more accurate on a CPU; "
        "'library' is tensorflow-addons' InstanceNormalization (TensorFlow 2.15) or Keras' GroupNormalization (Keras 3).",
    )
    flags.DEFINE_integer(
        keep("keep_checkpoints"),
        2,
        "Checkpoints that stay: the newest and those before it, for a disk that spoils one. The best model is apart.",
    )
    flags.DEFINE_integer(
        keep("num_rounds"),
        60,
        "Federated rounds; a baseline trains num_rounds * local_epochs epochs.",
    )
    flags.DEFINE_integer(keep("local_epochs"), 10, "Epochs at a site between two exchanges.")
    flags.DEFINE_integer(
        keep("validation_every"),
        1,
        "Rounds between two validations of a site's own model, of which the best is kept, and between two received global models that it "
        "scores, of which the best is FL_best_global. The last ones are validated and scored always.",
    )
    flags.DEFINE_list(keep("inference_window"), ["160", "160", "160"], "Sliding window in voxels.")
    flags.DEFINE_float(keep("inference_overlap"), 0.25, "Overlap of neighbouring windows.")
    flags.DEFINE_enum(
        keep("inference_blending"),
        "constant",
        ["constant", "gaussian"],
        "Weights of a window's voxels.",
    )


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
    """Returns the checked configuration. Raises app.UsageError naming the flag, its value and what
    is expected.
    """
    try:
        return ExperimentConfig(
            **{
                name: getattr(FLAGS, name)
                for name in _EXPERIMENT_FLAGS
                if not isinstance(getattr(FLAGS, name), list)
            },
            class_prior=numbers("class_prior", float, 3),
            spacing_mm=numbers("spacing_mm", float, 3),
            window_hu=numbers("window_hu", float, 2),
            patch_size=numbers("patch_size", int, 3),
            inference_window=numbers("inference_window", int, 3),
            flip_axes=tuple(FLAGS.flip_axes),
        )
    except ValueError as error:
        raise app.UsageError(f"--{error}") from error


def genotype_file() -> dict[str, list[str]]:
    """Returns the genotype's flag and file where it is one, for `overwriting.require_apart`."""
    return {"--genotype": [FLAGS.genotype]} if os.path.isfile(FLAGS.genotype) else {}


def experiment_flags_text() -> str:
    """Returns the experiment's flags as the text of a flag file, so that a sub-process or a
    colleague repeats them.
    """
    lines = []
    for name in _EXPERIMENT_FLAGS:
        value = getattr(FLAGS, name)
        if name in _SINCE_FIRST_RELEASE and value == FLAGS[name].default:
            continue  # so that a run of an earlier release has the same text, and goes on
        lines.append(f"--{name}={','.join(value) if isinstance(value, list) else value}")
    return "\n".join(lines) + "\n"


def parse_experiment(arguments: list[str]) -> tuple[ExperimentConfig, str]:
    """Returns the configuration that a program given these flags would have, and its flag file's
    text; a study has many.
    """
    for name in _EXPERIMENT_FLAGS:
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
            from c2fnas import threads

            samples = FLAGS.batch_size if "batch_size" in FLAGS else _WINDOWS
            threads.set_up(
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


def numbers(name: str, kind: type, count: int) -> tuple:
    """Returns a list flag as `count` numbers of one kind. Raises ValueError naming the flag, its
    value and what is expected.
    """
    values = getattr(FLAGS, name)
    try:
        numbers = tuple(kind(value) for value in values)
    except ValueError as error:
        raise ValueError(
            f"{name} is {','.join(values)!r}; expected {count} numbers separated by commas"
        ) from error
    if len(numbers) != count:
        raise ValueError(
            f"{name} is {','.join(values)!r}; expected {count} numbers separated by commas"
        )
    return numbers
