"""gRPC in, coordinator, gRPC out: decodes, calls, encodes, and maps each error to one status code. Decides nothing else."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from federated import chunk_wire, codec, errors, tls, wire
from federated import weight_exchange_pb2 as pb
from federated.answering import Answering, turned_away
from federated.coordinator import Coordinator
from federated.exchange import Offer
from federated.inbox import Inbox
from federated.turns import Turn, Turns

_SERVICE = "/weight_exchange.WeightExchange"
_MAX_ROWS = 200_000


class TokenGate(grpc.ServerInterceptor):
    """Turns a call without a valid token, a login without a valid credential, away on its headers: no message is read."""

    def __init__(self, coordinator: Coordinator):
        self._coordinator = coordinator

    def intercept_service(self, continuation: Callable, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        try:
            if details.method == _SERVICE + "/Login":
                self._coordinator.check_credential(*wire.presented_credential(details.invocation_metadata))
            else:
                self._coordinator.site_of(wire.presented_token(details.invocation_metadata))
        except errors.FederationError as error:
            return turned_away(error)
        return continuation(details)


class WeightExchangeServicer:
    """The service over a coordinator; a site with nothing to do is answered after `poll_s` seconds, models move by `turns`."""

    def __init__(self, coordinator: Coordinator, turns: Turns, *, poll_s: float):
        self._coordinator, self._turns, self._poll_s = coordinator, turns, poll_s

    def Login(self, request: pb.LoginRequest, context: grpc.ServicerContext) -> pb.LoginReply:
        with Answering(context):
            name, certificate = tls.caller(context)
            if name != request.site:
                raise errors.CertificateRefused(
                    f"the certificate is that of {name!r}, not of site {request.site!r}; use the kit of one site, whole"
                )
            try:
                plan = json.loads(request.plan_json)
            except ValueError as error:
                raise errors.PlanDiffers(f"the plan of site {request.site!r} is not JSON; install the same release at both ends") from error
            if not isinstance(plan, dict):
                raise errors.PlanDiffers(f"the plan of site {request.site!r} is no JSON object; install the same release at both ends")
            site, credential = wire.presented_credential(context.invocation_metadata())
            if site != request.site:
                raise errors.WrongCredential(f"the credential is that of {site!r}, not of site {request.site[:80]!r}; use one kit, whole")
            session = self._coordinator.login(
                site, credential, plan, request.num_examples, certificate=certificate, protocol=request.protocol
            )
            return wire.session_to_message(session)

    def NextTask(self, request: pb.TaskRequest, context: grpc.ServicerContext) -> pb.Task:
        with Answering(context):
            site = self._site(context)
            context.add_callback(self._coordinator.wake)  # a site that hangs up frees its thread at once
            return wire.task_to_message(self._coordinator.next_task(site, wait_s=self._poll_s, asking=context.is_active))

    def HeartBeat(self, request: pb.HeartBeatRequest, context: grpc.ServicerContext) -> pb.Acknowledgement:
        with Answering(context):
            self._site(context)
            return pb.Acknowledgement()

    def Describe(self, request: pb.ModelName, context: grpc.ServicerContext) -> pb.ModelHeader:
        with Answering(context):
            file, manifest = self._coordinator.open_model(self._site(context), request.model)
            file.close()
            return wire.header_to_message(Offer(manifest, model=request.model))

    def Pull(self, request: pb.PullRequest, context: grpc.ServicerContext) -> Iterator[codec.Chunk]:
        with Answering(context):
            site = self._site(context)
            context.add_callback(self._turns.wake)  # a site that hangs up gives up its place at once
            with self._turns.turn(context.is_active) as turn:
                began, sent = time.monotonic(), 0
                file, manifest = self._coordinator.open_model(site, request.model, request.sha256)
                with file:
                    wanted = wire.indices_from_messages(request.chunks, num_chunks=manifest.num_chunks)
                    for chunk in codec.chunks(file, wanted, transport=self._coordinator.transport):
                        sent += len(chunk.data)
                        yield chunk
                        turn.moved(len(chunk.data))
                    self._coordinator.note_pulled(site, request.model, nbytes=sent, seconds=time.monotonic() - began)

    def ReportScores(self, request: pb.Scores, context: grpc.ServicerContext) -> pb.Acknowledgement:
        with Answering(context):
            self._coordinator.report_scores(self._site(context), request.model, dict(request.values))
            return pb.Acknowledgement()

    def Offer(self, request: pb.ModelHeader, context: grpc.ServicerContext) -> pb.OfferReply:
        with Answering(context):
            site = self._site(context)
            answer = self._coordinator.offer(site, wire.header_from_message(request))
            if answer.receipt is None:  # waits here, where nothing of the model is under way yet
                context.add_callback(self._turns.wake)
                self._turns.reserve(site, context.is_active)
            return wire.answer_to_message(answer)

    def Send(self, request_iterator: Iterator[wire.Part], context: grpc.ServicerContext) -> pb.Receipt:
        with Answering(context):
            site = self._site(context)
            context.add_callback(self._turns.wake)
            with self._turns.turn(context.is_active, name=site) as turn:  # nothing is taken from the stream before
                offer, chunks = wire.model_from_parts(request_iterator)
                return wire.receipt_to_message(self._coordinator.send(site, offer, _noted(chunks, turn)))

    def DeclareModels(self, request: pb.Models, context: grpc.ServicerContext) -> pb.Acknowledgement:
        with Answering(context):
            self._coordinator.declare_models(self._site(context), list(request.names))
            return pb.Acknowledgement()

    def SubmitRows(self, request_iterator: Iterator[pb.Row], context: grpc.ServicerContext) -> pb.Acknowledgement:
        with Answering(context):
            site, rows = self._site(context), []
            for message in request_iterator:
                rows.append(wire.row_from_message(message))
                if len(rows) > _MAX_ROWS:
                    raise errors.PrivacyRefused(
                        f"site {site!r} sends more than {_MAX_ROWS} rows; a site reports one per model, case and grid"
                    )
            self._coordinator.submit_rows(site, rows)
            return pb.Acknowledgement()

    def checked(self, method: Callable, read: Callable[[bytes], Any], *, inbox: Inbox | None = None, login: bool = False) -> Callable:
        """Returns `method` for messages that are still bytes: decoded only once it is clear from whom they come.

        Args:
          inbox: of the call, where the messages are a stream.
        """

        def decoded(data: bytes) -> Any:
            try:
                return read(data)
            except DecodeError as error:
                raise errors.DamagedTransfer("a message cannot be read; install the same release at both ends") from error

        def call(received: Any, context: grpc.ServicerContext) -> Any:
            with Answering(context):
                if not login:
                    self._site(context)
                request = decoded(received) if inbox is None else map(decoded, inbox.messages(received))
            return method(request, context)

        return call

    def _site(self, context: grpc.ServicerContext) -> str:
        """Returns the token's site once the connection's certificate is found to be the one it was issued to."""
        _, certificate = tls.caller(context)
        return self._coordinator.site_of(wire.presented_token(context.invocation_metadata()), certificate)


def _noted(chunks: Iterator[codec.Chunk], turn: Turn) -> Iterator[codec.Chunk]:
    for chunk in chunks:
        turn.moved(len(chunk.data))
        yield chunk


def add_to_server(servicer: WeightExchangeServicer, server: grpc.Server) -> None:
    """Registers the service. Messages are decoded by `checked`, not by gRPC, which would decode whatever comes."""
    server.add_generic_rpc_handlers((_Calls(servicer),))


class _Calls(grpc.GenericRpcHandler):
    """What gRPC asks, call by call, for the function to run: an incoming stream has an inbox of its own."""

    def __init__(self, servicer: WeightExchangeServicer):
        unary, incoming, outgoing = (
            grpc.unary_unary_rpc_method_handler,
            grpc.stream_unary_rpc_method_handler,
            grpc.unary_stream_rpc_method_handler,
        )
        self._servicer = servicer
        self._methods = {
            "Login": (unary, pb.LoginRequest.FromString, pb.LoginReply.SerializeToString),
            "NextTask": (unary, pb.TaskRequest.FromString, pb.Task.SerializeToString),
            "HeartBeat": (unary, pb.HeartBeatRequest.FromString, pb.Acknowledgement.SerializeToString),
            "Describe": (unary, pb.ModelName.FromString, pb.ModelHeader.SerializeToString),
            "Pull": (outgoing, pb.PullRequest.FromString, chunk_wire.chunk_to_bytes),
            "ReportScores": (unary, pb.Scores.FromString, pb.Acknowledgement.SerializeToString),
            "Offer": (unary, pb.ModelHeader.FromString, pb.OfferReply.SerializeToString),
            "Send": (incoming, chunk_wire.part_from_bytes, pb.Receipt.SerializeToString),
            "DeclareModels": (unary, pb.Models.FromString, pb.Acknowledgement.SerializeToString),
            "SubmitRows": (incoming, pb.Row.FromString, pb.Acknowledgement.SerializeToString),
        }

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        service, _, name = details.method.rpartition("/")
        if service != _SERVICE or name not in self._methods:
            return None
        make, reads, writes = self._methods[name]
        inbox = Inbox() if make is grpc.stream_unary_rpc_method_handler else None
        method = self._servicer.checked(getattr(self._servicer, name), reads, inbox=inbox, login=name == "Login")
        return make(method, inbox and inbox.arrived, writes)
