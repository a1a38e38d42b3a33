"""Rounds without sockets: sites and a coordinator in one process, for development and tests.

    from federated import simulation
    from federated.aggregation.fedavgm import FedAvgM
    from federated.audit import backfill

    trainers = {"C1": MyTrainer(...), "C2": MyTrainer(...)}      # see site.trainer.SiteTrainer
    rule = FedAvgM(momentum=0.5)
    simulation.run(trainers, "initial.safetensors", "results", num_rounds=20, rule=rule)

Everything but the network is the same as in a real federation: the folder then contains the
server's store, whose models and log the audit can check, and a journal per site.
"""

from __future__ import annotations

import datetime
import os
import pathlib
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from federated.aggregation import rules
from federated.aggregation.fedavg import FedAvg
from federated.aggregation.rule import AggregationRule
from federated.audit import backfill
from federated.audit.log import AuditLog
from federated.rounds.tasks import Task
from federated.secure_aggregation.roster import Signer
from federated.security import certificates
from federated.security.credentials import CredentialBook, hashed, new_secret
from federated.server.config import ServerConfig, ServerSummary
from federated.server.coordinator import Coordinator
from federated.site import loop
from federated.site.trainer import SiteTrainer
from federated.site.transport import ModelBefore, Transport
from federated.storage.store import Store
from federated.tensors import codec
from federated.tensors.partial_file import PartialModel
from federated.tensors.tensor_files import TensorFile
from federated.tensors.weights import TensorManifest, TensorSpec
from federated.wire import replies
from federated.wire.messages import (
    MASKING,
    Offer,
    Receipt,
    Session,
    SumPlace,
    SumPost,
    SumState,
)
from runkit import atomic, private


def run(
    trainers: Mapping[str, SiteTrainer],
    initial: str | os.PathLike,
    folder: str | os.PathLike,
    *,
    num_rounds: int,
    rule: AggregationRule | None = None,
    models: Mapping[str, str | os.PathLike] | None = None,
    **settings: Any,
) -> ServerSummary:
    """Runs a whole federation with a thread per site; a second call with the folder resumes it.

    Args:
      trainers: site name -> trainer; a round waits for all of them.
      initial: safetensors file of global model 0; its metadata key "plan" holds the plan as JSON.
      folder: folder of the run; `server` is the store, `<site>` a site's journal.
      rule: makes the next global model; FedAvg by default. It need not be in the table of rules.
      models: in a run of 0 rounds, the models that every site evaluates: name -> safetensors file.
      settings: further settings of `ServerConfig`.
    Raises:
      Whatever a trainer, `Store.open_run` or `site.loop.run` raises.
    """
    rule = rule or FedAvg()
    if rules.RULES.setdefault(rule.name, type(rule)) is not type(rule):
        raise ValueError(f"another aggregation rule is called {rule.name!r}; give this one a name")
    config = ServerConfig(
        num_rounds=num_rounds,
        aggregation=str(rule),
        **{"min_num_clients": len(trainers), "max_num_clients": len(trainers), **settings},
    )
    folder = pathlib.Path(folder)
    secrets = {site: new_secret() for site in trainers}
    store = Store(folder / "server")
    try:
        store.open_run(
            initial,
            policy=config.policy,
            local_epochs=config.local_epochs,
            aggregation=config.aggregation,
            models=models,
            sums=None if config.sums is None else vars(config.sums),
        )
        book = CredentialBook({site: hashed(secret) for site, secret in secrets.items()})
        log = AuditLog(
            store.folder / "events.jsonl",
            segment_bytes=round(config.log_segment_mib * 2**20),
            keep_segments=config.keep_log_segments,
        )
        backfill.complete(log, store)
        vocabulary = next(iter(trainers.values())).vocabulary
        signers = signers_in(folder / "certificates", trainers) if config.secure_aggregation else {}
        authority = next((signer.authority for signer in signers.values()), None)
        lead = Coordinator(store, config, book, log, vocabulary=vocabulary, authority=authority)
    except BaseException:
        store.close()
        raise
    failures: list[BaseException] = []
    stopped = threading.Event()

    def take_part(site: str) -> None:
        try:
            transport = InProcessTransport(
                lead,
                site,
                secrets[site],
                wait_s=config.poll_s,
                stopped=stopped,
                signer=signers.get(site),
            )
            loop.run(trainers[site], transport, folder / site)
        except _Stopped:
            pass
        except BaseException as error:  # passed to the main thread of the run, which raises it
            failures.append(error)
            lead.stop()

    threads = [threading.Thread(target=take_part, args=(site,), name=site) for site in trainers]
    try:
        for thread in threads:
            thread.start()
        lead.drive()
        lead.wait_confirmed()
        summary = lead.summary()
    finally:
        stopped.set()
        lead.stop()
        for thread in threads:
            if thread.ident is not None:
                thread.join()
        lead.close()
    if failures:
        raise failures[0]
    return summary


