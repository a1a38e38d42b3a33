"""The network of a story: a site's end of it, with calls that are lost, repeated, slow or cut."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from federated import errors
from federated.rounds.tasks import Task
from federated.server.coordinator import Coordinator
from federated.site.transport import Transport
from federated.tensors import codec
from federated.tensors.partial_file import PartialModel
from federated.tensors.tensor_files import TensorFile
from federated.wire import replies
from federated.wire.messages import Offer, Receipt, Session
from tests.simulated.scheduler import Blocking
from tests.simulated.server import Cut, Server
from tests.simulated.story import SERVER, Trouble
from tests.simulated.world import POLL_S, SECRETS, World

_TRIES_S = 20.0  # until a call that gets no answer fails
_NOTHING: Mapping[str, Trouble] = {}  # happens to most calls

Work = Callable[[Coordinator], Any]


class _Call:
    """A call on its way to the server and back.

    Args:
      answer: called with the server's answer, or with `error=`.
    """

    __slots__ = ("_answer", "_back", "_cut_after", "_deadline", "_fates", "_transport", "_work")

    def __init__(self, transport: SiteTransport, work: Work, answer: Callable[..., None]):
        self._transport, self._work, self._answer = transport, work, answer
        world, machine = transport._world, transport._machine
        machine.calls += 1
        troubles = machine.by_call.pop(machine.calls, None)
        fates = self._fates = {t.kind: t for t in troubles} if troubles else _NOTHING
        delay = 0.05 + world.draw.random()
        if "slow" in fates:
            delay += fates["slow"].size
            world.trouble_for(delay)
        self._back = world.draw.random()
        cut = fates.get("cut") or fates.get("short")
        self._cut_after = cut.size if cut else None
        transport.ends_early = "short" in fates
        self._deadline = 0.0  # until when the server may keep it waiting
        world.when_awake(machine.name, delay, self._arrive)

    def _arrive(self) -> None:
        world, machine = self._transport._world, self._transport._machine
        server = world.machines[SERVER]
        if machine.cut_off_until > world.schedule.now or "lost" in self._fates:
            return self._unreachable()
        if server.asleep_until > world.schedule.now:
            self._deadline = 0.0
            return world.schedule.at(server.asleep_until, self._arrive)
        leading = self._transport._server.leading
        if leading is not None:
            run = leading.lead._run
            if run.closing and run.policy.late_updates == "keep":
                self._deadline = 0.0
                return world.schedule.after(1.0, self._arrive)  # as the server makes it wait
        value = error = None
        for _ in range(2 if "repeated" in self._fates and not self._deadline else 1):
            self._transport.cut_after = self._cut_after
            value, error = self._transport._server.do(self._work)
        if isinstance(value, Task) and value.kind == "wait" and not leading.dead:
            self._deadline = self._deadline or world.schedule.now + POLL_S
            if world.schedule.now < self._deadline:
                again = _Once(self._arrive)
                leading.waiting.append(again)
                return world.schedule.at(self._deadline, again)
        if "reply_lost" in self._fates:
            return self._unreachable()
        answer = functools.partial(self._answer, value, error=error)
        world.when_awake(machine.name, self._back, answer)
        return None

    def _unreachable(self) -> None:
        error = errors.ServerUnreachable("no answer")
        answer = functools.partial(self._answer, error=error)
        self._transport._world.when_awake(self._transport.site, _TRIES_S, answer)


class _Once:
    """Does something the first time it is called."""

    __slots__ = ("_event",)

    def __init__(self, event: Callable[[], None]):
        self._event: Callable[[], None] | None = event

    def __call__(self) -> None:
        event, self._event = self._event, None
        if event is not None:
            event()


class SiteTransport(Transport):
    """A site's end of the network; see `transport.Transport`."""

    def __init__(self, world: World, server: Server, site: str, program: Blocking):
        self.site, self._world, self._server, self._program = site, world, server, program
        self._machine = world.machines[site]
        self.token = ""
        self.cut_after: int | None = None
        self.ends_early = False

    def _call(self, work: Work, what: str = "", sha256: str = "") -> Any:
        """Sends a call, and returns the server's answer once it has come back.

        Args:
          what, sha256: of what a success confirms.
        """
        if what:
            work = functools.partial(self._confirming, work, what, sha256)
        return self._program.block(functools.partial(_Call, self, work))

    def _confirming(self, work: Work, what: str, sha256: str, lead: Coordinator) -> Any:
        """Notes what the server confirms, whether or not the site hears of it."""
        result = work(lead)
        receipt = getattr(result, "receipt", result)
        if not what.startswith(("round", "model")) or isinstance(receipt, Receipt):
            world, store = self._world, lead._run.store
            too_late = what.startswith("scores") and (store.finished or store.fixed_models())
            if not too_late:
                evictions = world.evictions.get(self.site, 0)
                world.receipts[self.site, what] = (sha256, store.discarded, evictions)
        return result

    def _cut(self, chunks: Any) -> Iterator[Any]:
        for count, chunk in enumerate(chunks):
            if self.cut_after is not None and count >= self.cut_after:
                if self.ends_early:
                    return
                raise Cut
            yield chunk

    def login(
        self, plan: dict, num_examples: int, labels: Mapping[str, str] | None = None
    ) -> Session:
        session = self._call(
            lambda lead: lead.login(
                self.site, SECRETS[self.site], plan, num_examples, labels=labels
            )
        )
        self.token = session.token
        return session

    def next_task(self) -> Task:
        return self._call(lambda lead: lead.next_task(lead.site_of(self.token)))

    def heart_beat(self) -> None:
        raise NotImplementedError  # `beat` sends them

    def beat(self, every_s: float, over: Sequence[bool]) -> None:
        """Sends heartbeats until `over` holds something, or the program has ended."""
        send = functools.partial(self._send_beat, every_s, over)
        self._world.when_awake(self.site, every_s, send)

    def _send_beat(self, every_s: float, over: Sequence[bool]) -> None:
        if not over and not self._program.dead:
            if self._machine.cut_off_until <= self._world.schedule.now:
                self._server.do(lambda lead: lead.site_of(self.token))
            self.beat(every_s, over)

    def pull(self, model: str, path: Any, *, specs: Any = None) -> Any:
        def describe(lead: Coordinator) -> Any:
            lead.site_of(self.token)
            file, manifest = lead.open_model(model)
            file.close()
            return manifest

        manifest = self._call(describe)
        if specs is not None:
            replies.check_specs(manifest, model=model, specs=specs)
        with PartialModel(path, manifest, {"sha256": manifest.sha256}) as partial:
            missing = partial.missing()
            if missing:
                got: list[Any] = []

                def send(lead: Coordinator) -> None:
                    site = lead.site_of(self.token)
                    file, _ = lead.open_model(model, manifest.sha256)
                    got.clear()
                    with file:
                        chunks = codec.chunks(file, missing, transport=lead.transport)
                        got.extend(self._cut(chunks))
                    lead.note_pulled(site, model, nbytes=len(got), seconds=0.0)

                try:
                    self._call(send)
                finally:
                    for chunk in got:
                        partial.put(chunk)
            if partial.missing():
                raise errors.DamagedTransfer(f"model {model!r} ended early; pull the rest")
        return manifest

    def report_scores(self, model: int, scores: Mapping[str, float], *, sha256: str = "") -> None:
        self._call(
            lambda lead: lead.report_scores(lead.site_of(self.token), model, scores, sha256),
            f"scores {model}",
            sha256,
        )

    def _send(self, file: TensorFile, offer: Offer) -> Receipt:
        sha256 = offer.sha256
        about = f"model {offer.model}" if offer.model else f"round {offer.round}", sha256
        answer = self._call(lambda lead: lead.offer(lead.site_of(self.token), offer), *about)
        receipt = answer.receipt
        if receipt is None:
            chunks = list(codec.chunks(file, answer.missing, transport="raw"))
            receipt = self._call(
                lambda lead: lead.send(
                    lead.site_of(self.token),
                    offer,
                    self._cut(chunks),
                    lambda: lead.record_of(self.token),
                ),
                *about,
            )
        if (receipt.site, receipt.sha256) != (self.site, sha256):
            self._world.fail(f"site {self.site} gets the receipt of another: {receipt}")
        return receipt

    def declare_models(self, names: Sequence[str]) -> None:
        self._call(lambda lead: lead.declare_models(lead.site_of(self.token), names))

    def submit_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._call(lambda lead: lead.submit_rows(lead.site_of(self.token), rows), "rows")

    def close(self) -> None:
        self.token = ""
