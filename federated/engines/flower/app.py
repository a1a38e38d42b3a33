"""Writes a Flower app that federates a `SiteTrainer`."""

from __future__ import annotations

import os
import pathlib
import shutil

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
    folder: str | os.PathLike,
    *,
    site_script: str | os.PathLike,
    initial: str | os.PathLike,
    output: str | os.PathLike,
    num_rounds: int,
    num_sites: int,
    publisher: str = "site",
) -> pathlib.Path:
    """Writes an app for `flwr run`; returns its folder.

    Args:
      folder: folder of the app, which must not exist; its name, a Python identifier, becomes the
        app's name.
      site_script: Python file that defines `app`; see `flower.site`.
      initial, output: file of global model 0, and folder for the global models; absolute paths on
        the machine of the SuperLink.
      num_sites: a round waits for all of them.
      publisher: as Flower asks for it.
    Raises:
      ValueError: for a folder whose name is not a Python identifier.
    """
    folder = pathlib.Path(folder)
    if not folder.name.isidentifier():
        raise ValueError(
            f"{folder}: the folder's name is the app's module; give it letters, digits and '_'"
        )
    package = folder / folder.name
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    shutil.copy(site_script, package / "site.py")
    about = {"num_rounds": num_rounds, "num_sites": num_sites}
    server = _SERVER.format(initial=str(initial), output=str(output), **about)
    (package / "server.py").write_text(server, encoding="utf-8")
    project = _PROJECT.format(name=folder.name, publisher=publisher)
    (folder / "pyproject.toml").write_text(project, encoding="utf-8")
    return folder
