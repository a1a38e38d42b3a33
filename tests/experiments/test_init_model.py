"""The program that draws the initial weights: it also writes the plan."""

import json

import numpy as np
import pytest

from c2fnas import named_weights
from tests.experiments.programs import refused
from tests.experiments.study import FLAGS, SHALLOW


def test_the_file_holds_the_weights_that_are_counted_and_the_plan_that_sites_share(shallow):
    study, printed = shallow
    weights, metadata = named_weights.load(study.initial)
    count = sum(array.size for array in weights.values())
    kernels = sum(array.size for name, array in weights.items() if name.endswith("kernel"))
    assert printed.startswith(f"{study.initial}: {len(weights)} arrays, {count:,} weights ")
    assert f"({kernels:,} in the segmentation network's convolutions)" in printed
    plan = json.loads(metadata["plan"])
    assert [(cell["inputs"], cell["level"], cell["op"]) for cell in plan["genotype"]["cells"]] == [
        (cell["inputs"], cell["level"], cell["op"]) for cell in SHALLOW["cells"]
    ]
    assert plan["training"]["batch_size"] == FLAGS["batch_size"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--genotype=nothing"], "genotype 'nothing' is neither a known name"),
        (
            ["--filters=2", "--keep_at_site=norm"],
            "--keep_at_site or --only_receive: keep has the pattern 'norm', which matches none",
        ),
        (["--filters=2", "--patch_size=40,48,48"], "40"),
    ],
)
def test_a_wrong_setting_is_one_line_and_leaves_no_file(flags, words, tmp_path):
    assert words in refused("init_model", "--output=x.safetensors", *flags, folder=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["text", "weights", "folder"])
def test_a_file_that_is_not_an_initial_model_is_not_replaced(kind, tmp_path):
    path = tmp_path / "x.safetensors"
    if kind == "folder":
        path.mkdir()
    elif kind == "text":
        path.write_text("notes")
    else:
        named_weights.save(path, {"a": np.zeros(3)}, {"model": "C1_best"})
    before = None if kind == "folder" else path.read_bytes()
    said = refused("init_model", "--output=x.safetensors", "--filters=2", folder=tmp_path)
    assert "x.safetensors is not an initial model and would be replaced" in said
    assert path.is_dir() if before is None else path.read_bytes() == before
