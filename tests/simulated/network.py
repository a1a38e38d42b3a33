"""The network of a story: a site's end of it, with calls that are lost, repeated, slow or cut."""

from __future__ import annotations

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
from tests.simulated.story import SERVER
from tests.simulated.world import POLL_S, SECRETS, World

_TRIES_S = 20.0  # until a call that gets no answer fails


class SiteTransport(Transport):
    """A site's end of the network; see `transport.Transport`."""

    def __init__(self, world: World, server: Server, site: str, program: Blocking):
        self.site, self._world, self._server, self._program = site, world, server, program
        self.token = ""
        self.cut_after: int | None = None
        self.ends_early = False

    def _call(self, work: Callable[[Coordinator], Any], what: str = "", sha256: str = "") -> Any:
        """Sends a call, and returns the server's answer once it has come back.

        Args:
          what, sha256: of what a success confirms.
        """

        def confirming(lead: Coordinator) -> Any:
            result = work(lead)
            receipt = getattr(result, "receipt", result)
            if what and (not what.startswith(("round", "model")) or isinstance(receipt, Receipt)):
                world, store = self._world, lead._run.store
                too_late = what.startswith("scores") and (store.finished or store.fixed_models())
                if not too_late:
                    evictions = world.evictions.get(self.site, 0)
                    world.receipts[self.site, what] = (sha256, store.discarded, evictions)
            return result

        return self._program.block(lambda answer: self._send_call(confirming, answer))

    def _send_call(self, work: Callable[[Coordinator], Any], answer: Callable[..., None]) -> None:
        world, machine = self._world, self._world.machines[self.site]
        machine.calls += 1
        fates = {t.kind: t for t in machine.by_call.pop(machine.calls, ())}
        delay = 0.05 + world.draw.random()
        if "slow" in fates:
            delay += fates["slow"].size
            world.trouble_for(delay)
        back = world.draw.random()
        cut_after = next((fates[k].size for k in ("cut", "short") if k in fates), None)
        self.ends_early = "short" in fates

        def reply(value: Any = None, error: BaseException | None = None) -> None:
            world.when_awake(self.site, back, lambda: answer(value, error=error))

        def unreachable() -> None:
            error = errors.ServerUnreachable("no answer")
            world.when_awake(self.site, _TRIES_S, lambda: answer(error=error))

        def arrive(deadline: float | None = None, times: int = 2 if "repeated" in fates else 1):
            server = world.machines[SERVER]
            if machine.cut_off_until > world.schedule.now or "lost" in fates:
                return unreachable()
            if server.asleep_until > world.schedule.now:
                return world.schedule.at(server.asleep_until, arrive)
            leading = self._server.leading
            if leading is not None:
                run = leading.lead._run
                if run.closing and run.policy.late_updates == "keep":
                    return world.schedule.after(1.0, arrive)  # as the server makes it wait
            value = error = None
            for _ in range(times):
                self.cut_after = cut_after
                value, error = self._server.do(work)
            if isinstance(value, Task) and value.kind == "wait" and not leading.dead:
                deadline = deadline or world.schedule.now + POLL_S
                if world.schedule.now < deadline:
                    asked = [False]

                    def again() -> None:
                        if not asked[0]:
                            asked[0] = True
                            arrive(deadline, 1)

                    leading.waiting.append(again)
                    return world.schedule.at(deadline, again)
            if "reply_lost" in fates:
                return unreachable()
            reply(value, error)
            return None

        world.when_awake(self.site, delay, arrive)

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
        world = self._world

        def send() -> None:
            if not over and not self._program.dead:
                if world.machines[self.site].cut_off_until <= world.schedule.now:
                    self._server.do(lambda lead: lead.site_of(self.token))
                world.when_awake(self.site, every_s, send)

        world.when_awake(self.site, every_s, send)

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
                    lambda: lead.check_token(self.token),
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
