"""The program that measures the benefit of a search.

Its trainings are tested in `search/test_candidate_training.py`, its numbers in
`search/test_evidence.py`.
"""

import json

from c2fnas.genotype import Genotype
from experiments.search import evidence
from runkit import atomic
from tests import forked
from tests.experiments.programs import refused
from tests.experiments.search import prepared_sites
from tests.experiments.study import SHALLOW, Study


def test_a_small_evidence_from_cases_to_page_and_its_plan_stays(tmp_path):
    study = Study(tmp_path, genotype=SHALLOW)
    prepared_sites.make(study)
    sites = ",".join(str(study.site_folder(site)) for site in ("C1", "C2"))
    least = {
        "alone_steps": 1, "compared_seeds": 1, "noise_seeds": 1, "rank_paths": 0,
        "vae": "none", "threads": 1, "output": tmp_path / "evidence", "site_folders": sites,
    }  # fmt: skip
    flags = study.flags(**least)
    part = forked.run("experiments.search_evidence", *flags, "--most_trainings=1")
    assert part.returncode == 0, part.stderr
    # the genotype has 2D operations alone, so it is one network with that claim's
    assert part.stdout.startswith("2 trainings of 1 steps: about ")
    assert "1 of 2 trainings; run the same command again to resume" in part.stdout
    (file,) = (tmp_path / "evidence" / "trainings").glob("*.json")
    training = json.loads(file.read_text())
    assert training["seed"] == 6  # the one after the experiment's
    rows = {split: [row["site"] for row in own] for split, own in training["rows"].items()}
    assert rows == {"validation": ["C1", "C2"], "test": ["C1", "C2"]}
    # the other training, as if it had been done with the same scores
    all_3d = evidence.with_one_operation(Genotype.from_json(SHALLOW), "conv3d")
    other = evidence.AloneTraining("all_3d", all_3d, 6)
    atomic.write_json(evidence.training_file(tmp_path / "evidence", other), training)
    done = forked.run("experiments.search_evidence", *flags)
    assert done.returncode == 0, done.stderr
    assert "not measured  in_plane_on_thick_slices: 1 seeds of both networks" in done.stdout
    found = json.loads((tmp_path / "evidence" / "evidence.json").read_text())
    assert found["finished"] and found["trainings"] == {"done": 2, "planned": 2}
    scores = {name: about["scores"] for name, about in found["networks"].items()}
    assert scores["published"] == scores["all_2d"] == scores["all_3d"]
    page = (tmp_path / "evidence" / "evidence.html").read_text()
    assert "Evidence on a search" in page
    error = refused("search_evidence", *study.flags(**{**least, "compared_seeds": 2}))
    assert "trainings.compared_seeds 1, now 2" in error


def test_what_cannot_be_measured_is_refused_at_the_start(tmp_path):
    study = Study(tmp_path, genotype=SHALLOW)
    output = tmp_path / "evidence"
    flags = study.flags(vae="none", output=output, site_folders=tmp_path / "sites" / "C1")
    error = refused("search_evidence", *flags, "--found=topology_evolution:none.json")
    assert error == (
        "--found has 'topology_evolution:none.json'; expected name:file of an existing file"
    )
    error = refused("search_evidence", *flags, f"--found=winner:{tmp_path / 'genotype.json'}")
    assert error.startswith("winner is not in any claim; known are published, all_2d")
    (tmp_path / "paths.json").write_text(json.dumps({"format": 1}))
    error = refused("search_evidence", *flags, f"--paths={tmp_path / 'paths.json'}")
    assert "holds no paths of a supernet" in error
    error = refused("search_evidence", *flags)
    assert str(tmp_path / "sites" / "C1" / "cases") in error
    assert not output.exists()
