"""The transport over gRPC with mutual TLS.

Every call has a deadline, and raises the error that the server raised. `replies` checks every reply
of the server before it is used.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import ssl
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import grpc
from absl import logging
from google.protobuf.message import Message

from federated import errors
from federated.rounds.tasks import Task, global_name
from federated.secure_aggregation.roster import Signer
from federated.security import certificates, revocation, tls
from federated.security.kit import Kit
from federated.site.transport import ModelBefore, Transport
from federated.tensors import codec
from federated.tensors.partial_file import PartialModel
from federated.tensors.tensor_files import TensorFile, TensorSelection
from federated.tensors.weights import TensorManifest, TensorSpec
from federated.wire import addresses, chunk_encoding, conversion, limits, replies
from federated.wire import weight_exchange_pb2 as pb
from federated.wire.messages import (
    MASKING,
    PROTOCOL,
    Answer,
    Offer,
    Receipt,
    Session,
    SumPlace,
    SumPost,
    SumState,
)
from federated.wire.proxy import ServerEndpoint, channel_options
from runkit import atomic, printable, private, release

_SERVICE = "/weight_exchange.WeightExchange/"
_SHORT_S = 60.0  # calls without weights
# On a slow link a transfer may take hours, after waiting for a free slot, but it never pauses for
# this long. A dead link is detected sooner.
_SILENCE_S = 600.0
_OPTIONS = (
    *conversion.CHANNEL_OPTIONS,
    # gRPC's own pause between connection attempts would increase to two minutes; the site loop has
    # its own backoff.
    ("grpc.initial_reconnect_backoff_ms", 200),
    # How long one attempt may take: handshakes over a long or busy line are slow.
    ("grpc.min_reconnect_backoff_ms", 20_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)

Item = TypeVar("Item")


def connect(
    kit_folder: str | os.PathLike,
    *,
    host: str | None = None,
    port: int | None = None,
    learned: str | os.PathLike | None = None,
) -> GrpcTransport:
    """Returns a transport for the site whose kit is in `kit_folder`. It does not connect yet.

    The kit's files become readable by this account only.

    Args:
      kit_folder: a kit as `provision` made it.
      host, port: used instead of those in the kit's `site.json`.
      learned: folder that keeps the server's statements about its revoked certificates; by default
        the kit's.
    Raises:
      ValueError: if the kit has a missing or malformed file, lacks a port, or has a link in place
        of a file.
    """
    folder = pathlib.Path(kit_folder)
    private.refuse_links(folder)
    if folder.is_dir():
        private.tree(folder)
    kit = Kit.read(folder, kinds=("site",), host=host, port=port, learned=learned)
    return GrpcTransport(kit, learned=pathlib.Path(learned or folder))


class GrpcTransport(Transport):
    """Calls over the network. Thread-safe, because heartbeats are sent from their own thread."""

    def __init__(self, kit: Kit, *, learned: pathlib.Path | None = None):
        self.site, self._credential = kit.name, kit.credential
        self._identity, self._host, self._port = kit.identity, kit.host, kit.port
        self.authority = kit.identity.authority_fingerprint
        self._learned = learned
        self._token, self._poll_s, self._encoding = "", 0.0, "raw"
        self._sent_whole = ""  # digest of an update that could not be sent as differences
        # Whether chunks came in an encoding other than agreed at login. The server may have been
        # restarted with another one, so one more login is tried.
        self._other_encoding = False
        self._open_channel()

    def _open_channel(self) -> None:
        options = (*_OPTIONS, *self._identity.channel_options, *channel_options(self._host))
        version, credentials = self._identity.version(), self._identity.for_client()
        self._opened = version
        self._channel = grpc.secure_channel(
            addresses.joined(self._host, self._port), credentials, options=options
        )
        # Replies remain bytes here: `replies` checks their size before it decodes them.
        self._sending = self._channel.stream_unary(
            _SERVICE + "Send",
            request_serializer=chunk_encoding.part_to_bytes,
            response_deserializer=bytes,
        )
        self._pulling = self._channel.unary_stream(
            _SERVICE + "Pull",
            request_serializer=pb.PullRequest.SerializeToString,
            response_deserializer=bytes,
        )

    def _renewed(self) -> bool:
        """Reconnects if the kit's certificate was renewed meanwhile; returns whether it was.

        A token is bound to the certificate to which it was issued, so the site has to log in again
        at the next call.
        """
        version = self._identity.version()
        if not version or version == self._opened:
            return False
        before = self._channel
        try:
            # Certificate and key are two files, which do not match while being replaced.
            self._identity.context(ssl.PROTOCOL_TLS_CLIENT)
            self._open_channel()
        except (OSError, ValueError):
            return False
        logging.info("event=certificate_read site=%s", self.site)
        self._token = ""
        before.close()
        return True

    def _learn(self, statement: bytes) -> None:
        """Stores which server certificates are revoked, and reconnects, refusing those."""
        try:
            generation = revocation.read(statement, self._identity.authority)
        except ValueError as error:
            logging.warning("event=revocation_passed_over site=%s reason=%s", self.site, error)
            return
        if generation <= self._identity.generation:
            return
        logging.warning(
            "event=server_certificates_revoked site=%s generation=%d", self.site, generation
        )
        if self._learned is not None:
            try:
                revocation.keep(self._learned, statement, self._identity.authority)
            except OSError as error:
                logging.error(
                    "event=revocation_not_kept site=%s folder=%s reason=%s",
                    self.site,
                    self._learned,
                    error.strerror,
                )
        before = self._channel
        self._identity = dataclasses.replace(self._identity, generation=generation)
        self._open_channel()
        before.close()

    def login(
        self, plan: dict[str, Any], num_examples: int, labels: Mapping[str, str] | None = None
    ) -> Session:
        self._renewed()
        request = pb.LoginRequest(
            site=self.site,
            plan_json=json.dumps(plan, allow_nan=False),
            num_examples=num_examples,
            protocol=PROTOCOL,
            labels=labels or {},
            masking=MASKING,
        )
        limits.check_login(request)
        try:
            with self._calling():
                metadata = conversion.credential_metadata(self.site, self._credential)
                session = replies.session(
                    self._ask("Login", request, pb.LoginReply, metadata=metadata)
                )
        except errors.VersionDiffers as error:
            # A server of release 0.1.0 does not state its own, and servers do not know this one.
            raise errors.VersionDiffers(
                f"{error} (release {release.version()} is installed here)"
            ) from error
        self._token, self._poll_s, self._encoding = session.token, session.poll_s, session.transport
        if session.revocation:
            self._learn(session.revocation)
        return session

    def next_task(self) -> Task:
        with self._calling():
            return replies.task(
                self._ask("NextTask", pb.TaskRequest(), pb.Task, timeout_s=self._poll_s + _SHORT_S)
            )

    def heart_beat(self) -> None:
        # Does not renew: the loop's own call does that, and may be using the same connection now.
        with self._calling(renewing=False):
            self._ask("HeartBeat", pb.HeartBeatRequest(), pb.Acknowledgement)

    def pull(
        self, model: str, path: str | os.PathLike, *, specs: Sequence[TensorSpec] | None = None
    ) -> TensorManifest:
        with self._calling():
            described = self._ask(
                "Describe", pb.ModelName(model=model), pb.ModelHeader, limit=replies.LARGE
            )
            manifest = replies.manifest(described, model=model, specs=specs)
            with PartialModel(path, manifest, {"sha256": manifest.sha256}) as partial:
                missing = partial.missing()
                if missing:
                    request = pb.PullRequest(
                        model=model,
                        sha256=manifest.sha256,
                        chunks=conversion.ranges_to_messages(missing),
                    )
                    call = self._pulling(request, metadata=self._metadata())
                    watchdog = _Watchdog()
                    with watchdog.of(call):
                        for chunk in self._chunks(watchdog.following(call), model, set(missing)):
                            partial.put(chunk)
                if partial.missing():
                    raise errors.DamagedTransfer(f"model {model!r} ended early; pull the rest")
        return manifest

    def _chunks(
        self, messages: Iterable[bytes], model: str, wanted: set[int]
    ) -> Iterator[codec.Chunk]:
        """Yields the requested chunks.

        Raises ServerMisbehaves for any other chunk; otherwise the stream might never end.
        """
        for message in messages:
            chunk = chunk_encoding.chunk_from_bytes(message)
            if chunk.index not in wanted:
                raise errors.ServerMisbehaves.because(
                    f"sends chunk {chunk.index} of model {model}, which was not asked for or came "
                    "already"
                )
            if chunk.encoding not in codec.ENCODINGS[self._encoding]:
                what = (
                    f"sends chunks of model {model} in encoding {chunk.encoding}, but agreed on "
                    f"transport {self._encoding!r} at login"
                )
                if self._other_encoding:
                    raise errors.ServerMisbehaves.because(what)
                self._other_encoding = True
                raise errors.SessionExpired(f"the server {what}; logging in again")
            wanted.remove(chunk.index)
            yield chunk
        self._other_encoding = False

    def report_scores(self, model: int, scores: Mapping[str, float], *, sha256: str = "") -> None:
        with self._calling():
            self._ask(
                "ReportScores",
                pb.Scores(model=model, values=dict(scores), sha256=sha256),
                pb.Acknowledgement,
            )

    def declare_models(self, names: Sequence[str]) -> None:
        with self._calling():
            self._ask("DeclareModels", pb.Models(names=names), pb.Acknowledgement)

    def ask_sum(self, phase: str, place: SumPlace) -> SumState:
        with self._calling():
            request = conversion.sum_question_to_message(phase, place)
            return replies.sum_state(self._ask("AskSum", request, pb.SumReply, limit=replies.LARGE))

    def post_sum(self, post: SumPost) -> None:
        with self._calling():
            self._ask("PostSum", conversion.sum_post_to_message(post), pb.Acknowledgement)

    def signer(self) -> Signer:
        identity = self._identity
        return Signer(
            self.site,
            certificates.load_key(atomic.read_bytes(identity.key)),
            certificates.load(atomic.read_bytes(identity.certificate)),
            certificates.load(atomic.read_bytes(identity.authority)),
        )

    def submit_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        with self._calling():
            call = self._channel.stream_unary(
                _SERVICE + "SubmitRows",
                request_serializer=pb.Row.SerializeToString,
                response_deserializer=bytes,
            )
            replies.read(
                call(
                    map(conversion.row_to_message, rows),
                    timeout=_SHORT_S,
                    metadata=self._metadata(),
                ),
                pb.Acknowledgement,
            )

    def close(self) -> None:
        self._channel.close()

    def _send(self, file: TensorFile, offer: Offer, before: ModelBefore | None = None) -> Receipt:
        sparse = False
        try:
            with self._calling():
                answer = self._offered(offer)
                if answer.receipt is not None:
                    return answer.receipt
                sparse = (
                    before is not None
                    and before.sha256 == answer.trained_from
                    and offer.sha256 != self._sent_whole
                )
                tensors = before.tensors if sparse and before is not None else None
                return self._send_chunks(file, offer, answer, tensors)
        except errors.DamagedTransfer:
            if sparse:  # this end's copy of the global model may have been changed
                self._sent_whole = offer.sha256
            raise

    def _due(self, offer: Offer) -> dict[str, str]:
        """Returns the values that a receipt for an offer must have."""
        what = offer.model or global_name(offer.round)
        return {"site": self.site, "what": what, "sha256": offer.sha256}

    def _offered(self, offer: Offer) -> Answer:
        reply = self._ask(
            "Offer",
            conversion.header_to_message(offer),
            pb.OfferReply,
            timeout_s=_SILENCE_S,
            limit=replies.LARGE,
        )
        return replies.answer(reply, num_chunks=offer.manifest.num_chunks, **self._due(offer))

    def _send_chunks(
        self,
        file: TensorFile,
        offer: Offer,
        answer: Answer,
        before: TensorFile | TensorSelection | None,
    ) -> Receipt:
        watchdog = _Watchdog()
        chunks = codec.chunks(file, answer.missing, transport=self._encoding, before=before)
        header = conversion.header_to_message(offer)
        call = self._sending.future(
            watchdog.sending(itertools.chain((header,), chunks)), metadata=self._metadata()
        )
        with watchdog.of(call):
            receipt = replies.read(call.result(), pb.Receipt)
        return replies.check_receipt(conversion.receipt_from_message(receipt), **self._due(offer))

    def _ask(
        self,
        method: str,
        request: Message,
        reply: type[replies.Reply],
        *,
        timeout_s: float = _SHORT_S,
        metadata: conversion.Metadata | None = None,
        limit: int = replies.SMALL,
    ) -> replies.Reply:
        call = self._channel.unary_unary(
            _SERVICE + method,
            request_serializer=type(request).SerializeToString,
            response_deserializer=bytes,
        )
        return replies.read(
            call(request, timeout=timeout_s, metadata=metadata or self._metadata()),
            reply,
            limit=limit,
        )

    def _metadata(self) -> conversion.Metadata:
        return conversion.token_metadata(self._token)

    @contextlib.contextmanager
    def _calling(self, *, renewing: bool = True) -> Iterator[None]:
        try:
            yield
        except (grpc.RpcError, grpc.FutureCancelledError) as error:
            reason = self._error(error)
            if (
                renewing
                and isinstance(reason, (errors.ServerUnreachable, errors.CertificateRefused))
                and self._renewed()
            ):
                reason = errors.ServerUnreachable(
                    "the certificate of this site was renewed; trying again with it"
                )
            raise reason from None  # gRPC's own text contains addresses and internals

    def _error(self, error: Exception) -> errors.FederationError:
        endpoint = ServerEndpoint(self._host, self._port, os.environ)
        if not isinstance(error, grpc.Call):
            return errors.ServerUnreachable(
                f"{printable.text(endpoint.address)}: the call was cut off"
            )
        return tls.explain_call(error, endpoint, self._identity)


class _Watchdog:
    """Cancels a transfer that has stalled.

    Every message moves the deadline, so that a slow link is not mistaken for a dead one.
    """

    _call: grpc.Call
    _failed: Exception | None = None

    def __init__(self) -> None:
        self._moved, self._over = threading.Event(), threading.Event()

    def following(self, messages: Iterable[Item]) -> Iterator[Item]:
        """Yields the messages; each one moves the deadline."""
        try:
            for message in messages:
                self._moved.set()
                yield message
        except ValueError:
            # If the server ends the call early, the file is closed while gRPC still reads ahead.
            if not self._over.is_set():
                raise
        self._moved.set()

    def sending(self, messages: Iterable[Item]) -> Iterator[Item]:
        """Yields the messages to gRPC.

        gRPC would only print the stack trace of an error in reading them, so the error is raised at
        the end of the block.
        """
        try:
            yield from self.following(messages)
        except Exception as error:
            self._failed = error

    def of(self, call: grpc.Call) -> _Watchdog:
        """Sets the call that will be cancelled."""
        self._call = call
        return self

    def __enter__(self) -> _Watchdog:
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._moved.set()
        self._thread.join()
        self._call.cancel()  # without effect on a call that has ended
        if self._failed is not None:
            raise self._failed from None

    def _watch(self) -> None:
        while self._moved.wait(_SILENCE_S):
            if self._over.is_set():
                return
            self._moved.clear()
        self._call.cancel()
