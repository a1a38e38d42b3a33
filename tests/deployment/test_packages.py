"""The contents of a container image and of the repository, and the packages a server needs."""

import ast
import fnmatch
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
from packaging.requirements import Requirement

from tests import unmeasured
from tests.deployment import guide

ROOT = guide.DOCS.parent
PACKAGES = ("runkit", "preprocessing", "c2fnas", "federated", "experiments")
LOCK = ROOT / "requirements-server.txt"

# Files that lie in a folder from which a study was run; the guides' names and a hospital's own.
SECRET = [
    "federation/authority/ca.key",
    "federation/authority/federation.json",
    "federation/C1/site.pem",
    "kit/site.key",
    "kit/site.key.next",
    "kit/credential",
    "kit/ca.pem",
    "kit2/site.json",
    "answer/site.json",
    "store/state.sqlite",
    "store/state.sqlite-wal",
    "store/spool/round_001.C1.abc.safetensors",
    "site/federated/journal/journal.json",
    "sites/C1/cases/cases/0001/image.npy",
    "sites/C1/check/check.html",
    "scans/manifest.json",
    "our own scans/patient 7/IM0001",
    "C1.csr",
    "revoked.crl",
    "initial.safetensors",
    "thorax.nii.gz",
    "federated/kit/site.key",
    "federated/credential",
    "federated/server.pem",
    "experiments/sites/C1/cases/cases/0001/label.npy",
    "experiments/store/events.jsonl",
    "experiments/studies/page/site.key",
    "preprocessing/case.nii.gz",
    "c2fnas/slice.dcm",
    "c2fnas/best.safetensors",
]
ONLY_OUT_OF_IMAGES = [
    "study.flags",
    "c2fnas/patient 7/IM0001",
    "runkit/notes.txt",
]  # a repository may well have such files


def files_of_the_product():
    """Returns what setup.py would install, as paths below the root."""
    data = next(k.value for k in _setup_call().keywords if k.arg == "package_data")
    patterns = {
        f"{package}/{pattern}"
        for package, found in ast.literal_eval(data).items()
        for pattern in found
    }
    return sorted(
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file()
        and "__pycache__" not in path.parts
        and (
            path.suffix == ".py"
            or any(fnmatch.fnmatch(str(path.relative_to(ROOT)), pattern) for pattern in patterns)
        )
    )


def _setup_call():
    tree = ast.parse((ROOT / "setup.py").read_text())
    return next(
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "setup"
    )


def _make(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")


# Container.


def _regex(pattern):
    """Translates a pattern of .dockerignore: `*` stays within a name, `**` does not."""
    text = (
        re.escape(pattern.strip("/"))
        .replace(r"\*\*/", "(.*/)?")
        .replace(r"\*\*", ".*")
        .replace(r"\*", "[^/]*")
    )
    return re.compile(text)


def _sent(path, lines):
    """Returns whether a path is sent to a build.

    The last pattern that matches it, or a folder above it, decides.
    """
    sent, above = True, [path, *(str(parent) for parent in pathlib.PurePosixPath(path).parents)]
    for line in lines:
        if any(_regex(line.lstrip("!")).fullmatch(place) for place in above):
            sent = line.startswith("!")
    return sent


def _copied(folder):
    """Returns the files below `folder` that the container file copies.

    Its COPY lines and .dockerignore decide.
    """
    text = (guide.DOCS / "deployment" / "Containerfile").read_text().replace("\\\n", " ")
    sources = [
        word
        for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE)
        for word in line.split()[:-1]
    ]
    ignored = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert not re.search(r"^ADD ", text, re.MULTILINE) and sources
    names = (str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file())
    return [
        name
        for name in names
        if any(
            source in (".", "./") or name == source or name.startswith(f"{source.rstrip('/')}/")
            for source in sources
        )
        and _sent(name, ignored)
    ]


def test_an_image_gets_the_product_and_nothing_else(tmp_path):
    wanted = [
        *files_of_the_product(),
        "setup.py",
        "pyproject.toml",
        "README.md",
        "requirements-server.txt",
    ]
    _make(
        tmp_path,
        [
            *wanted,
            *SECRET,
            *ONLY_OUT_OF_IMAGES,
            ".git/config",
            ".venv/py3.11/bin/python",
            "tests/x.py",
        ],
    )
    assert _copied(tmp_path) == sorted(wanted)


def test_the_copy_lines_alone_leave_out_every_other_folder(tmp_path, monkeypatch):
    """Even without the ignore file, only the packages' own folders are copied."""
    _make(tmp_path, SECRET)
    monkeypatch.setattr(sys.modules[__name__], "_sent", lambda *_: True)
    assert {name.split("/")[0] for name in _copied(tmp_path)} <= set(PACKAGES)


# Repository.


