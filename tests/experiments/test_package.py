"""The program that makes a model folder of weights."""

import numpy as np

from c2fnas import model_folder, named_weights
from tests import forked
from tests.experiments.programs import refused


def test_a_missing_name_is_asked_for_before_anything_is_read(tmp_path):
    given = {"weights": "w.safetensors", "output": tmp_path, "private_arrays": tmp_path}
    flags = [f"--{name}={value}" for name, value in given.items()]
    error = refused("package", *flags, "--keep_at_site=norms")
    assert error.startswith("--name is missing")


def test_weights_become_a_folder_and_those_of_other_flags_do_not(shallow, tmp_path):
    study, _ = shallow
    flags = study.flags(weights=study.initial, name="C1_baseline", output=tmp_path / "model")
    done = forked.run("experiments.package", *flags, "--vae=none")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'model'}: C1_baseline; read its model_card.md\n"
    loaded, (weights, _) = (
        model_folder.load(tmp_path / "model"),
        named_weights.load(study.initial),
    )
    assert loaded.name == "C1_baseline" and loaded.weights.keys() == weights.keys()
    assert all(np.array_equal(loaded.weights[name], array) for name, array in weights.items())
    other = study.flags(weights=study.initial, name="x", output=tmp_path / "other")
    error = refused("package", *other, "--vae=none", "--filters=8")
    assert error.endswith("The weights were trained with other flags")
