import contextlib
import threading
import types

import grpc
import pytest

from federated import simulation
from federated.admin import client as admin_client
from federated.security import credentials, provisioning
from federated.security.tls import Identity
from federated.server import config as server_config
from federated.server import coordinator
from federated.server.serve import serve
from federated.site import grpc_transport
from federated.site import loop as site_loop
from federated.storage import store as storage
from federated.wire import conversion
from runkit import events
from tests.federated import toy


@pytest.fixture(scope="session")
def kits(tmp_path_factory):
    """A provisioned federation of C1, C2 and C3."""
    return provisioning.provision(
        tmp_path_factory.mktemp("kits"), "localhost", ("C1", "C2", "C3"), port=0
    )


@pytest.fixture(scope="session")
def other_kits(tmp_path_factory):
    """Another federation, whose authority is not trusted here."""
    return provisioning.provision(
        tmp_path_factory.mktemp("other_kits"), "localhost", ("C1", "C2"), port=0
    )


class Clock:
    def __init__(self, now=1_000_000.0):
        self.now = now

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def initial(tmp_path):
    return toy.write_initial(tmp_path / "initial.safetensors")


@pytest.fixture(scope="session")
def site_signers(tmp_path_factory):
    """Certificates with which the sites of `opened` verify each other's keys."""
    return simulation.signers_in(tmp_path_factory.mktemp("certificates"), toy.EXAMPLES)


@pytest.fixture
def opened(request, tmp_path, initial, clock):
    """Opens (or opens again) a coordinator over one store folder; closes what it opened."""
    leads = []

    def open_(
        *, folder="store", monotonic=clock, vocabulary=toy.VOCABULARY, models=None, **settings
    ):
        while leads:
            leads.pop().close()
        config = server_config.ServerConfig(
            **{"num_rounds": 3, "poll_s": 5.0, "linger_s": 5.0, **settings}
        )
        store = storage.Store(tmp_path / folder)
        store.open_run(
            initial,
            policy=config.policy,
            local_epochs=config.local_epochs,
            aggregation=str(config.rule),
            models=models,
            sums=None if config.sums is None else vars(config.sums),
        )
        signers = {}
        if config.secure_aggregation:
            signers = request.getfixturevalue("site_signers")
        secrets = {site: f"secret of {site}" for site in toy.EXAMPLES}
        book = credentials.CredentialBook(
            {site: credentials.hashed(secret) for site, secret in secrets.items()}
        )
        log = events.EventLog(tmp_path / folder / "events.jsonl", clock=clock)
        lead = coordinator.Coordinator(
            store,
            config,
            book,
            log,
            vocabulary=vocabulary,
            authority=signers["C1"].authority if signers else None,
            clock=clock,
            monotonic=monotonic,
        )

        leads.append(lead)

        def transport_of(site, secret=None):
            return simulation.InProcessTransport(
                lead,
                site,
                secret or secrets[site],
                wait_s=config.poll_s,
                signer=signers.get(site),
            )

        return types.SimpleNamespace(
            lead=lead, store=store, config=config, transport=transport_of, folder=tmp_path / folder
        )

    yield open_
    for lead in leads:
        lead.close()


@pytest.fixture
def serving(tmp_path, kits, initial):
    """Serves over TLS in a thread; `connect(site)` gives transports. Stops what it started."""
    running = []

    def begin(
        *, folder="store", start=initial, server_kit=None, clock=None, metrics=None, **settings
    ):
        config = server_config.ServerConfig(
            **{
                "num_rounds": 3,
                "port": 0,
                "host": "127.0.0.1",
                "poll_s": 5.0,
                "linger_s": 5.0,
                **settings,
            }
        )
        ready, stop, outcome = threading.Event(), threading.Event(), {}

        def work():
            try:
                outcome["summary"] = serve(
                    config,
                    tmp_path / folder,
                    server_kit or kits / "server",
                    start,
                    vocabulary=toy.VOCABULARY,
                    metrics=metrics,
                    stop=stop,
                    on_ready=lambda port: (outcome.update(port=port), ready.set()),
                    **({"clock": clock} if clock else {}),
                )
            except BaseException as error:
                outcome["error"] = error
            finally:
                ready.set()

        thread = threading.Thread(target=work)
        thread.start()
        running.append((thread, stop))
        assert ready.wait(30)
        if "error" in outcome:
            raise outcome["error"]

        def connect(site, folder=kits, **named):
            return grpc_transport.connect(
                folder / site, **{"host": "localhost", "port": outcome["port"], **named}
            )

        def join():
            thread.join(60)
            assert not thread.is_alive(), "the server has not finished"
            if "error" in outcome:
                raise outcome["error"]
            return outcome["summary"]

        def halt():
            stop.set()
            return join()

        return types.SimpleNamespace(
            port=outcome["port"], connect=connect, join=join, stop=halt, folder=tmp_path / folder
        )

    yield begin
    for thread, stop in running:
        stop.set()
        thread.join(60)


@pytest.fixture
def take_part(tmp_path):
    """Runs site loops in threads; returns their summaries, or raises what one of them raised."""

    def run(transports, trainers, **named):
        results, failures = {}, []

        def work(site):
            try:
                folder = tmp_path / f"journal_{site}"
                results[site] = site_loop.run(
                    trainers[site],
                    transports[site],
                    folder,
                    pauses=lambda: iter(lambda: 0.05, None),
                    **named,
                )
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(site,), daemon=True) for site in transports]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        if failures:
            raise failures[0]
        assert len(results) == len(transports), "a site loop has not finished"
        return results

    return run


@pytest.fixture
def channel(serving, kits):
    """Opens raw channels of a site to a server that is running."""
    with contextlib.ExitStack() as stack:

        def open_(running, site):
            credentials = Identity.of(kits / site, "site").for_client()
            # A connection of its own: gRPC shares one among channels with the same settings.
            options = [
                *conversion.CHANNEL_OPTIONS,
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.max_send_message_length", -1),
            ]
            return stack.enter_context(
                grpc.secure_channel(f"localhost:{running.port}", credentials, options=options)
            )

        yield open_


@pytest.fixture
def operator(kits):
    with contextlib.ExitStack() as stack:

        def open_(running):
            kit = admin_client.Kit.read(kits / "operator", host="localhost", port=running.port)
            return stack.enter_context(admin_client.AdminClient(kit))

        yield open_
