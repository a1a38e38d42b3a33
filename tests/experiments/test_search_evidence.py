"""The program that measures what a search is worth. Its trainings are those of
`search/test_candidate_training.py`, its numbers those of `search/test_evidence.py`.
"""

import json

from tests.experiments.programs import refused
from tests.experiments.study import SHALLOW, Study


def test_what_cannot_be_measured_is_refused_at_the_start(tmp_path):
    study = Study(tmp_path, genotype=SHALLOW)
    output = tmp_path / "evidence"
    flags = study.flags(vae="none", output=output, site_folders=tmp_path / "sites" / "C1")
    error = refused("search_evidence", *flags, "--found=topology_evolution:none.json")
    assert error == (
        "--found has 'topology_evolution:none.json'; expected name:file of an existing file"
    )
    error = refused("search_evidence", *flags, f"--found=winner:{tmp_path / 'genotype.json'}")
    assert error.startswith("winner is no network of a claim; known are published, all_2d")
    (tmp_path / "paths.json").write_text(json.dumps({"format": 1}))
    error = refused("search_evidence", *flags, f"--paths={tmp_path / 'paths.json'}")
    assert "holds no paths of a supernet" in error
    error = refused("search_evidence", *flags)
    assert str(tmp_path / "sites" / "C1" / "cases") in error
    assert not output.exists()
