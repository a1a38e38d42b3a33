"""The gRPC service of the weight exchange.

It identifies the caller, decodes, calls the coordinator and encodes, and decides nothing else.

A call is checked in this order: its token (for a login, the credential) when the headers arrive;
whether the token belongs to the certificate of the connection; the caller's free places; and the
size of each message before it is decoded. Messages are read only after the first three checks.
"""

from __future__ import annotations

import functools
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import grpc

from federated import errors
from federated.connections.calls import Calls
from federated.connections.error_replies import answering, storage_trouble, turned_away
from federated.connections.inbox import Inbox
from federated.connections.login_pace import LoginPace
from federated.connections.transfer_queue import TransferQueue
from federated.security import tls
from federated.security.credentials import TokenRecord
from federated.server.coordinator import Coordinator, damaged_model
from federated.tensors import codec
from federated.tensors.weights import CHUNK_BYTES
from federated.wire import chunk_encoding, conversion, limits
from federated.wire import weight_exchange_pb2 as pb
from federated.wire.messages import OPERATION_PREFIX, Offer, Session
from runkit import json_text

_SERVICE = "/weight_exchange.WeightExchange"
# Size limits for messages, in bytes, applied before a message is decoded.
_SMALL, _MIDDLE = 2**10, 16 * 2**10
_RANGES = 512 * 2**10  # of the missing chunks of a model, 12 bytes each at most
_SUM = 64 * 2**10  # a share for, or from, every site: about 200 bytes each
_ENVELOPE = 64  # bytes around a chunk's data
# Bytes that a header may have beyond twice those of the run's own model: the header of a different
# model is thus read, and refused with the names of its tensors.
_HEADER_SLACK = 64 * 2**10


class Caller(NamedTuple):
    """The calling site, and a check that raises once the site is no longer admitted."""

    site: str
    verify: Callable[[], object]