def _git(folder, *arguments):
    return subprocess.run(
        ["git", "-C", folder, *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_git_takes_the_product_and_no_key_store_site_or_scan(tmp_path):
    assert _git(tmp_path, "init", "-q").returncode == 0
    product = [
        *files_of_the_product(),
        "setup.py",
        "Makefile",
        "docs/data.md",
        "examples/pytorch_trainer.py",
        "tests/federated/toy.py",
        ".ci/run",
    ]
    product += ["tests/c2fnas/fixtures/c2fnas.safetensors"]
    _make(tmp_path, [*product, *SECRET])
    shutil.copy(ROOT / ".gitignore", tmp_path)
    added = _git(tmp_path, "add", "-n", "-A").stdout
    assert sorted(re.findall(r"^add '(.*)'$", added, re.MULTILINE)) == sorted(
        [*product, ".gitignore"]
    )


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_no_file_of_the_repository_is_ignored_by_mistake():
    listed = _git(ROOT, "ls-files", "-i", "-c", "--exclude-standard")
    if listed.returncode:
        pytest.skip("this is no clone of the repository")
    assert listed.stdout == ""


# The server's packages.


def locked():
    """Returns (requirement, hashes) of every entry of the lock file."""
    text = "\n".join(
        line for line in LOCK.read_text().splitlines() if not line.lstrip().startswith("#")
    )
    entries = []
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip():
            requirement, *hashes = re.split(r"\s+--hash=", line.strip())
            entries.append((Requirement(requirement.strip()), [text.strip() for text in hashes]))
    return entries


def _installed_with(python):
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.5",
        "implementation_name": "cpython",
    }
    environment |= {
        "platform_python_implementation": "CPython",
        "sys_platform": "linux",
        "platform_system": "Linux",
    }
    found = {}
    for requirement, _ in locked():
        if requirement.marker is None or requirement.marker.evaluate(environment):
            assert requirement.name not in found, (
                f"{requirement.name} is there twice for Python {python}"
            )
            found[requirement.name] = str(requirement.specifier).removeprefix("==")
    return found


def test_every_package_of_the_server_has_one_version_and_hashes():
    assert len(locked()) >= 8
    for requirement, hashes in locked():
        assert re.fullmatch(r"==[0-9][0-9a-z.]*", str(requirement.specifier)), requirement
        assert hashes and all(re.fullmatch(r"sha256:[0-9a-f]{64}", text) for text in hashes), (
            requirement
        )
    assert "://" not in LOCK.read_text() and "--index" not in LOCK.read_text(), (
        "which index is asked is not for this file to say"
    )


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_the_lock_file_fits_what_setup_asks_for(python):
    asked = ast.literal_eval(
        next(k.value for k in _setup_call().keywords if k.arg == "install_requires")
    )
    found = _installed_with(python)
    for requirement in map(Requirement, asked):
        if requirement.marker is not None and not requirement.marker.evaluate(
            {"python_version": python}
        ):
            continue
        assert requirement.specifier.contains(found[requirement.name]), (
            f"{requirement}: the lock file has {found[requirement.name]}"
        )
    assert {"setuptools", "wheel"} <= set(found)  # which build the product without asking an index


def test_the_programs_that_the_lock_file_covers_need_nothing_else():
    named = re.search(
        r"Covers (experiments\..*?) on both stacks", LOCK.read_text().replace("\n#", "")
    )[1]
    programs = [
        f"experiments.{name}"
        for name in re.findall(r"\b(\w+)(?:,| and|$)", named.replace("experiments.", ""))
    ]
    assert {"experiments.serve", "experiments.provision", "experiments.audit"} <= set(programs)
    code = (
        "import importlib, importlib.metadata, pkgutil, sys\n"
        "from absl import flags\n"
        "def load(name):\n"
        "    importlib.import_module(name)\n"
        # two programs define a flag of the same name
        "    for flag in list(flags.FLAGS): delattr(flags.FLAGS, flag)\n"
        f"for name in {programs!r}: load(name)\n"
        "import federated\n"
        "engines = ('federated.engines.nvflare', 'federated.engines.flower')\n"
        "for module in pkgutil.walk_packages(federated.__path__, 'federated.'):\n"
        "    if not module.name.startswith(engines):\n"
        "        importlib.import_module(module.name)\n"
        "owners = importlib.metadata.packages_distributions()\n"
        "tops = {name.partition('.')[0] for name in sys.modules}\n"
        "for top in sorted(tops - sys.stdlib_module_names):\n"
        "    if top in owners: print(*owners[top])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=unmeasured.environment(),
    )
    assert done.returncode == 0, done.stderr
    found = {
        *_installed_with(f"{sys.version_info[0]}.{sys.version_info[1]}"),
        "c2fnas-federated-pancreas",
    }
    # Several packages may share a name, for example `google`.
    for line in done.stdout.splitlines():
        assert found & {name.lower().replace("_", "-") for name in line.split()}, (
            f"{line} is not in the lock file"
        )
