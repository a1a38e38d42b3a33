"""The program that gives a server an order: what each order needs, and the server's answer."""

import pytest

from federated.wire import operation_pb2
from tests import forked
from tests.experiments.programs import refused
from tests.federated import fake_server
from tests.federated.conftest import kits  # noqa: F401 - fixture


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--order=evict"], "--order=evict needs the name of a site: --site"),
        (["--order=pause", "--site=C1"], "--order=pause does not take --site"),
        (["--order=discard_round"], "--order=discard_round needs the number of a round: --round"),
        (["--order=finish", "--round=2"], "--order=finish does not take --round"),
        (["--order=pause", "--server=here"], "--server is 'here'; expected host:port"),
    ],
)
def test_an_order_with_too_little_or_too_much_is_refused_before_the_kit_is_read(flags, words):
    assert words in refused("operate", "--kit=none", *flags)


def test_the_order_reaches_the_server_and_its_answer_is_printed(kits, tmp_path):  # noqa: F811
    fake = fake_server.FakeServer(tmp_path)
    fake.answers["Order"] = lambda request, context: operation_pb2.OrderReply(answer="as you wish")
    with fake_server.serving(fake, kits / "server") as port:
        flags = (f"--kit={kits / 'operator'}", f"--server=localhost:{port}")
        done = forked.run("experiments.operate", *flags, "--order=evict", "--site=C2")
    assert (done.returncode, done.stdout) == (0, "as you wish\n"), done.stderr
    (sent,) = (operation_pb2.OrderRequest.FromString(r) for r in fake.requests("Order"))
    assert (sent.kind, sent.site, sent.round) == ("evict", "C2", 0)
