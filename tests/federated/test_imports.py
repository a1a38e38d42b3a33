import ast
import pathlib
import pkgutil
import re
import subprocess
import sys

import federated

ROOT = pathlib.Path(__file__).parents[2]

# Which folders each folder may import; `errors` is everyone's. Each line names only folders above
# it, so that imports point one way.
MAY_IMPORT = {
    "privacy": set(),
    "tensors": set(),
    "rounds": set(),
    "wire": {"tensors", "rounds"},
    "aggregation": {"tensors", "rounds"},
    "security": {"wire"},
    "secure_aggregation": {"tensors", "rounds", "wire", "security"},
    "connections": {"wire"},
    "storage": {"tensors", "rounds", "security"},
    "audit": {"tensors", "rounds", "aggregation", "security", "storage"},
    "server": {
        "tensors",
        "rounds",
        "wire",
        "aggregation",
        "security",
        "secure_aggregation",
        "connections",
        "storage",
        "audit",
    },
    "site": {"privacy", "tensors", "rounds", "wire", "security", "secure_aggregation"},
    "admin": {"rounds", "wire", "security"},
    "engines": {"tensors", "rounds", "aggregation", "security", "site"},
    "doctor": {"tensors", "rounds", "wire", "security", "admin"},
    "simulation": {
        "privacy",
        "tensors",
        "rounds",
        "wire",
        "aggregation",
        "security",
        "secure_aggregation",
        "storage",
        "audit",
        "server",
        "site",
    },
}

NEED_AN_ENGINE = ("federated.engines.nvflare", "federated.engines.flower")


def imported(path):
    """Yields the folder or top-level module of `federated` that each import in a file names."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "federated":
            below = node.module.split(".")[1:]
            yield from [below[0]] if below else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from (
                alias.name.split(".")[1]
                for alias in node.names
                if alias.name.startswith("federated.")
            )


def test_folders_import_only_what_the_contract_allows():
    above = set()
    for folder, allowed in MAY_IMPORT.items():
        assert allowed <= above, f"{folder} may import {allowed - above}, which is not above it"
        above.add(folder)
    package = ROOT / "federated"
    assert {
        path.name for path in package.iterdir() if path.is_dir() and path.name != "__pycache__"
    } < above
    for path in package.rglob("*.py"):
        folder = path.relative_to(package).parts[0].removesuffix(".py")
        if folder in MAY_IMPORT:
            assert set(imported(path)) <= MAY_IMPORT[folder] | {folder, "errors"}, path


def test_no_folder_holds_more_than_sixteen_modules():
    for folder in MAY_IMPORT:
        assert (
            len(
                [
                    path
                    for path in (ROOT / "federated" / folder).glob("*.py")
                    if path.name != "__init__.py"
                ]
            )
            <= 16
        ), folder


def test_no_module_needs_tensorflow_or_another_package_of_this_project():
    names = [
        module.name
        for module in pkgutil.walk_packages(federated.__path__, "federated.")
        if not module.name.startswith(NEED_AN_ENGINE)
    ]
    blocked = [
        "nvflare",
        "flwr",
        "torch",
        "tensorflow",
        "keras",
        "tensorflow_addons",
        "tensorboard",
        "preprocessing",
        "c2fnas",
        "experiments",
    ]
    program = (
        f"import sys\nfor name in {blocked}: sys.modules[name] = None\n"
        f"for name in {names}: __import__(name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(names) > 20


def test_a_site_loads_no_server_code():
    program = (
        "import sys\nimport federated.site.grpc_transport, federated.site.loop\n"
        "names = ('server', 'storage', 'audit', 'security.provisioning')\n"
        "print([name for name in names if f'federated.{name}' in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_nothing_in_the_package_can_carry_code():
    for path in (ROOT / "federated").rglob("*.py"):
        text = path.read_text()
        assert not any(
            word in text
            for word in ("import pickle", "cloudpickle", "eval(", "exec(", "marshal", "yaml")
        ), path


def test_the_package_names_no_organ_and_no_measure():
    anatomy = r"pancrea|tumou?r|lesion|cancer|organs?\b|liver|kidney|spleen|abdom|background"
    measures = r"dice\b|hd95|hausdorff|nsd\b|volume|sensitivity|voxel|spacing|hounsfield"
    forbidden = re.compile(f"(?<![a-z])(?:{anatomy}|{measures})", re.IGNORECASE)
    allowed = {("aggregation/model_selection.py", "dice")}  # a key in every store and message
    found = set()
    for path in (ROOT / "federated").rglob("*"):
        if path.suffix in (".py", ".pyi", ".proto"):
            name = path.relative_to(ROOT / "federated").as_posix()
            words = forbidden.findall(path.read_text(encoding="utf-8"))
            found |= {(name, word.lower()) for word in words}
    assert found == allowed


def test_the_files_that_the_readme_names_exist():
    text = (ROOT / "federated" / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:\w+/)?\w+\.py|tests/[\w/]+\.py)`", text)
    assert len(named) >= 10
    for name in named:
        assert (ROOT / "federated" / name).is_file() or (ROOT / name).is_file(), name
