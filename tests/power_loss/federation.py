"""A federation of two sites in one process, and the conditions after a power cut.

The cut is at its server, at one of its sites, or at all of them.

    python -m tests.power_loss.federation ROOT KITS

runs one from the beginning, in ROOT/server, ROOT/C1 and ROOT/C2, and leaves marks of what the
server has confirmed to whom.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence

from cryptography import x509

from federated import simulation
from federated.audit import backfill, verification
from federated.audit import log as audit_log
from federated.security import provisioning
from federated.security.credentials import CredentialBook, hashed
from federated.security.tls import Identity
from federated.server.config import ServerConfig
from federated.server.coordinator import Coordinator
from federated.site import loop
from federated.storage.store import Store
from federated.tensors import tensor_files
from tests.federated import toy
from tests.federated.programs import results
from tests.power_loss import recording, sync_lines

SITES = ("C1", "C2")
ROUNDS = 3
STORE = "server/store"
_SECRETS = {site: f"secret of {site}" for site in SITES}
# the parties whose disks lose power together
CUT = {"server": ("server",), "site": ("C1",), "all": ("server", *SITES)}


def prepare(kits: pathlib.Path) -> None:
    """Makes the inputs of a federation: the server's kit and the initial model."""
    provisioning.provision(kits, "localhost", SITES, port=0)
    toy.write_initial(kits / "initial.safetensors")


def command(root: pathlib.Path, kits: pathlib.Path) -> list[str]:
    return [sys.executable, "-m", "tests.power_loss.federation", str(root), str(kits)]


class Marking:
    """A mix-in for transports: marks what the server has confirmed as soon as the site knows it."""

    def login(self, *args, **named):
        session = super().login(*args, **named)
        recording.mark(f"run {session.run}")
        return session

    def push(self, path, sha256, *, round_number, **named):
        receipt = super().push(path, sha256, round_number=round_number, **named)
        recording.mark(f"update {self.site} {round_number} {sha256}")
        return receipt

    def publish(self, path, sha256, *, model):
        receipt = super().publish(path, sha256, model=model)
        recording.mark(f"model {self.site} {model} {sha256}")
        return receipt

    def report_scores(self, model, scores, **named):
        super().report_scores(model, scores, **named)
        recording.mark(f"scores {self.site} {model} {json.dumps(scores)}")

    def declare_models(self, names):
        super().declare_models(names)
        recording.mark(f"declared {self.site}")

    def submit_rows(self, rows):
        super().submit_rows(rows)
        recording.mark(f"rows {self.site}")


class _Marking(Marking, simulation.InProcessTransport):
    """A transport without a socket that marks what was confirmed."""


class _MarkingLog(audit_log.AuditLog):
    """Marks the hash of each signed line, which an operator may record."""

    def append(self, event, **fields):
        super().append(event, **fields)
        if event in audit_log.SIGNED:
            recording.mark(f"head {self.head[1]}")


@contextlib.contextmanager
def _leading(folder: pathlib.Path, kits: pathlib.Path) -> Iterator[Coordinator]:
    """Opens the same things as `serve`, without its sockets."""
    config = ServerConfig(num_rounds=ROUNDS, poll_s=5.0, linger_s=5.0)
    identity = Identity.of(kits / "server", "server")
    store = Store(folder)
    coordinator = None
    try:
        store.open_run(
            kits / "initial.safetensors",
            policy=config.policy,
            local_epochs=config.local_epochs,
            authority=identity.authority_fingerprint,
        )
        # Small segments, so that the log goes on in new ones during the few rounds.
        events = _MarkingLog(folder / "events.jsonl", key=identity.key, segment_bytes=4000)
        events.append(
            "started",
            release="0",
            certificate=identity.certificate.read_text(encoding="ascii"),
            settings=config.to_json(),
        )
        backfill.complete(events, store)
        book = CredentialBook({site: hashed(secret) for site, secret in _SECRETS.items()})
        coordinator = Coordinator(store, config, book, events, vocabulary=toy.VOCABULARY)
        yield coordinator
    finally:
        if coordinator is None:
            store.close()
        else:
            coordinator.close()


