"""Flags that several programs share.

A program calls the `define_*` functions it needs. Only programs and this module read `FLAGS`;
library code gets frozen values.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from absl import app, flags

from experiments import flag_files, program_help, setting_flags
from experiments.configuration import ExperimentConfig
from federated.errors import PolicyRefused
from federated.privacy.policy import PrivacyPolicy
from runkit import private, settings
from runkit.settings import at_least

if TYPE_CHECKING:
    from federated.admin.client import AdminClient

FLAGS = flags.FLAGS
Config = TypeVar("Config")

# settings of the experiment that also apply to programs which only use a model
_COMPUTING = ("tf32", "deterministic", "gpu_memory_mib")
_WINDOWS = 2  # windows computed at a time by a program that does not train; each needs its memory


@program_help.group(
    "Settings of the experiment, in one flag file for all programs; see experiments/flagfiles"
)
def define_experiment() -> None:
    """Defines the flags of `ExperimentConfig`, which decide the numbers of a run."""
    setting_flags.define(ExperimentConfig)


def gives_experiment() -> bool:
    """Whether a flag of `ExperimentConfig` was given that decides the numbers of a run."""
    return bool(setting_flags.given(ExperimentConfig, FLAGS, without=_COMPUTING))


@program_help.group("This machine")
def define_runtime() -> None:
    """Defines flags that affect speed. Results are bit-equal for equal numbers of threads.

    A program that also calls `define_experiment` calls that first.
    """
    flags.DEFINE_integer(
        "threads",
        0,
        "Number of TensorFlow threads; 0 uses one per core. The patches or windows that are "
        "computed at the same time share them.",
    )
    if "profile" not in FLAGS:  # otherwise they are among the experiment's settings
        setting_flags.define(ExperimentConfig, _COMPUTING)


@program_help.group("Training")
def define_training() -> None:
    """Defines the flags of a program that trains; none of them changes a result."""
    flags.DEFINE_bool(
        "xla",
        False,
        "Compile the training step with XLA (GPUs only): the first step then takes minutes, and "
        "the later ones are faster.",
    )
    flags.DEFINE_list(
        "profile_steps",
        [],
        "first,last: record a profile of these steps (counted from 1) in the model's folder "
        "tensorboard/. Skip the first few steps, which compile; ten steps are enough.",
    )


def profile_steps() -> tuple[int, int] | None:
    """Returns the first and last step to profile; raises app.UsageError if they are not a range."""
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
    """Defines the flags that name a site and its folder."""
    flags.DEFINE_string(
        "site",
        None,
        "Name of the site, e.g. C1. Default: the name in its manifest or kit.",
    )
    flags.DEFINE_string(
        "site_folder",
        None,
        "Folder of the site's prepared cases, models and figures. Only this account can read it, "
        "and nothing sends it anywhere.",
    )


@program_help.group("Privacy: what happens to this site's updates before they leave it")
def define_privacy() -> list[str]:
    """Defines the flags of `PrivacyPolicy`, which only the site sets; returns their names."""
    return setting_flags.define(PrivacyPolicy)


def privacy_policy() -> PrivacyPolicy:
    """Returns the site's policy; raises PolicyRefused naming the invalid flag."""
    try:
        return PrivacyPolicy(**setting_flags.values(PrivacyPolicy, FLAGS))
    except PolicyRefused as error:
        raise PolicyRefused(f"--{error}") from error


@program_help.group("Scans")
def define_orientation() -> None:
    """Defines the flag for NIfTI files whose header gives no orientation."""
    flags.DEFINE_string(
        "orientation",
        None,
        "Directions of the axes in NIfTI files whose header gives none (sform and qform code 0), "
        "e.g. LPS: towards left, back, head. Without this flag such files are refused; other files "
        "are read as their header says.",
    )


def orientation() -> str | None:
    """Returns --orientation; raises app.UsageError if it is not an orientation."""
    if FLAGS.orientation is None:
        return None
    from preprocessing import geometry

    try:
        geometry.require_axes(FLAGS.orientation)
    except ValueError as error:
        raise app.UsageError(f"--{error}") from error
    return FLAGS.orientation


def experiment_config(
    *, without_training: bool = False, supernet: bool = False
) -> ExperimentConfig:
    """Returns the checked configuration; raises app.UsageError as `settings_of` does.

    Args:
      without_training: whether the program also accepts 0 rounds, an evaluation of given models.
      supernet: whether the program can work on a supernet. One that accepts 0 rounds can.
    """
    config = settings_of(ExperimentConfig)
    if config.num_rounds == 0 and not without_training:
        raise app.UsageError(
            "--num_rounds is 0; expected at least 1: 0 rounds are an evaluation of given models, "
            "which only experiments.serve and experiments.join run"
        )
    if config.supernet and not (supernet or without_training):
        raise app.UsageError(
            "--supernet is given, but this program works on one network; leave it out, and give "
            "the network that a search found as --genotype. init_model, serve, join, train_pooled, "
            "search_federated and dryrun take a supernet"
        )
    return config


def settings_of(config: type[Config]) -> Config:
    """Returns the checked settings that the flags of a dataclass give.

    Raises:
      app.UsageError: naming the flag, its value and what is expected.
    """
    try:
        return config(**setting_flags.values(config, FLAGS))
    except ValueError as error:
        raise app.UsageError(f"--{error}") from error


