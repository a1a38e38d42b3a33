"""A server or a site whose system calls fail, in a federation of programs over TLS."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Collection, Sequence

from cryptography import x509

from federated.audit import verification
from federated.connections import listener_check
from federated.server.config import ServerConfig
from federated.server.serve import serve
from federated.site import grpc_transport, loop
from federated.storage.store import Store
from tests.failing_calls import judgement
from tests.failing_calls.interception import Call, Ended, Fault, Process
from tests.federated import toy
from tests.federated.programs import results
from tests.power_loss import federation, recording

_ROUNDS, _LIMIT_S = 2, 40.0


class _Transport(federation.Marking, grpc_transport.GrpcTransport):
    """Marks what the server has confirmed."""


class Federation:
    """One subject, whose calls fail, and the others, whose calls do not.

    Args:
      subject: "server" or "site" (C1).
      folder: for the kits and the folders of each trial.
    """

    def __init__(self, subject: str, folder: pathlib.Path):
        self.name, self._folder = subject, folder
        self._kits = folder / "kits"
        federation.prepare(self._kits)
        self._expected: dict[str, bytes] = {}

    def calls(self, kinds: Collection[str]) -> Sequence[Call]:
        """Runs undisturbed; returns the subject's calls."""
        ended, problems = self._trial(None, kinds)
        if problems:
            raise AssertionError("; ".join(problems))
        return ended[0].calls

    def trial(self, fault: Fault) -> tuple[Sequence[Call], list[str]]:
        """Returns the calls that failed, and the problems found."""
        ended, problems = self._trial(fault, [fault.kind])
        return ended[0].failed, problems

    def _trial(self, fault: Fault | None, kinds: Collection[str]) -> tuple[list[Ended], list[str]]:
        root = self._folder / "run"
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        with contextlib.ExitStack() as at_the_end:
            run = _Run(root, self._kits, self.name, fault, kinds)
            at_the_end.callback(run.close)
            run.to_its_end()
        problems = list(run.problems)
        if not problems:
            problems += self._differences(root, whole=fault is None)
        return run.ended, problems

    def _differences(self, root: pathlib.Path, *, whole: bool) -> list[str]:
        store = root / "server"
        found = results(store, _ROUNDS)
        if whole:
            self._expected = found
        problems = [
            f"other bits in {name}"
            for name, content in self._expected.items()
            if found[name] != content
        ]
        with contextlib.closing(Store(store)) as opened:
            problems += _lost(opened, root)
        authority = x509.load_pem_x509_certificate((self._kits / "server/ca.pem").read_bytes())
        try:
            verification.verify(store, authority)
        except Exception as error:
            problems.append(f"the audit fails: {error}")
        if self.name == "server":
            problems += _trained_again(root)
        return problems


class _Run:
    """Starts server and sites, and restarts the subject after a fault has ended it."""

    def __init__(
        self,
        root: pathlib.Path,
        kits: pathlib.Path,
        subject: str,
        fault: Fault | None,
        kinds: Collection[str],
    ):
        self._root, self._kits = root, kits
        self._name = "server" if subject == "server" else "C1"
        self._fault, self._kinds = fault, kinds
        self.ended: list[Ended] = []
        self.problems: list[str] = []
        self._programs: dict[str, Process] = {}
        self._works: dict[str, Callable[[], int]] = {
            "server": self._server,
            **{site: lambda s=site: self._site(s) for site in federation.SITES},
        }

    def to_its_end(self) -> None:
        deadline = time.monotonic() + _LIMIT_S
        self._start("server")
        address = self._root / "server" / "address.json"
        while not address.exists() and not self.problems:
            self._watch("server", deadline)
        for site in federation.SITES:
            self._start(site)
        running = list(self._programs)
        while running and not self.problems:
            running = [name for name in running if not self._watch(name, deadline)]

    def close(self) -> None:
        """Ends all running programs; afterwards the subject always has an entry in `ended`."""
        if not self.ended:
            self.ended.append(self._programs[self._name].ended(0))
        for process in self._programs.values():
            process.kill()

    def _start(self, name: str) -> None:
        first = name == self._name and not self.ended
        place = self._root / name
        self._programs[name] = Process(
            self._works[name],
            self._root / f"{name}.log",
            kinds=self._kinds if first else (),
            roots=[place],
            fault=self._fault if first else None,
        )

    def _watch(self, name: str, deadline: float) -> bool:
        """Returns whether a program has finished; restarts it if it ended with an error."""
        process = self._programs[name]
        if not process.serve(0.005):
            if time.monotonic() > deadline:
                self._note(name, process.ended(0))
            return False
        ended = process.ended(0)
        self._note(name, ended)
        if ended.code == 0 or self.problems:
            return True
        if name == "server" and (self._root / "server" / "state.sqlite").exists():
            with contextlib.closing(Store(self._root / "server")) as store:
                self.problems += _lost(store, self._root)
        self._start(name)
        return False

    def _note(self, name: str, ended: Ended) -> None:
        names = [self._root, self._kits, "port "]
        if name == self._name:
            self.ended.append(ended)
            if len(self.ended) > 1 and ended.code:
                self.problems.append(f"the same command does not go on: {ended.output[-300:]}")
        elif ended.code or ended.hung:
            self.problems.append(f"{name} ends too: {ended.output[-300:]}")
        self.problems += [f"{name} {text}" for text in judgement.wrong(ended, names)]

    def _server(self) -> int:
        listener_check.EVERY_S, listener_check.PATIENCE_S = 1.0, 2.0
        config = ServerConfig(
            num_rounds=_ROUNDS, port=0, host="127.0.0.1", poll_s=5.0, linger_s=30.0
        )

        def main(argv: list[str]) -> int:
            summary = serve(
                config,
                self._root / "server",
                self._kits / "server",
                self._kits / "initial.safetensors",
                vocabulary=toy.VOCABULARY,
            )
            return 0 if summary.finished else 3

        return judgement.door(main)

    def _site(self, site: str) -> int:
        os.environ[recording.MARKS] = str(self._root / "marks")
        (self._root / "marks").touch()
        port = json.loads((self._root / "server" / "address.json").read_text())["port"]
        grpc_transport.GrpcTransport = _Transport  # type: ignore[misc]

        def main(argv: list[str]) -> int:
            transport = grpc_transport.connect(self._kits / site, host="localhost", port=port)
            summary = loop.run(
                toy.ToyTrainer(site),
                transport,
                self._root / site / "journal",
                authority=transport.authority,
                pauses=lambda: iter(lambda: 0.05, None),
            )
            return 0 if summary.finished else 3

        return judgement.door(main)


def _lost(store: Store, root: pathlib.Path) -> list[str]:
    marks = root / "marks"
    told = marks.read_text().splitlines() if marks.exists() else []
    try:
        federation.check_confirmed(store, told)
    except AssertionError as error:
        return [str(error)]
    return []


def _trained_again(root: pathlib.Path) -> list[str]:
    """Returns the rounds that a site had to train twice, though nothing of its own failed."""
    problems = []
    for site in federation.SITES:
        log = root / site / "journal" / "events.jsonl"
        events = [json.loads(line) for line in log.read_text().splitlines()]
        rounds = [event["round"] for event in events if event["event"] == "trained"]
        if rounds != sorted(set(rounds)):
            problems.append(f"{site} trained rounds {rounds}")
    return problems
