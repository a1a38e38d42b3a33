"""The program that trains on the cases of several sites: what it refuses beforehand."""

from tests.experiments.models.test_prepared_cases import OTHER, SAME, make_store
from tests.experiments.programs import refused

FLAGS = ("--spacing_mm=3,3,3", "--seed=5", "--initial_model=i.safetensors", "--output=pooled")


def test_every_site_must_have_prepared_cases_of_the_plan(tmp_path):
    (tmp_path / "i.safetensors").write_bytes(b"")
    make_store(tmp_path / "C1" / "cases", SAME)
    error = refused("train_pooled", *FLAGS, "--site_folders=C1,C2", folder=tmp_path)
    assert "C2/cases" in error
    make_store(tmp_path / "C2" / "cases", OTHER, site="C2")
    error = refused("train_pooled", *FLAGS, "--site_folders=C1,C2", folder=tmp_path)
    assert "C2/cases" in error and "2.5" in error
    assert not (tmp_path / "pooled").exists()
