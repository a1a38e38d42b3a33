import importlib.metadata
import pathlib
import re
import sys

import numpy as np
import pytest

from runkit import release


def test_the_name_is_that_of_the_project():
    """Under another name the version would always be unknown."""
    text = pathlib.Path(__file__).parents[2].joinpath("setup.py").read_text()
    assert re.search(r'^    name="(.*)",$', text, re.MULTILINE)[1] == release.NAME


def test_the_version_is_that_of_the_installed_package(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", {release.NAME: "1.2.3"}.__getitem__)
    assert release.version() == "1.2.3"


def test_a_source_tree_that_is_not_installed_has_no_known_version(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert release.version() == release.UNKNOWN
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version(release.NAME)


def test_the_stack_is_named_with_versions():
    assert release.stack().startswith("tensorflow ")
    assert f"numpy {np.__version__}" in release.stack()
    assert ("tensorflow-addons" in release.stack()) is (sys.version_info < (3, 12))
