"""The client of the operator and the doctor: short calls to a server, over mutual TLS."""

from __future__ import annotations

import os
import time

import grpc
from google.protobuf.message import Message

from federated import errors
from federated.security import tls
from federated.security.kit import Kit
from federated.wire import addresses, conversion, replies
from federated.wire import operation_pb2 as pb
from federated.wire.messages import OPERATION_PREFIX
from federated.wire.proxy import ServerEndpoint, channel_options
from federated.wire.status import RunStatus

# Many connections may be waiting at the server's port, where places become free now and then: with
# short pauses, a call gets one sooner.
_PAUSE_S, _TRIES = 0.1, 20


class AdminClient:
    """Calls of the `Operation` service. A context manager.

    Args:
      timeout_s: time limit for each call.
    Raises (any method): the error with which the server refused the call; ServerUnreachable or
    CertificateRefused, with the reason, if there was no answer; ServerMisbehaves for an answer that
    a server of this product never gives.
    """

    def __init__(self, kit: Kit, *, timeout_s: float = 15.0):
        self._kit, self._timeout_s = kit, timeout_s
        options = (
            *conversion.CHANNEL_OPTIONS,
            *kit.identity.channel_options,
            *channel_options(kit.host),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 100),
        )
        self._channel = grpc.secure_channel(
            addresses.joined(kit.host, kit.port), kit.identity.for_client(), options=options
        )

    def probe(self) -> pb.ProbeReply:
        return replies.probe(
            self._call("Probe", pb.ProbeRequest(), pb.ProbeReply, limit=replies.LARGE)
        )

    def status(self) -> RunStatus:
        return replies.status(
            self._call("Status", pb.StatusRequest(), pb.StatusReply, limit=replies.LARGE)
        )

    def order(self, kind: str, site: str = "", round_number: int = 0) -> str:
        return replies.order(
            self._call(
                "Order", pb.OrderRequest(kind=kind, site=site, round=round_number), pb.OrderReply
            )
        )

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> AdminClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(
        self,
        method: str,
        request: Message,
        reply: type[replies.Reply],
        *,
        limit: int = replies.SMALL,
    ) -> replies.Reply:
        call = self._channel.unary_unary(
            OPERATION_PREFIX + method, type(request).SerializeToString, bytes
        )
        metadata = conversion.credential_metadata(self._kit.name, self._kit.credential)
        for attempt in range(1, _TRIES + 1):
            try:
                return replies.read(
                    call(request, timeout=self._timeout_s, metadata=metadata), reply, limit=limit
                )
            except grpc.RpcError as error:
                assert isinstance(error, grpc.Call)
                cut = error.code() == grpc.StatusCode.UNAVAILABLE
                # Finding out why also takes connections, so do it only the first and the last time.
                if not cut or attempt in (1, _TRIES):
                    reason = self._error(error)
                    may_help = cut and isinstance(reason, errors.ServerUnreachable)
                    if not may_help or attempt == _TRIES:
                        raise reason from None  # gRPC's own text contains addresses and internals
            time.sleep(_PAUSE_S)
        raise AssertionError("the last attempt returns or raises")

    def _error(self, error: grpc.Call) -> errors.FederationError:
        endpoint = ServerEndpoint(self._kit.host, self._kit.port, os.environ)
        return tls.explain_call(error, endpoint, self._kit.identity)
