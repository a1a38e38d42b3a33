"""Programs that compute with TensorFlow check flags and input first: loading it takes seconds."""

import json

import pytest

from tests.experiments.models.test_prepared_cases import SAME, make_store
from tests.experiments.programs import NEED_TENSORFLOW, fresh
from tests.experiments.study import SHALLOW

PLAN = ("--spacing_mm=3,3,3", "--seed=5")
OTHER_PLAN = "--spacing_mm=2,2,2"
SITE, STORES = "--site_folder=site", "--site_folders=site"
MEMBERS = ("--members=C1:site", "--nonmembers=C1:site", "--models=a:scan.nii.gz")
PAIR = ("--image=absent.nii.gz", "--label=scan.nii.gz")
NOT_OF_PLAN = "spacing_mm: the prepared cases have 3 x 3 x 3"
# program -> flags, and words of the error: one of the last checks of the input
REFUSALS = {
    "dryrun": (["--genotype=absent.json"], "absent.json"),
    "export": (["--model=absent", "--output=x"], "absent: no such folder"),
    "faulty_site": ([], "--fault is missing"),
    "init_model": (["--output=x", "--genotype=absent.json"], "absent.json"),
    "join": (["--kit=absent", SITE], "absent"),
    "membership": (["--output=out", *MEMBERS, OTHER_PLAN], NOT_OF_PLAN),
    "overfit": ([*PAIR, "--output=out"], "absent.nii.gz: no such file"),
    "predict": (["--model=site", "--image=absent.nii.gz", "--output=m"], "absent.nii.gz: no such"),
    "reconstructions": ([SITE, "--output=x.png", "--weights=absent"], "absent"),
    "score": ([SITE, "--output=x", "--models=a:scan.nii.gz", OTHER_PLAN], NOT_OF_PLAN),
    "search_evidence": (["--output=out", STORES, OTHER_PLAN], NOT_OF_PLAN),
    "search_operations": (["--output=out", STORES, OTHER_PLAN], NOT_OF_PLAN),
    "search_topology": (["--output=out", STORES, OTHER_PLAN], NOT_OF_PLAN),
    "train_local": ([SITE], "--initial_model is missing"),
    "train_pooled": (["--output=x", STORES, "--initial_model=scan.nii.gz", OTHER_PLAN], NOT_OF_PLAN),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("inputs")
    for name in ("tensorflow", "keras"):
        (made / f"{name}.py").write_text("raise SystemExit('TensorFlow was loaded')\n")
    make_store(made / "site" / "cases", SAME)
    (made / "genotype.json").write_text(json.dumps(SHALLOW))
    (made / "scan.nii.gz").write_bytes(b"")
    return made


def test_every_program_that_starts_tensorflow_is_here():
    assert sorted(REFUSALS) == sorted(NEED_TENSORFLOW)


@pytest.mark.parametrize("program", REFUSALS)
def test_wrong_input_is_named_before_tensorflow_is_loaded(folder, program):
    flags, words = REFUSALS[program]
    plan = PLAN if program not in ("export", "predict") else ()
    done = fresh(program, *plan, *flags, path=folder)
    told = done.stderr[done.stderr.index("error: ") :]  # without the progress of preparation
    assert done.returncode == 1 and words in told, done.stderr


def test_a_program_with_right_input_loads_it(folder):
    done = fresh("init_model", "--output=x.safetensors", path=folder)
    assert "TensorFlow was loaded" in done.stderr
