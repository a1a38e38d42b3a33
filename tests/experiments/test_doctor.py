"""The program that finds out why a kit cannot work: exit code, table and JSON, prepared cases."""

import json

import tensorflow as tf

from tests import forked
from tests.experiments.models.test_prepared_cases import OTHER, make_store
from tests.federated.conftest import kits  # noqa: F401 - fixture


def examined(*flags):
    done = forked.run("experiments.doctor", *flags, "--json", "--timeout=0.2")
    return done.returncode, {found["check"]: found for found in json.loads(done.stdout)}


def test_a_server_that_does_not_answer_is_a_fault_with_a_remedy(kits):  # noqa: F811
    code, found = examined(f"--kit={kits / 'C1'}", "--server=localhost:1")
    faults = [one for one in found.values() if one["state"] == "fault"]
    assert code == 1 and faults and all(one["mend"] for one in faults)
    table = forked.run(
        "experiments.doctor", f"--kit={kits / 'C1'}", "--server=localhost:1", "--timeout=0.2"
    )
    assert table.returncode == 1 and faults[0]["check"] in table.stdout


def test_prepared_cases_are_compared_with_the_plan_of_the_flags(kits, tmp_path):  # noqa: F811
    make_store(tmp_path / "cases", OTHER)
    flags = [f"--kit={kits / 'C1'}", "--server=localhost:1", f"--site_folder={tmp_path}"]
    for profile in (["--profile=test"], []):  # a study's flag file may name no profile
        _, found = examined(*flags, *profile, "--spacing_mm=3,3,3")
        told = found["prepared cases"]
        assert told["state"] == "fault" and "2.5" in told["found"] and "3" in told["found"]
    _, found = examined(*flags)
    assert found["prepared cases"]["state"] == "skipped"


def test_a_site_is_told_its_devices_and_a_server_is_not(kits):  # noqa: F811
    _, found = examined(f"--kit={kits / 'C1'}", "--server=localhost:1")
    assert found["devices"]["state"] == "good"
    gpus = tf.config.list_physical_devices("GPU")
    assert gpus or found["devices"]["found"].startswith("processor, ")
    _, found = examined(f"--kit={kits / 'server'}")
    assert "devices" not in found


def test_a_site_is_told_in_words_what_stays_with_it(kits, tmp_path):  # noqa: F811
    flags = [f"--kit={kits / 'C1'}", "--server=localhost:1", f"--site_folder={tmp_path}"]
    rules = ["--profile=test", "--keep_at_site=norms", "--only_receive=head"]
    _, found = examined(*flags, *rules)
    stays = found["stays at this site"]
    assert stays["state"] == "good" and "arrays named */gamma, */beta" in stays["found"]
    assert f"back up {tmp_path / 'federated' / 'journal'}" in stays["found"]
    assert "end/classifier/*: not trained here and never sent" in found["only received"]["found"]
    for others in (["--profile=test"], [*rules, "--num_rounds=0"]):
        _, found = examined(*flags, *others)
        assert not found.keys() & {"stays at this site", "only received"}
