"""What a site loop needs of the way to the server, and the way that needs no network."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from federated import codec
from federated.agenda import Task
from federated.exchange import Offer, Pulled, Receipt, Session
from federated.tensor_files import TensorFile

if TYPE_CHECKING:  # a site needs no server code
    from federated.coordinator import Coordinator


class Transport(Protocol):
    """Calls to the server. Each may be repeated: a lost reply does no harm.

    Every method raises ServerUnreachable when the server is away, SessionExpired when a login is due, and otherwise what
    the coordinator's method of the same name raises.
    """

    site: str

    def login(self, plan: dict, num_examples: int) -> Session: ...

    def next_task(self) -> Task:
        """Returns the next task; waits for one on the server's side, as long as the session's `poll_s`."""

    def heart_beat(self) -> None: ...

    def pull(self, model: str) -> Pulled: ...

    def report_scores(self, model: int, scores: Mapping[str, float]) -> None: ...

    def push(
        self, path: str | os.PathLike, sha256: str, *, round_number: int, num_examples: int, metrics: Mapping[str, float]
    ) -> Receipt: ...

    def publish(self, path: str | os.PathLike, sha256: str, *, model: str) -> Receipt: ...

    def declare_models(self, names: Sequence[str]) -> None: ...

    def submit_rows(self, rows: Sequence[Mapping[str, Any]]) -> None: ...

    def close(self) -> None: ...


class InProcessTransport:
    """A transport to a coordinator in the same process; arrays still pass through the codec, tokens through the sessions."""

    def __init__(self, coordinator: Coordinator, site: str, credential: str, *, wait_s: float = 20.0):
        self.site = site
        self._coordinator, self._credential, self._wait_s = coordinator, credential, wait_s
        self._token = ""

    def login(self, plan: dict, num_examples: int) -> Session:
        session = self._coordinator.login(self.site, self._credential, plan, num_examples)
        self._token = session.token
        return session

    def next_task(self) -> Task:
        return self._coordinator.next_task(self._verified(), wait_s=self._wait_s)

    def heart_beat(self) -> None:
        self._verified()

    def pull(self, model: str) -> Pulled:
        file, sha256 = self._coordinator.open_model(self._verified(), model)
        with file:
            return Pulled(codec.receive_to_memory(file.specs, sha256, codec.chunks(file)), sha256, file.nbytes)

    def report_scores(self, model: int, scores: Mapping[str, float]) -> None:
        self._coordinator.report_scores(self._verified(), model, scores)

    def push(self, path: str | os.PathLike, sha256: str, *, round_number: int, num_examples: int, metrics: Mapping[str, float]) -> Receipt:
        with TensorFile(path) as file:
            offer = Offer(file.specs, sha256, round=round_number, num_examples=num_examples, metrics=metrics)
            return self._coordinator.push(self._verified(), offer, codec.chunks(file))

    def publish(self, path: str | os.PathLike, sha256: str, *, model: str) -> Receipt:
        with TensorFile(path) as file:
            return self._coordinator.publish(self._verified(), Offer(file.specs, sha256, model=model), codec.chunks(file))

    def declare_models(self, names: Sequence[str]) -> None:
        self._coordinator.declare_models(self._verified(), names)

    def submit_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._coordinator.submit_rows(self._verified(), rows)

    def close(self) -> None:
        self._token = ""

    def _verified(self) -> str:
        return self._coordinator.site_of(self._token, "")
