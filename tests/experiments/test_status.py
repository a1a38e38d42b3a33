"""The program that shows a run's status: a table or JSON, and one line if nobody answers."""

import json

from federated.wire import operation_pb2
from tests import forked
from tests.experiments.programs import refused
from tests.experiments.reports.test_status_table import STATUS
from tests.federated import fake_server
from tests.federated.conftest import kits  # noqa: F401 - fixture


def test_the_status_is_printed_as_the_server_sends_it(kits, tmp_path):  # noqa: F811
    fake = fake_server.FakeServer(tmp_path)
    fake.answers["Status"] = lambda request, context: operation_pb2.StatusReply(
        status_json=json.dumps(STATUS)
    )
    with fake_server.serving(fake, kits / "server") as port:
        flags = (f"--kit={kits / 'operator'}", f"--server=localhost:{port}", "--json")
        done = forked.run("experiments.status", *flags)
    assert done.returncode == 0 and json.loads(done.stdout) == STATUS, done.stderr


def test_a_kit_that_is_not_there_is_named(tmp_path):
    assert str(tmp_path / "kit") in refused("status", f"--kit={tmp_path / 'kit'}")
