"""The simulated disk does what the system does, after any renames, links and removals."""

import os
import pathlib
import random

import pytest

from tests.simulated import disk, disk_functions

NAMES = ("a", "b", "c")


def _paths(root):
    """Two folders' depth of paths, the root itself left out."""
    return [f"{root}/{x}" for x in NAMES] + [f"{root}/{x}/{y}" for x in NAMES for y in NAMES]


def _step(draw):
    """Returns the name of an operation and two numbers of paths."""
    kinds = (
        *("write", "replace", "link", "unlink", "discard", "mkdir"),
        *("stat", "there", "listdir", "glob", "read"),
    )
    return draw.choice(kinds), draw.randrange(12), draw.randrange(12), bytes([draw.randrange(256)])


def _done(root, kind, first, second, content):
    """Returns what an operation gives, or the kind of its error."""
    one, other = _paths(root)[first], _paths(root)[second]
    try:
        if kind == "write":
            with open(one, "wb") as stream:
                stream.write(content)
        elif kind == "read":
            with open(one, "rb") as stream:
                return stream.read()
        elif kind == "stat":
            found = os.stat(one)
            is_file = os.path.isfile(one)
            return is_file, found.st_size if is_file else None, found.st_nlink if is_file else None
        elif kind == "there":
            return pathlib.Path(one).exists(), pathlib.Path(one).is_dir()
        elif kind == "listdir":
            return sorted(os.listdir(one))
        elif kind == "glob":
            return sorted(path.name for path in pathlib.Path(one).glob("[ab]*"))
        elif kind == "discard":
            pathlib.Path(one).unlink(missing_ok=True)
        elif kind in ("replace", "link"):
            getattr(os, kind)(one, other)
        else:
            getattr(os, kind)(one)
    except (FileNotFoundError, NotADirectoryError):
        return "nothing there"  # which of both, if two paths are wrong, is left open
    except OSError as error:
        return type(error).__name__
    return None


@pytest.mark.parametrize("seed", range(5))
def test_what_is_on_it_is_what_the_system_would_have(seed, tmp_path):
    draw = random.Random(seed)
    with disk_functions.installed() as installation:
        installation.use(disk.Disks(lambda *_: None, lambda: 5))
        installation.disks.add("m")
        for _ in range(600):
            step = _step(draw)
            if step[0] in ("unlink", "discard") and os.path.isdir(_paths(tmp_path)[step[1]]):
                continue  # the simulated `unlink` removes folders too, for `rmtree`
            if step[0] == "link" and os.path.isdir(_paths(tmp_path)[step[1]]):
                continue  # nothing links folders
            if step[0] == "replace" and any(os.path.isdir(_paths(tmp_path)[n]) for n in step[1:3]):
                continue  # folders only replace nothing or an empty folder in the product
            assert _done(f"{disk.ROOT}m", *step) == _done(tmp_path, *step), step


def test_what_is_below_a_folder_that_moved_is_found_in_its_new_place():
    with disk_functions.installed() as installation:
        installation.use(disk.Disks(lambda *_: None, lambda: 5))
        installation.disks.add("m")
        root = f"{disk.ROOT}m"
        for folder, content in (("old", b"1"), ("other", b"22")):
            os.mkdir(f"{root}/{folder}")
            with open(f"{root}/{folder}/file", "wb") as stream:
                stream.write(content)
            assert os.stat(f"{root}/{folder}/file").st_size == len(content)
        os.replace(f"{root}/old", f"{root}/new")
        assert not os.path.exists(f"{root}/old/file")
        assert os.stat(f"{root}/new/file").st_size == 1
        os.replace(f"{root}/other", f"{root}/old")
        assert os.stat(f"{root}/old/file").st_size == 2
