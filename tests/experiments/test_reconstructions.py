"""The program that draws reconstructions: what it needs."""

from tests.experiments.programs import refused


def test_a_folder_without_prepared_cases_is_named(tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"")
    flags = [f"--site_folder={tmp_path}", "--weights=w.safetensors", "--output=p.png"]
    assert str(tmp_path / "cases") in refused("reconstructions", *flags, folder=tmp_path)
