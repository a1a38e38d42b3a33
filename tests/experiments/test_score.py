"""The program that scores models at a site: what it refuses before it computes anything."""

from tests.experiments.models.test_prepared_cases import OTHER, make_store
from tests.experiments.programs import refused

FLAGS = ("--spacing_mm=3,3,3", "--seed=5", "--output=rows.jsonl")


def test_models_must_exist_and_rows_replace_none_of_them(tmp_path):
    flags = (*FLAGS, f"--site_folder={tmp_path}")
    error = refused("score", *flags, "--models=best", folder=tmp_path)
    assert "--models has 'best'; expected name:file of an existing file" in error
    (tmp_path / "rows.jsonl").write_bytes(b"a model of an odd name")
    error = refused("score", *flags, "--models=best:rows.jsonl", folder=tmp_path)
    assert "rows.jsonl" in error and "--models" in error and "--output" in error
    assert (tmp_path / "rows.jsonl").read_bytes() == b"a model of an odd name"


def test_cases_of_another_spacing_are_refused(tmp_path):
    make_store(tmp_path / "cases", OTHER)
    (tmp_path / "m.safetensors").write_bytes(b"")
    flags = (*FLAGS, f"--site_folder={tmp_path}", "--models=best:m.safetensors")
    assert "2.5" in refused("score", *flags, folder=tmp_path)
    assert not (tmp_path / "rows.jsonl").exists()
