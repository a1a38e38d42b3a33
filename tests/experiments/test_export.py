"""The program that exports a model: what it needs."""

from tests.experiments.programs import refused


def test_a_folder_without_a_model_and_an_output_over_it_are_refused(tmp_path):
    error = refused("export", "--model=none", "--output=out", folder=tmp_path)
    assert "none: no such folder; give the folder of a model" in error
    (tmp_path / "model").mkdir()
    error = refused("export", "--model=model", "--output=model", folder=tmp_path)
    assert "--output" in error and "--model" in error
    assert not (tmp_path / "out").exists() and not list((tmp_path / "model").iterdir())
