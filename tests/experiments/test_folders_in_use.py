"""Two programs on one kit or one site folder: the second is refused before it changes anything."""

import json
import os

import pytest

from federated.security import provisioning
from runkit import folder_lock
from tests import forked, waiting
from tests.experiments import study
from tests.experiments.studies import small_study


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A prepared site C2, its kit, and a manifest of its scans."""
    folder = tmp_path_factory.mktemp("hospital")
    cases, _ = study.prepared_site(folder, folder / "site" / "cases")
    listed = [
        {"case_id": case.case_id, "image": case.image.name, "label": case.label.name}
        for case in cases
    ]
    (folder / "manifest.json").write_text(json.dumps({"site": "C2", "cases": listed}))
    provisioning.provision(folder / "federation", "localhost", ("C2",), port=8443)
    return folder


SETTINGS = ["--spacing_mm=3,3,3", "--seed=1"]


@pytest.mark.parametrize(
    ("held", "program"),
    [
        ("federation/C2", ["join", "--kit=federation/C2", "--site_folder=site"]),
        ("site/federated", ["join", "--kit=federation/C2", "--site_folder=site"]),
        (
            "site/cases",
            ["prepare", "--manifest=manifest.json", "--site_folder=site", "--split=2,1,1"],
        ),
        (
            "site/cases",
            ["train_local", "--initial_model=initial.safetensors", "--site_folder=site"],
        ),
        ("runs/demo", ["table1", "--profile=demo", "--filters=8", "--runs=runs"]),
        ("runs/s", ["study", "--study=s.json", "--runs=runs"]),
        (
            "site/baseline",
            ["train_local", "--initial_model=initial.safetensors", "--site_folder=site"],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_the_second_is_refused_and_names_the_first(site, tmp_path, held, program):
    from federated.tensors import tensor_files
    from tests.federated import toy

    tensor_files.save(site / "initial.safetensors", toy.INITIAL, {})
    (site / held).mkdir(parents=True, exist_ok=True)
    (site / "s.json").write_text(json.dumps(small_study.FILE))
    settings = () if program[0] == "study" else SETTINGS
    before, errors = set(site.rglob("*")), tmp_path / "stderr"
    with folder_lock.hold(site / held):
        started = forked.start(
            f"experiments.{program[0]}",
            [*settings, *program[1:]],
            out=tmp_path / "stdout",
            errors=errors,
            folder=site,
        )
        try:  # one that ignores the lock would run for minutes, or wait forever for a server
            waiting.until(
                lambda: started.poll() is not None or set(site.rglob("*")) != before,
                started,
                told=errors.read_text,
            )
        finally:
            started.kill()
    assert set(site.rglob("*")) == before
    assert started.wait() == 1, errors.read_text()
    last = errors.read_text().strip().splitlines()[-1]
    assert last.startswith("error: ") and f"{held} is in use by process {os.getpid()} " in last
