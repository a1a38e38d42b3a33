"""Rounds without sockets: sites and a coordinator in one process, for people who develop methods
and for tests.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from federated.rounds.tasks import Task
from federated.server.coordinator import Coordinator
from federated.site.transport import offering, unknown
from federated.tensors import codec
from federated.tensors.partial_file import PartialModel
from federated.tensors.weights import Manifest, TensorSpec
from federated.wire import replies
from federated.wire.messages import Receipt, Session


class InProcessTransport:
    """A transport to a coordinator in the same process; arrays still pass through the codec, tokens
    through the sessions.
    """

    def __init__(
        self, coordinator: Coordinator, site: str, credential: str, *, wait_s: float = 20.0
    ):
        self.site = site
        self._coordinator, self._credential, self._wait_s = coordinator, credential, wait_s
        self._token = ""

    def login(
        self, plan: dict, num_examples: int, labels: Mapping[str, str] | None = None
    ) -> Session:
        session = self._coordinator.login(
            self.site, self._credential, plan, num_examples, labels=labels
        )
        self._token = session.token
        return session

    def next_task(self) -> Task:
        return self._coordinator.next_task(self._verified(), wait_s=self._wait_s)

    def heart_beat(self) -> None:
        self._verified()

    def pull(
        self, model: str, path: str | os.PathLike, *, specs: Sequence[TensorSpec] | None = None
    ) -> Manifest:
        file, manifest = self._coordinator.open_model(self._verified(), model)
        if specs is not None:
            replies.check_specs(manifest, model=model, specs=specs)
        with file, PartialModel(path, manifest, {"sha256": manifest.sha256}) as partial:
            for chunk in codec.chunks(
                file, partial.missing(), transport=self._coordinator.transport
            ):
                partial.put(chunk)
        return manifest

    def report_scores(self, model: int, scores: Mapping[str, float], *, sha256: str = "") -> None:
        self._coordinator.report_scores(self._verified(), model, scores, sha256)

    def push(
        self,
        path: str | os.PathLike,
        sha256: str,
        *,
        round_number: int,
        num_examples: int,
        metrics: Mapping[str, float],
        discarded: int | None = None,
        manifest: Callable[[], Manifest | None] = unknown,
    ) -> Receipt:
        return self._send(
            path,
            sha256,
            manifest=manifest,
            round=round_number,
            num_examples=num_examples,
            metrics=metrics,
            discarded=discarded,
        )

    def publish(self, path: str | os.PathLike, sha256: str, *, model: str) -> Receipt:
        return self._send(path, sha256, model=model)

    def declare_models(self, names: Sequence[str]) -> None:
        self._coordinator.declare_models(self._verified(), names)

    def submit_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._coordinator.submit_rows(self._verified(), rows)

    def close(self) -> None:
        self._token = ""

    def _send(self, path: str | os.PathLike, sha256: str, **about: Any) -> Receipt:
        site = self._verified()
        with offering(path, sha256, **about) as (file, offer):
            answer = self._coordinator.offer(site, offer)
            if answer.receipt is not None:
                return answer.receipt
            return self._coordinator.send(
                site,
                offer,
                codec.chunks(file, answer.missing, transport=self._coordinator.transport),
            )

    def _verified(self) -> str:
        return self._coordinator.site_of(self._token, "")
