"""Secure aggregation by the programs themselves: one process per site over TLS, one of them killed
in the middle of a round. Only the training is a toy's, so the sums are known exactly.
"""

import json
import signal

import pytest
from absl import flags

from experiments import setting_flags
from experiments.configuration import ExperimentConfig
from federated.security import provisioning
from federated.tensors import tensor_files
from tests import forked
from tests.experiments import study
from tests.experiments.models.test_prepared_cases import SAME, make_store
from tests.experiments.toy_join import plan
from tests.federated import masked_site, toy

NAMES = ("C1", "C2", "C3")
FLAGS = [f"--{name}={value}" for name, value in study.FLAGS.items()]
SUMS = ("--secure_aggregation", "--min_num_clients=3", "--max_num_clients=3")
MASKED = ("--require_secure_aggregation", "--nolend_local")


def configured():
    given = flags.FlagValues()
    setting_flags.define(ExperimentConfig, into=given)
    given(["test", *FLAGS])
    return ExperimentConfig(**setting_flags.values(ExperimentConfig, given))


class Federation:
    """A server and three sites of one test, in one folder."""

    def __init__(self, folder, group):
        self.folder, self.store, self._group = folder, folder / "store", group
        self.kits = provisioning.provision(folder / "kits", "localhost", NAMES, port=0)
        initial = toy.write_initial(folder / "initial.safetensors", plan=plan(configured()))
        for site in NAMES:
            make_store(folder / site / "cases", SAME, site=site)
        more = ("--max_change_ratio=0", "--keep_updates=0", "--host=127.0.0.1", "--port=0")
        own = (f"--kit={self.kits}/server", f"--store={self.store}", f"--initial_model={initial}")
        self.server = group.start("server", "experiments.serve", [*FLAGS, *SUMS, *more, *own])
        address = self.store / "address.json"
        group.wait_for(address.exists, self.server, "starting", timeout_s=120)
        self.port = json.loads(address.read_text())["port"]

    def join(self, site, *more):
        own = (f"--kit={self.kits / site}", f"--server=localhost:{self.port}")
        place = f"--site_folder={self.folder / site}"
        given = [*FLAGS, *MASKED, *own, place, *more]
        return self._group.start(f"join {site}", "tests.experiments.toy_join", given)

    def killed(self, site, kill, *more):
        """Runs a site until it kills itself."""
        process = self.join(site, f"--kill={kill}", *more).process
        process.wait(120)
        assert process.returncode == -signal.SIGKILL, self.log(f"join {site}")

    def operator(self, program, *more):
        own = (f"--kit={self.kits / 'operator'}", f"--server=localhost:{self.port}")
        done = forked.run(f"experiments.{program}", *own, *more)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def wait(self, *sites):
        self._group.wait([*sites, self.server], "federation")

    def log(self, name):
        return (self.folder / "logs" / f"{name}.log").read_text(errors="replace")

    def events(self, kind):
        lines = (self.store / "events.jsonl").read_text().splitlines()
        return [line for line in map(json.loads, lines) if line["event"] == kind]

    def check(self, number, counted):
        """Compares a global model with the weighted mean of what its sites trained."""
        before, found = (
            tensor_files.load(self.store / "global" / f"round_{n:03d}.safetensors")[0]
            for n in (number - 1, number)
        )
        masked_site.assert_model(found, masked_site.expected(before, counted, number))

    def check_receipts(self, counted):
        """Checks that each update counts once, by the digest under which it came.

        Args:
          counted: round -> the sites in its sum.
        """
        pushed = {(line["round"], line["site"]): line["sha256"] for line in self.events("pushed")}
        assert len(pushed) == len(self.events("pushed")), "an update was confirmed twice"
        assert pushed.keys() == {(number, site) for number in counted for site in counted[number]}
        for line in self.events("aggregated"):
            assert line["sites"] == {site: toy.EXAMPLES[site] for site in counted[line["round"]]}
        for site in NAMES:
            lines = (self.folder / site / "federated/journal/events.jsonl").read_text()
            known = [e for e in map(json.loads, lines.splitlines()) if e["event"] == "pushed"]
            assert {e["round"] for e in known} <= {n for n in counted if site in counted[n]}
        audit = forked.run(
            "experiments.audit", f"--store={self.store}", f"--authority={self.kits}/C1/ca.pem"
        )
        assert audit.returncode == 0, audit.stdout + audit.stderr


@pytest.fixture
def federation(tmp_path):
    with forked.Group(tmp_path / "logs") as group:
        yield Federation(tmp_path, group)


def test_a_site_that_is_killed_twice_in_a_round_and_comes_back_is_in_the_sum(federation):
    others = [federation.join(site) for site in ("C1", "C3")]
    federation.killed("C2", "GrpcTransport.push:before:1")  # masked, and not sent
    federation.killed("C2", "GrpcTransport.push:after:1")  # sent, and not confirmed to the site
    federation.wait(federation.join("C2"), *others)
    for number in (1, 2):
        federation.check(number, NAMES)
    federation.check_receipts({1: NAMES, 2: NAMES})
    assert [line["secure_aggregation"]["dropped"] for line in federation.events("aggregated")] == [
        [],
        [],
    ]


def test_a_site_that_is_killed_for_good_is_not_in_the_sum_and_the_run_ends(federation):
    two = "--min_sum_sites=2"
    others = [federation.join(site, two) for site in ("C1", "C3")]
    federation.killed("C2", "GrpcTransport.push:before:2", two)
    status = federation.operator("status")
    assert "secure sum, exchange 1, phase 'mask'" in status
    assert "C2" in status.partition("waiting for ")[2].partition("\n")[0]
    federation.operator("operate", "--order=evict", "--site=C2")
    federation.wait(*others)
    federation.check(1, NAMES)
    federation.check(2, ("C1", "C3"))
    federation.check_receipts({1: NAMES, 2: ("C1", "C3")})
    dropped = [line["secure_aggregation"]["dropped"] for line in federation.events("aggregated")]
    assert dropped == [[], ["C2"]]


def test_a_site_that_demands_more_sites_than_the_run_has_sends_no_update(federation):
    site = federation.join("C1", "--min_sum_sites=4")
    site.process.wait(120)
    assert site.process.returncode == 77
    assert "min_sum_sites is 4, and this run has at most 3 sites" in federation.log("join C1")
    assert federation.events("pushed") == []
