"""What the operator and the doctor use to ask a server: one short call each, over mutual TLS with
the kit at hand.
"""

from __future__ import annotations

import os
import time
from typing import Any

import grpc

from federated import errors
from federated.security import tls
from federated.security.kit import Kit
from federated.wire import addresses, conversion, replies
from federated.wire import operation_pb2 as pb
from federated.wire.endpoint import ServerEndpoint, channel_options
from federated.wire.messages import OPERATION_PREFIX
from runkit import printable

_PAUSE_S, _TRIES = 0.1, 20  # between tries to connect, and how many


class AdminClient:
    """Calls of the `Operation` service. A context manager.

    Raises (any method): what the server refused, or ServerUnreachable and CertificateRefused with
    the reason; ServerMisbehaves for an answer that no server of this product gives.
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

    def status(self) -> dict[str, Any]:
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
        self, method: str, request: Any, reply: type[replies.Reply], *, limit: int = replies.SMALL
    ) -> replies.Reply:
        call = self._channel.unary_unary(
            OPERATION_PREFIX + method, type(request).SerializeToString, bytes
        )
        metadata = conversion.credential_metadata(self._kit.name, self._kit.credential)
        for tries_left in reversed(range(_TRIES)):
            try:
                return replies.read(
                    call(request, timeout=self._timeout_s, metadata=metadata), reply, limit=limit
                )
            except grpc.RpcError as error:
                cut = error.code() == grpc.StatusCode.UNAVAILABLE
                if not cut or tries_left in (
                    _TRIES - 1,
                    0,
                ):  # to see why takes connections, too: at first, and in the end
                    reason = self._error(error)
                    if not (cut and tries_left and isinstance(reason, errors.ServerUnreachable)):
                        raise reason from None  # gRPC's own text holds addresses and internals
            time.sleep(
                _PAUSE_S
            )  # a server at whose port many connections wait makes room now and then: often is better than long
        raise AssertionError("the last try returns or raises")

    def _error(self, error: grpc.RpcError) -> errors.FederationError:
        where = printable.text(addresses.joined(self._kit.host, self._kit.port))
        told = replies.error(error)
        if told is not None:
            return told
        if error.code() == grpc.StatusCode.UNIMPLEMENTED:
            return errors.VersionDiffers(
                f"{where}: the server knows no such call; it is of another release, or another program: install the same at both ends"
            )
        if error.code() == grpc.StatusCode.UNAVAILABLE:
            return tls.explain_failure(
                error.details() or "",
                ServerEndpoint(self._kit.host, self._kit.port, os.environ),
                self._kit.identity,
            )
        return errors.ServerUnreachable(
            f"{where}: no answer ({error.code().name.lower().replace('_', ' ')})"
        )
