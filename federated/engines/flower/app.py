"""Writes a Flower app that federates a `SiteTrainer`."""

from __future__ import annotations

import importlib.util
import keyword
import os
import pathlib
import shutil

from federated.engines.engine_run import EngineRun

_PROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "{name}"
version = "1.0.0"
description = ""
license = "Apache-2.0"
dependencies = []

[tool.hatch.build.targets.wheel]
packages = ["."]

[tool.flwr.app]
publisher = "{publisher}"

[tool.flwr.app.components]
serverapp = "{name}.server:app"
clientapp = "{name}.site:app"

[tool.flwr.app.config]
"""
_SERVER = """\
from federated.engines.flower import server as flower_server

app = flower_server.server_app(
    {initial!r}, {output!r}, num_rounds={num_rounds}, num_sites={num_sites}
)
"""


def write_app(
    run: EngineRun, *, output: str | os.PathLike, publisher: str = "site"
) -> pathlib.Path:
    """Writes an app for `flwr run`; returns its folder.

    Write it on the machine of the SuperLink: the app holds the absolute paths of the initial model
    and of `output`, and no copy of the model.

    Args:
      run: the name of its folder must be a Python identifier, and its script defines `app`.
      output: folder for the global models.
      publisher: as Flower asks for it.
    Raises:
      ValueError: before anything is written, for a folder whose name cannot be the app's, for a
        script that does not define `app`, and for a path that is not absolute.
    """
    _check_name(run.folder)
    if "app" not in run.script_names():
        raise ValueError(
            f"site_script is {run.site_script}, which does not define `app`; Flower starts a site "
            "by that name, so add `app = site.client_app(...)`, see federated.engines.flower.site"
        )
    for name, path in (("initial", run.initial), ("output", output)):
        if not os.path.isabs(path):
            raise ValueError(
                f"{name} is {str(path)!r}; Flower runs the server's part of the app in a folder of "
                "its own, so give the absolute path on the machine of the SuperLink"
            )
    with run.writing() as temporary:
        package = temporary / run.folder.name
        package.mkdir()
        (package / "__init__.py").write_text("")
        shutil.copy(run.site_script, package / "site.py")
        about = {"num_rounds": run.num_rounds, "num_sites": run.num_sites}
        server = _SERVER.format(initial=str(run.initial), output=str(output), **about)
        (package / "server.py").write_text(server, encoding="utf-8")
        project = _PROJECT.format(name=run.folder.name, publisher=publisher)
        (temporary / "pyproject.toml").write_text(project, encoding="utf-8")
    return run.folder


def _check_name(folder: pathlib.Path) -> None:
    """Raises ValueError unless a folder's name can be that of the app's module."""
    name = folder.name
    if not name.isidentifier() or keyword.iskeyword(name):
        raise ValueError(
            f"{folder}: the folder's name is the app's module; give it letters, digits and '_', "
            "no digit first, and not a word of Python such as 'class'"
        )
    found = importlib.util.find_spec(name)
    if found is not None and found.origin is not None:  # None: a folder, which shadows nothing
        raise ValueError(
            f"{folder}: the folder's name is the app's module, and Python has another module "
            f"{name!r}; give it another name"
        )
