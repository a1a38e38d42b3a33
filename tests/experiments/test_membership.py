"""The program that measures membership inference."""

import json

import pytest

from tests import forked
from tests.experiments import study
from tests.experiments.models.membership import measured_run
from tests.experiments.models.test_site_trainer import tiny
from tests.experiments.programs import refused

FLAGS = {
    "profile": "tiny", "seed": 5, "filters": 4, "vae": "none", "latent_size": 4, "spacing_mm": "3,3,3", "patch_size": "16,16,8",
    "num_rounds": 5, "learning_rate": 0.01, "final_learning_rate": 0.001, "patches": 1, "threads": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of one site, its non-members, and the flags that the program needs."""
    folder = tmp_path_factory.mktemp("run")
    genotype = folder / "genotype.json"
    genotype.write_text(json.dumps(study.SHALLOW))
    measured_run.leave(folder, tiny(genotype), sites=("C1",))
    measured_run.store(folder / "sites" / "C1", "C1", range(4), (2, 1, 1))
    measured_run.store(folder / "others", "C1", range(10, 13), (0, 0, 3))
    measured_run.store(folder / "elsewhere", "C2", range(20, 23), (0, 0, 3))
    flags = [f"--{name}={value}" for name, value in {**FLAGS, "genotype": genotype}.items()]
    return folder, [*flags, f"--nonmembers=C1:{folder / 'others'}", f"--output={folder / 'out'}"]


def test_it_prints_the_cost_measures_and_writes_what_it_found(run):
    folder, flags = run
    command = ("experiments.membership", *flags, f"--run={folder}", "--rounds=4")
    dry = forked.run(*command, "--dry_run")
    assert dry.returncode == 0, dry.stderr
    assert "C1: 2 members, 3 non-members" in dry.stdout
    assert "3 non-members are too few for 1 % of them; give 100 or more" in dry.stdout
    assert "4 models" in dry.stdout and not (folder / "out").exists()
    done = forked.run(*command)
    assert done.returncode == 0, done.stderr
    content = json.loads((folder / "out" / "membership.json").read_text())
    assert {(e["model"], e["attack"]) for e in content["attacks"]} == {
        ("FL_global", "loss"),
        ("C1_FL_local", "loss"),
        ("C1_baseline", "loss"),
        *(("C1_update", attack) for attack in ("loss", "update", "alignment")),
    }
    assert "| C1_update | 4 | alignment |" in done.stdout
    assert "<svg" not in (folder / "out" / "membership.html").read_text()


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ([], "give --run, or --models and --members together"),
        (["--run={run}", "--nonmembers=C9:{run}/others"], "--nonmembers has site 'C9'"),
        (
            ["--run={run}", "--nonmembers=C1:{run}/others,C1:{run}/sites/C1"],
            "--nonmembers has 'C1' twice",
        ),
        (
            ["--run={run}", "--nonmembers=C1:{run}/elsewhere"],
            "elsewhere is given for site 'C1' and has cases of 'C2'",
        ),
        (
            ["--members=C1:{run}/sites/C1", "--models=a:{run}/genotype.json,a:{run}/genotype.json"],
            "--models has 'a' twice",
        ),
        (["--run={run}", "--rounds=x"], "--rounds is 'x'; expected numbers"),
        (["--run={run}", "--keep_at_site=norms"], "--keep_at_site is norms"),
    ],
)
def test_what_cannot_be_measured_is_refused(run, given, match):
    folder, flags = run
    error = refused("membership", *flags, *(flag.format(run=folder) for flag in given))
    assert match in error