def run(
    root: pathlib.Path,
    kits: pathlib.Path,
    transport: Callable[..., simulation.InProcessTransport] = _Marking,
) -> None:
    """Starts or resumes a federation, and returns at its end. Raises what a party raised."""
    failures: list[BaseException] = []

    def guarded(work: Callable[[], object], coordinator: Coordinator) -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)
            coordinator.stop()

    with _leading(root / STORE, kits) as coordinator:

        def site(name: str) -> None:
            loop.run(
                toy.ToyTrainer(name),
                transport(coordinator, name, _SECRETS[name], wait_s=5.0),
                root / name / "journal",
                pauses=lambda: iter((0.01,) * 20),
            )

        threads = [
            threading.Thread(target=guarded, args=(lambda s=name: site(s), coordinator))
            for name in SITES
        ]
        threads.append(threading.Thread(target=guarded, args=(coordinator.drive, coordinator)))
        for thread in threads:
            thread.daemon = True
            thread.start()
        for thread in threads:
            thread.join(60)
        if failures:
            raise failures[0]
        if any(thread.is_alive() for thread in threads):
            raise AssertionError("the federation does not come to its end")


def check(
    root: pathlib.Path, marks: Sequence[str], *, kits: pathlib.Path, expected: Mapping[str, bytes]
) -> None:
    """Checks that everything confirmed is there and that the federation ends with the same bits.

    Raises AssertionError otherwise, or an error of the program.

    Args:
      root: the folders after the cut.
      marks: what was confirmed before it.
      kits: see `prepare`.
      expected: the results of a run without a cut.
    """
    with contextlib.closing(Store(root / STORE)) as store:
        check_confirmed(store, marks)
    run(root, kits, simulation.InProcessTransport)
    found = results(root / STORE, ROUNDS)
    differing = [name for name, content in expected.items() if found[name] != content]
    assert not differing, f"other bits in {', '.join(differing)}"
    authority = x509.load_pem_x509_certificate((kits / "server" / "ca.pem").read_bytes())
    heads = [text.split()[1] for text in marks if text.startswith("head ")]
    verified = verification.verify(root / STORE, authority, head=heads[-1] if heads else "")
    assert verified.rounds == tuple(range(1, ROUNDS + 1)), verified


def check_confirmed(store: Store, marks: Sequence[str]) -> None:
    """Raises AssertionError unless a store has everything that sites know to be confirmed."""
    for text in marks:
        kind, *words = text.split(" ", 3)
        if kind == "run":
            assert store._value("id") == words[0], "the run that sites know is another one"
        elif kind == "update":
            site, number, sha256 = words[0], int(words[1]), words[2]
            update = store.update(site, number)
            assert update and update.sha256 == sha256, f"update of {site}, round {number}, is lost"
            if number > max(store.globals()):
                assert _digest(store.update_path(update)) == sha256, "the update's file is lost"
        elif kind == "model":
            site, name, sha256 = words
            assert store.models().get(name) == (site, sha256), f"model {name} is lost"
            assert _digest(store.model_path(name)) == sha256, f"the file of model {name} is lost"
        elif kind == "scores":
            site, number, scores = words[0], int(words[1]), json.loads(words[2])
            found = store.scores().get(number, {}).get(site)
            assert found == scores, f"scores of {site} for model {number} are lost"
        elif kind == "declared":
            assert words[0] in store.declared(), f"the declaration of {words[0]} is lost"
        elif kind == "rows":
            assert words[0] in store.reported(), f"the rows of {words[0]} are lost"
        elif kind != "head":
            raise ValueError(text)


def _digest(path: pathlib.Path) -> str | None:
    try:
        with tensor_files.TensorFile(path) as file:
            return tensor_files.file_manifest(file).sha256
    except (OSError, ValueError):
        return None


if __name__ == "__main__":
    sync_lines.announce()
    run(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
    os._exit(0)