def signers_in(folder: str | os.PathLike, sites: Iterable[str]) -> dict[str, Signer]:
    """Returns certificates with which the sites verify each other's keys, and their authority.

    They are made once and kept in `folder`, so that a resumed run continues with them.
    """
    folder, now = private.folder(folder), datetime.datetime.now(datetime.timezone.utc)

    def kept(name: str, issue: _Issue) -> _Pair:
        path = folder / f"{name}.pem"
        if not path.exists():
            key = certificates.new_key()
            pem = certificates.key_to_pem(key) + certificates.to_pem(issue(key))
            atomic.write_bytes(path, pem)
        pem = path.read_bytes()
        return _Pair(certificates.load_key(pem), certificates.load(pem))

    authority = kept("authority", lambda key: certificates.new_authority(key, 3650, now))
    signers = {}
    for site in sites:

        def issued(key: ec.EllipticCurvePrivateKey, site: str = site) -> x509.Certificate:
            signed_by = (authority.certificate, authority.key)
            return certificates.issue(site, key.public_key(), *signed_by, 3650, now)

        key, certificate = kept(f"site_{site}", issued)
        signers[site] = Signer(site, key, certificate, authority.certificate)
    return signers


_Issue = Callable[[ec.EllipticCurvePrivateKey], x509.Certificate]


class _Pair(NamedTuple):
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


class _Stopped(BaseException):
    """Ends a site's loop, which would otherwise wait for a server that has stopped."""


class InProcessTransport(Transport):
    """A transport to a coordinator in the same process.

    Arrays still pass through the codec, and tokens through the sessions.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        site: str,
        credential: str,
        *,
        wait_s: float = 20.0,
        stopped: threading.Event | None = None,
        signer: Signer | None = None,
    ):
        self.site = site
        self._coordinator, self._credential, self._wait_s = coordinator, credential, wait_s
        self._stopped = stopped or threading.Event()
        self._token, self._signer = "", signer

    def login(
        self, plan: dict, num_examples: int, labels: Mapping[str, str] | None = None
    ) -> Session:
        session = self._coordinator.login(
            self.site, self._credential, plan, num_examples, labels=labels, masking=MASKING
        )
        self._token = session.token
        return session

    def next_task(self) -> Task:
        task = self._coordinator.next_task(self._verified(), wait_s=self._wait_s)
        if self._stopped.is_set() and task.kind != "finished":
            raise _Stopped
        return task

    def heart_beat(self) -> None:
        self._verified()

    def pull(
        self, model: str, path: str | os.PathLike, *, specs: Sequence[TensorSpec] | None = None
    ) -> TensorManifest:
        self._verified()
        file, manifest = self._coordinator.open_model(model)
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

    def declare_models(self, names: Sequence[str]) -> None:
        self._coordinator.declare_models(self._verified(), names)

    def ask_sum(self, phase: str, place: SumPlace) -> SumState:
        return self._coordinator.ask_sum(self._verified(), phase, place)

    def post_sum(self, post: SumPost) -> None:
        self._coordinator.post_sum(self._verified(), post)

    def signer(self) -> Signer:
        if self._signer is None:
            raise ValueError(f"site {self.site} has no certificate; give its transport a signer")
        return self._signer

    def submit_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._coordinator.submit_rows(self._verified(), rows)

    def close(self) -> None:
        self._token = ""

    def _send(self, file: TensorFile, offer: Offer, before: ModelBefore | None = None) -> Receipt:
        site = self._verified()
        answer = self._coordinator.offer(site, offer)
        if answer.receipt is not None:
            return answer.receipt
        same = before is not None and before.sha256 == answer.trained_from
        return self._coordinator.send(
            site,
            offer,
            codec.chunks(
                file,
                answer.missing,
                transport=self._coordinator.transport,
                before=before.tensors if before is not None and same else None,
            ),
        )

    def _verified(self) -> str:
        return self._coordinator.site_of(self._token, "")