def genotype_file() -> dict[str, list[str]]:
    """Returns --genotype if it is a file, as an input for `overwriting.require_apart`."""
    return {"--genotype": [FLAGS.genotype]} if os.path.isfile(FLAGS.genotype) else {}


def experiment_flags_text() -> str:
    """Returns the experiment's flags as the text of a flag file."""
    lines = []
    for name, about in settings.declared(ExperimentConfig).items():
        value = getattr(FLAGS, name)
        if about.later and value == FLAGS[name].default:
            continue  # so that the text equals that of an earlier release, whose run can be resumed
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


def required(name: str, meaning: str) -> str:
    """Returns a flag's value; raises app.UsageError with its meaning if it is missing."""
    value: str = getattr(FLAGS, name)
    if not value:
        raise app.UsageError(f"--{name} is missing: {meaning}")
    return value


def site_folder(
    meaning: str = "the folder that experiments.prepare made", *, make: bool = False
) -> pathlib.Path:
    """Returns --site_folder after closing it to other accounts: it holds scans and models.

    Args:
      meaning: explanation of the flag, shown if it is missing.
      make: whether to create a missing folder.
    """
    path = pathlib.Path(required("site_folder", meaning))
    return private.folder(path) if make or path.is_dir() else path


def prepared_cases() -> list[pathlib.Path]:
    """Returns the case stores in --site_folders; raises app.UsageError if it names no folder."""
    required("site_folders", "the folders that experiments.prepare made")
    return [pathlib.Path(folder) / "cases" for folder in FLAGS.site_folders]


@program_help.group("Address of the server")
def define_server() -> None:
    """Defines the flag for another address of the server than that in a kit."""
    flags.DEFINE_string(
        "server", None, "host:port of the server, instead of the address in the kit."
    )


def operator_client() -> AdminClient:
    """Returns a client of the server, made from --kit and --server.

    Raises:
      app.UsageError: if --kit is missing, or as `address` does.
      ValueError: if the kit is not an operator's.
    """
    from federated.admin import client

    host, port = server_address()
    folder = required("kit", "the operator's kit")
    kit = client.Kit.read(folder, host=host, port=port)
    private.tree(folder)
    return client.AdminClient(kit)


def server_address() -> tuple[str, int] | tuple[None, None]:
    """Returns host and port of --server, or twice None without it; raises as `address` does."""
    return address(FLAGS.server) if FLAGS.server else (None, None)


def address(text: str) -> tuple[str, int]:
    """Returns host and port of "host:port"; raises app.UsageError if it is not one."""
    from federated.wire import addresses

    try:
        return addresses.split(text)
    except ValueError as error:
        raise app.UsageError(f"--server is {error}") from error


def label_values() -> dict[int, int] | None:
    """Returns --label_values as value -> class, None if empty; raises app.UsageError."""
    try:
        pairs = (pair.split(":") for pair in FLAGS.label_values)
        return {int(value): int(label) for value, label in pairs} or None
    except ValueError as error:
        raise app.UsageError(
            f"--label_values is {','.join(FLAGS.label_values)!r}; expected value:class pairs, "
            "e.g. 7:1"
        ) from error


def named_files(name: str) -> dict[str, pathlib.Path]:
    """Returns a list flag of name:file entries.

    Raises app.UsageError if a file is missing or a name is given twice.
    """
    return _named(name, "name:file of an existing file", pathlib.Path.is_file)


def site_folders_by_name(name: str) -> dict[str, pathlib.Path]:
    """Returns a list flag of site:folder entries.

    Raises app.UsageError if a folder is missing or a site is given twice.
    """
    expected = "site:folder of a folder that experiments.prepare made"
    return _named(name, expected, pathlib.Path.is_dir)


def _named(
    name: str, expected: str, is_there: Callable[[pathlib.Path], bool]
) -> dict[str, pathlib.Path]:
    found: dict[str, pathlib.Path] = {}
    for entry in getattr(FLAGS, name):
        key, separator, path = entry.partition(":")
        if not separator or not is_there(pathlib.Path(path)):
            raise app.UsageError(f"--{name} has {entry!r}; expected {expected}")
        if key in found:
            raise app.UsageError(f"--{name} has {key!r} twice; use each name once")
        found[key] = pathlib.Path(path)
    return found


def start_tensorflow() -> None:
    """Loads TensorFlow and sets its GPUs, threads, seed and determinism as the flags say.

    Loading takes seconds, so a program first checks its flags and its input, then calls this, and
    only then imports modules that use TensorFlow.

    Raises:
      ValueError: naming the flag that is invalid.
    """
    settings.require(at_least(0), "--gpu_memory_mib", FLAGS.gpu_memory_mib)
    settings.require(at_least(0), "--threads", FLAGS.threads)

    from c2fnas import gpus, threads

    gpus.set_up(FLAGS.gpu_memory_mib, FLAGS.tf32)
    samples = FLAGS.batch_size if "batch_size" in FLAGS else _WINDOWS
    number = FLAGS.threads or os.cpu_count() or 1
    threads.set_up(FLAGS.seed, number, FLAGS.deterministic, samples=samples)


def numbers(name: str, kind: type, count: int) -> tuple[Any, ...]:
    """Returns a list flag as `count` numbers of one kind.

    Raises:
      ValueError: naming the flag, its value and what is expected.
    """
    return setting_flags.numbers(name, getattr(FLAGS, name), kind, count)
