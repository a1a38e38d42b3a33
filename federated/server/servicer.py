"""gRPC in, coordinator, gRPC out: decodes, calls, encodes, and maps each error to one status code.
Decides nothing else.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import DecodeError

from federated import errors
from federated.connections.calls import Calls
from federated.connections.error_replies import Answering, storage_trouble, turned_away
from federated.connections.inbox import Inbox
from federated.connections.login_pace import LoginPace
from federated.connections.transfer_queue import Slot, TransferQueue
from federated.security import tls
from federated.server.coordinator import Coordinator
from federated.tensors import codec
from federated.tensors.weights import CHUNK_BYTES
from federated.wire import chunk_encoding, conversion
from federated.wire import weight_exchange_pb2 as pb
from federated.wire.messages import Offer

_SERVICE = "/weight_exchange.WeightExchange"
_SMALL, _MIDDLE, _PLAN = (
    2**10,
    16 * 2**10,
    512 * 2**10,
)  # bytes that a message may have; refused before it is decoded
_ENVELOPE = 64  # bytes around a chunk's data
_HEADER_SLACK = (
    64 * 2**10
)  # bytes of a header beyond twice those of the run's own model: another model is refused by its tensors' names


class Caller(NamedTuple):
    """Who calls: a site, and how to ask again whether it is still let in."""

    site: str
    verify: Callable[[], object]


class TokenGate(grpc.ServerInterceptor):
    """Turns a call without a valid token, a login without a valid credential, away on its headers:
    no message is read.
    """

    def __init__(self, coordinator: Coordinator):
        self._coordinator = coordinator

    def intercept_service(
        self, continuation: Callable, details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler | None:
        try:
            if details.method == _SERVICE + "/Login":
                self._coordinator.check_credential(
                    *conversion.presented_credential(details.invocation_metadata)
                )
            else:
                self._coordinator.site_of(conversion.presented_token(details.invocation_metadata))
        except errors.FederationError as error:
            return turned_away(error)
        except (OSError, sqlite3.OperationalError) as error:
            return turned_away(storage_trouble(error))
        return continuation(details)


class WeightExchangeServicer:
    """The service over a coordinator: one method for each call, given the caller, the request and
    gRPC's context.

    Args:
      turns: models move one after the other, see there.
      calls: the calls under way.
      poll_s: a site with nothing to do is answered after so many seconds.
    """

    def __init__(
        self, coordinator: Coordinator, turns: TransferQueue, calls: Calls, *, poll_s: float
    ):
        self._coordinator, self._turns, self._calls, self._poll_s = (
            coordinator,
            turns,
            calls,
            poll_s,
        )
        self._pace = LoginPace()

    def Login(
        self, caller: Caller, request: pb.LoginRequest, context: grpc.ServicerContext
    ) -> pb.LoginReply:
        name, certificate = tls.caller(context)
        if name != request.site:
            raise errors.CertificateRefused(
                f"the certificate is that of {name!r}, not of site {request.site[:80]!r}; use the kit of one site, whole"
            )
        hung_up = threading.Event()
        context.add_callback(hung_up.set)
        hung_up.wait(self._pace.reserve(name))
        try:
            plan = json.loads(request.plan_json)
        except (ValueError, RecursionError) as error:
            raise errors.PlanDiffers(
                f"the plan of site {name!r} is not JSON; install the same release at both ends"
            ) from error
        if not isinstance(plan, dict):
            raise errors.PlanDiffers(
                f"the plan of site {name!r} is not a JSON object; install the same release at both ends"
            )
        site, credential = conversion.presented_credential(context.invocation_metadata())
        if site != request.site:
            raise errors.WrongCredential(
                f"the credential is that of {site!r}, not of site {request.site[:80]!r}; use one kit, whole"
            )
        session = self._coordinator.login(
            site,
            credential,
            plan,
            request.num_examples,
            certificate=certificate,
            certificate_ends=tls.certificate_ends(context),
            protocol=request.protocol,
            labels=request.labels,
        )
        return conversion.session_to_message(session)

    def NextTask(
        self, caller: Caller, request: pb.TaskRequest, context: grpc.ServicerContext
    ) -> pb.Task:
        context.add_callback(
            self._coordinator.wake
        )  # a site that hangs up frees its thread at once
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
        file, manifest = self._coordinator.open_model(caller.site, request.model)
        file.close()
        return conversion.header_to_message(Offer(manifest, model=request.model))

    def Pull(
        self, caller: Caller, request: pb.PullRequest, context: grpc.ServicerContext
    ) -> Iterator[codec.Chunk]:
        context.add_callback(self._turns.wake)  # a site that hangs up gives up its place at once
        with self._turns.turn(context.is_active, name=caller.site) as turn:
            began, sent = time.monotonic(), 0
            file, manifest = self._coordinator.open_model(
                caller.site, request.model, request.sha256
            )
            with file:
                wanted = conversion.indices_from_messages(
                    request.chunks, num_chunks=manifest.num_chunks
                )
                for chunk in codec.chunks(file, wanted, transport=self._coordinator.transport):
                    sent += len(chunk.data)
                    yield chunk
                    turn.moved(len(chunk.data))
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
        answer = self._coordinator.offer(caller.site, conversion.header_from_message(request))
        if answer.receipt is None:  # waits here, where nothing of the model is under way yet
            context.add_callback(self._turns.wake)
            self._turns.reserve(caller.site, context.is_active)
        return conversion.answer_to_message(answer)

    def Send(
        self, caller: Caller, parts: Iterator[conversion.Part], context: grpc.ServicerContext
    ) -> pb.Receipt:
        context.add_callback(self._turns.wake)
        with self._turns.turn(
            context.is_active, name=caller.site
        ) as turn:  # nothing is taken from the stream before
            offer, chunks = conversion.model_from_parts(parts)
            receipt = self._coordinator.send(
                caller.site, offer, _noted(chunks, turn), verify=caller.verify
            )
            return conversion.receipt_to_message(receipt)

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

    def handler(self, name: str) -> grpc.RpcMethodHandler | None:
        """Returns how gRPC is to answer calls of one method, None where there is no such method.

        Every method is a stream both ways to gRPC, which then reads no message before it is asked
        for one: it is clear from whom a message comes, and that the caller has a place, before it
        is read and decoded. On the wire nothing is different.
        """
        if name not in _METHODS:
            return None
        read, write, streams, max_bytes = _METHODS[name]
        method, inbox = getattr(self, name), Inbox()
        if max_bytes is None:
            max_bytes = 2 * self._coordinator.header_bytes + _HEADER_SLACK
            if name == "Send":
                max_bytes = max(max_bytes, CHUNK_BYTES + _ENVELOPE)

        def decoded(data: bytes) -> Any:
            if len(data) > max_bytes:
                raise errors.DamagedTransfer(
                    f"a message of {len(data)} bytes came where {max_bytes} are the most; install the same release"
                )
            try:
                return read(data)
            except DecodeError as error:
                raise errors.DamagedTransfer(
                    "a message cannot be read; install the same release at both ends"
                ) from error

        def requests(messages: Iterator[bytes]) -> Any:
            if "in" in streams:
                return map(decoded, messages)
            for data in messages:
                return decoded(data)
            raise errors.DamagedTransfer(
                "a call ended before its message; install the same release at both ends"
            )

        def reply(stream: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[Any]:
            with Answering(context):
                caller = self._caller(name, context)
                with self._calls.of(caller.site, context, caller.verify) as call:
                    return iter(
                        (method(caller, requests(call.following(inbox.messages(stream))), context),)
                    )

        def replies(stream: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[Any]:
            with Answering(context):
                caller = self._caller(name, context)
                with self._calls.of(caller.site, context, caller.verify) as call:
                    request = requests(call.following(inbox.messages(stream)))
                    yield from call.following(method(caller, request, context))

        return grpc.stream_stream_rpc_method_handler(
            replies if "out" in streams else reply, inbox.arrived, write
        )

    def _caller(self, method: str, context: grpc.ServicerContext) -> Caller:
        """Returns the token's site once the connection's certificate is found to be the one it was
        issued to.
        """
        if method == "Login":  # its credential was found to be right on the headers
            return Caller(
                conversion.presented_credential(context.invocation_metadata())[0], lambda: None
            )
        token, (_, certificate) = (
            conversion.presented_token(context.invocation_metadata()),
            tls.caller(context),
        )
        site = self._coordinator.site_of(token, certificate)
        return Caller(site, lambda: self._coordinator.check_token(token, certificate))


# name -> (decoder, encoder, which ways it streams, bytes that a message may have: None for a
# model's header)
_METHODS = {
    "Login": (pb.LoginRequest.FromString, pb.LoginReply.SerializeToString, "", _PLAN),
    "NextTask": (pb.TaskRequest.FromString, pb.Task.SerializeToString, "", _SMALL),
    "HeartBeat": (pb.HeartBeatRequest.FromString, pb.Acknowledgement.SerializeToString, "", _SMALL),
    "Describe": (pb.ModelName.FromString, pb.ModelHeader.SerializeToString, "", _SMALL),
    "Pull": (pb.PullRequest.FromString, chunk_encoding.chunk_to_bytes, "out", _PLAN),
    "ReportScores": (pb.Scores.FromString, pb.Acknowledgement.SerializeToString, "", _MIDDLE),
    "Offer": (pb.ModelHeader.FromString, pb.OfferReply.SerializeToString, "", None),
    "Send": (chunk_encoding.part_from_bytes, pb.Receipt.SerializeToString, "in", None),
    "DeclareModels": (pb.Models.FromString, pb.Acknowledgement.SerializeToString, "", _MIDDLE),
    "SubmitRows": (pb.Row.FromString, pb.Acknowledgement.SerializeToString, "in", _MIDDLE),
}


def _noted(chunks: Iterator[codec.Chunk], turn: Slot) -> Iterator[codec.Chunk]:
    for chunk in chunks:
        turn.moved(len(chunk.data))
        yield chunk


def add_to_server(servicer: WeightExchangeServicer, server: grpc.Server) -> None:
    """Registers the service. Messages are decoded by its handlers, not by gRPC, which would decode
    whatever comes.
    """
    server.add_generic_rpc_handlers((_Handlers(servicer),))


class _Handlers(grpc.GenericRpcHandler):
    """What gRPC asks, call by call, for the function to run: each has an inbox of its own."""

    def __init__(self, servicer: WeightExchangeServicer):
        self._servicer = servicer

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        service, _, name = details.method.rpartition("/")
        return self._servicer.handler(name) if service == _SERVICE else None