class WeightExchangeServicer(grpc.GenericRpcHandler):
    """The service of a coordinator.

    It has one method per call, which gets the caller, the request and gRPC's context.

    Args:
      queue: transfers of models wait in it for a slot.
      calls: the calls in progress.
      poll_s: a site without a task gets an answer after this many seconds.
    """

    def __init__(
        self, coordinator: Coordinator, queue: TransferQueue, calls: Calls, *, poll_s: float
    ):
        self._coordinator, self._queue, self._calls = coordinator, queue, calls
        self._poll_s, self._pace = poll_s, LoginPace()
        self._specs = coordinator.specs
        header = 2 * coordinator.header_bytes + _HEADER_SLACK
        self._max_bytes = {"Offer": header, "Send": max(header, CHUNK_BYTES + _ENVELOPE)}

    # gRPC calls this for every call to the port except the operator's.

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """Returns the handler of a call; gRPC asks for it with the headers, before any message.

        A call without a valid token and a login without a valid credential are refused.
        """
        if details.method.startswith(OPERATION_PREFIX):
            return None
        service, _, name = details.method.rpartition("/")
        metadata = details.invocation_metadata
        try:
            if details.method == _SERVICE + "/Login":
                site, credential = conversion.presented_credential(metadata)
                self._coordinator.check_credential(site, credential)
                identify: Identify = functools.partial(_identified_by_credential, site)
            else:
                token = conversion.presented_token(metadata)
                record = self._coordinator.record_of(token)
                identify = functools.partial(self._identified_by_token, token, record)
        except errors.FederationError as error:
            return turned_away(error)
        except (OSError, sqlite3.OperationalError) as error:
            return turned_away(storage_trouble(error) or errors.StorageTrouble(str(error)))
        return self._handler(name, identify) if service == _SERVICE and name in _METHODS else None

    def _handler(self, name: str, identify: Identify) -> grpc.RpcMethodHandler:
        """Returns the handler of one call.

        gRPC treats every method as a stream in both directions, so it does not read a message
        before it is asked for one: by then the caller is known and has a place. The bytes on the
        wire are the same.
        """
        read, write, streams, max_bytes = _METHODS[name]
        method, inbox = getattr(self, name), Inbox(read, self._max_bytes.get(name, max_bytes))

        def reply(stream: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[Any]:
            with answering(context):
                caller = identify(context)
                with self._calls.of(caller.site, context, caller.verify) as call:
                    messages = inbox.messages(stream, call.moved)
                    request = messages if streams == "in" else _only(messages)
                    return iter((method(caller, request, context),))

        def replies(stream: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[Any]:
            with answering(context):
                caller = identify(context)
                with self._calls.of(caller.site, context, caller.verify) as call:
                    request = _only(inbox.messages(stream, call.moved))
                    yield from call.following(method(caller, request, context))

        return grpc.stream_stream_rpc_method_handler(
            replies if streams == "out" else reply, inbox.arrived, write
        )

    def _identified_by_token(
        self, token: str, record: TokenRecord, context: grpc.ServicerContext
    ) -> Caller:
        """Returns the token's site, if the token was issued to the connection's certificate."""
        certificate = tls.fingerprint(context)
        site = self._coordinator.identify(record, certificate)
        return Caller(site, functools.partial(self._coordinator.record_of, token, certificate))

    # One method per call of the service.

    def Login(
        self, caller: Caller, request: pb.LoginRequest, context: grpc.ServicerContext
    ) -> pb.LoginReply:
        name, certificate = tls.caller(context)
        if name != request.site:
            raise errors.CertificateRefused(
                f"the certificate is that of {name!r}, not of site {request.site[:80]!r}; "
                "use the kit of one site, whole"
            )
        hung_up = threading.Event()
        context.add_callback(hung_up.set)
        hung_up.wait(self._pace.reserve(name))
        session = self._logged_in(name, certificate, request, context)
        return conversion.session_to_message(session)

    def _logged_in(
        self,
        name: str,
        certificate: str,
        request: pb.LoginRequest,
        context: grpc.ServicerContext,
    ) -> Session:
        try:
            plan = json_text.loads(request.plan_json)
        except (ValueError, RecursionError) as error:
            raise errors.PlanDiffers(
                f"the plan of site {name!r} is not JSON; install the same release at both ends"
            ) from error
        if not isinstance(plan, dict):
            raise errors.PlanDiffers(
                f"the plan of site {name!r} is not a JSON object; "
                "install the same release at both ends"
            )
        site, credential = conversion.presented_credential(context.invocation_metadata())
        if site != request.site:
            raise errors.WrongCredential(
                f"the credential is that of {site!r}, not of site {request.site[:80]!r}; "
                "use one kit, whole"
            )
        return self._coordinator.login(
            site,
            credential,
            plan,
            request.num_examples,
            certificate=certificate,
            certificate_ends=tls.certificate_ends(context),
            protocol=request.protocol,
            labels=request.labels,
            masking=request.masking,
        )

    def NextTask(
        self, caller: Caller, request: pb.TaskRequest, context: grpc.ServicerContext
    ) -> pb.Task:
        # A site that disconnects frees its thread at once.
        context.add_callback(self._coordinator.wake)
        return conversion.task_to_message(
            self._coordinator.next_task(caller.site, wait_s=self._poll_s, asking=context.is_active)
        )

    def HeartBeat(
        self, caller: Caller, request: pb.HeartBeatRequest, context: grpc.ServicerContext
    ) -> pb.Acknowledgement:
        return pb.Acknowledgement()

    def Describe(
        self, caller: Caller, request: pb.ModelName, context: grpc.ServicerContext
    ) -> pb.ModelHeader:
        file, manifest = self._coordinator.open_model(request.model)
        file.close()
        return conversion.header_to_message(Offer(manifest, model=request.model))

    def Pull(
        self, caller: Caller, request: pb.PullRequest, context: grpc.ServicerContext
    ) -> Iterator[codec.Chunk]:
        context.add_callback(self._queue.wake)  # a site that disconnects frees its place at once
        with self._queue.slot(context.is_active, name=caller.site) as slot:
            began, sent = time.monotonic(), 0
            file, manifest = self._coordinator.open_model(request.model, request.sha256)
            with file:
                wanted = conversion.indices_from_messages(
                    request.chunks, num_chunks=manifest.num_chunks
                )
                # A site keeps what it got before a damaged chunk and asks for the rest, so checking
                # the first chunk of each request finds the damage, whichever chunk has it.
                first = next(codec.chunks(file, wanted[:1]), None)
                if first is not None and not manifest.is_chunk(first.index, first.data):
                    raise damaged_model(file.path)
                for chunk in codec.chunks(file, wanted, transport=self._coordinator.transport):
                    sent += len(chunk.data)
                    yield chunk
                    slot.moved(len(chunk.data))
                self._coordinator.note_pulled(
                    caller.site, request.model, nbytes=sent, seconds=time.monotonic() - began
                )

    def ReportScores(
        self, caller: Caller, request: pb.Scores, context: grpc.ServicerContext
    ) -> pb.Acknowledgement:
        self._coordinator.report_scores(
            caller.site, request.model, dict(request.values), request.sha256
        )
        return pb.Acknowledgement()

    def Offer(
        self, caller: Caller, request: pb.ModelHeader, context: grpc.ServicerContext
    ) -> pb.OfferReply:
        offer = conversion.header_from_message(request, self._specs)
        answer = self._coordinator.offer(caller.site, offer)
        if answer.receipt is None:  # waits here, before any of the model's bytes are sent
            context.add_callback(self._queue.wake)
            self._queue.reserve(caller.site, context.is_active)
        return conversion.answer_to_message(answer)

    def Send(
        self, caller: Caller, parts: Iterator[conversion.Part], context: grpc.ServicerContext
    ) -> pb.Receipt:
        context.add_callback(self._queue.wake)
        # Nothing is read from the stream before the transfer has its slot.
        with self._queue.slot(context.is_active, name=caller.site) as slot:
            offer, chunks = conversion.model_from_parts(parts, self._specs)
            receipt = self._coordinator.send(
                caller.site, offer, chunks, verify=caller.verify, moved=slot.moved
            )
            return conversion.receipt_to_message(receipt)

    def AskSum(
        self, caller: Caller, request: pb.SumQuestion, context: grpc.ServicerContext
    ) -> pb.SumReply:
        phase, place = conversion.sum_question_from_message(request)
        return conversion.sum_state_to_message(self._coordinator.ask_sum(caller.site, phase, place))

    def PostSum(
        self, caller: Caller, request: pb.SumPart, context: grpc.ServicerContext
    ) -> pb.Acknowledgement:
        self._coordinator.post_sum(caller.site, conversion.sum_post_from_message(request))
        return pb.Acknowledgement()

    def DeclareModels(
        self, caller: Caller, request: pb.Models, context: grpc.ServicerContext
    ) -> pb.Acknowledgement:
        self._coordinator.declare_models(caller.site, list(request.names))
        return pb.Acknowledgement()

    def SubmitRows(
        self, caller: Caller, rows: Iterator[pb.Row], context: grpc.ServicerContext
    ) -> pb.Acknowledgement:
        self._coordinator.submit_rows(
            caller.site, map(conversion.row_from_message, rows), verify=caller.verify
        )
        return pb.Acknowledgement()


Identify = Callable[[grpc.ServicerContext], Caller]

# name -> (decoder, encoder, direction in which it streams, size limit of a message; a model's
# header and its chunks have their own limits)
_METHODS: dict[str, tuple[Callable[[bytes], Any], Callable[[Any], bytes], str, int]] = {
    "Login": (pb.LoginRequest.FromString, pb.LoginReply.SerializeToString, "", limits.MAX_LOGIN),
    "NextTask": (pb.TaskRequest.FromString, pb.Task.SerializeToString, "", _SMALL),
    "HeartBeat": (pb.HeartBeatRequest.FromString, pb.Acknowledgement.SerializeToString, "", _SMALL),
    "Describe": (pb.ModelName.FromString, pb.ModelHeader.SerializeToString, "", _SMALL),
    "Pull": (pb.PullRequest.FromString, chunk_encoding.chunk_to_bytes, "out", _RANGES),
    "ReportScores": (pb.Scores.FromString, pb.Acknowledgement.SerializeToString, "", _MIDDLE),
    "Offer": (pb.ModelHeader.FromString, pb.OfferReply.SerializeToString, "", _SMALL),
    "Send": (chunk_encoding.part_from_bytes, pb.Receipt.SerializeToString, "in", _SMALL),
    "AskSum": (pb.SumQuestion.FromString, pb.SumReply.SerializeToString, "", _SMALL),
    "PostSum": (pb.SumPart.FromString, pb.Acknowledgement.SerializeToString, "", _SUM),
    "DeclareModels": (pb.Models.FromString, pb.Acknowledgement.SerializeToString, "", _MIDDLE),
    "SubmitRows": (pb.Row.FromString, pb.Acknowledgement.SerializeToString, "in", _MIDDLE),
}


def _identified_by_credential(site: str, context: grpc.ServicerContext) -> Caller:
    """Returns the caller of a login, whose credential was checked with the headers."""
    return Caller(site, lambda: None)


def _only(messages: Iterator[Any]) -> Any:
    """Returns the one message of a call whose requests are not streamed."""
    for message in messages:
        return message
    raise errors.VersionDiffers(
        "a call ended before its message; install the same release at both ends"
    )
