"""The program of a bad site: what it refuses, and what it says before it takes part."""

from federated.security import provisioning
from tests import forked
from tests.experiments.models.test_prepared_cases import SAME, make_store
from tests.experiments.programs import refused


def test_it_reaches_no_other_machine_and_makes_nothing(tmp_path):
    flags = ("--fault=stuck", "--kit=k", f"--site_folder={tmp_path / 'site'}")
    error = refused("faulty_site", *flags, "--server=fl.example.org:8443", folder=tmp_path)
    assert "server is on 'fl.example.org'" in error
    assert not list(tmp_path.iterdir())


def test_it_takes_part_as_any_site_but_says_first_what_it_does_wrong(tmp_path):
    kits = provisioning.provision(tmp_path / "kits", "localhost", ("C1",), port=8443)
    make_store(tmp_path / "cases", SAME, site="C2")
    done = forked.run(
        "experiments.faulty_site",
        *("--fault=labels_shuffled", "--server=localhost:8443", f"--kit={kits / 'C1'}"),
        *(f"--site_folder={tmp_path}", "--spacing_mm=3,3,3", "--seed=5"),
    )
    assert done.returncode == 1
    warned = done.stderr.index("event=faulty_site EXPERIMENT: this site ")
    # joining checks what it checks for every site
    assert warned < done.stderr.index("error: ") < done.stderr.index("belongs to site C1")
