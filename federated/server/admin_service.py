"""The server's service for the operator: probe, status and orders.

The headers of each call are checked before a message is read.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import grpc
from google.protobuf.message import DecodeError

from federated import errors
from federated.connections.calls import Calls
from federated.connections.error_replies import answering, turned_away
from federated.security import tls
from federated.security.credentials import CredentialBook
from federated.wire import conversion
from federated.wire import operation_pb2 as pb
from federated.wire.messages import OPERATION_PREFIX, ORDERS, PROTOCOL
from federated.wire.status import RunStatus, SiteStatus
from runkit import release

OPERATOR = "operator"
_MAX_MESSAGE = 4 * 2**10  # bytes of a request
_MAX_STATUS = conversion.MAX_MESSAGE - 64  # bytes, with room for the envelope


class AdminApi(Protocol):
    """What the operator can see and do, e.g. `overview.Overview`."""

    def standing(self, site: str) -> str:
        """Returns the standing of a site.

        This is "admitted", "welcome" (it may log in), "evicted" or "full".
        """

    def model_facts(self) -> tuple[int, dict[str, Any]]:
        """Returns (size of the model in bytes, the plan)."""

    def log_head(self) -> tuple[int, str]:
        """Returns (number of lines of the run's log, hash of the last one)."""

    def status(self) -> RunStatus:
        """Returns the state of the run as JSON-able values."""

    def order(self, kind: str, site: str, round_number: int) -> str:
        """Carries out an order and returns the result in words. Raises OrderRefused."""


def text_of(status: RunStatus) -> str:
    """Returns a status as JSON that fits into a reply.

    A status of many sites and rounds, or with scores under many long names, would be too large.
    It then has only the newest rounds, and the newest scores of each site.
    """
    text = json.dumps(status, allow_nan=False)
    newest = max([len(status["rounds"]), *(len(of["scores"]) for of in status["sites"].values())])
    while len(text) > _MAX_STATUS and newest > 1:
        newest //= 2
        sites = {
            name: {**site, "scores": {key: site["scores"][key] for key in _newest(site, newest)}}
            for name, site in status["sites"].items()
        }
        fewer = {**status, "sites": sites, "rounds": status["rounds"][-newest:]}
        text = json.dumps(fewer, allow_nan=False)
    return text


def _newest(site: SiteStatus, count: int) -> list[str]:
    """Returns the numbers of the newest models that a site has scored."""
    return sorted(site["scores"], key=int)[-count:]


class AdminServicer(grpc.GenericRpcHandler):
    """Answers the calls of this service and no others.

    Args:
      api: carries out the calls.
      credentials: credentials of the operator and of every site.
      calls: the calls in progress; the operator's places are separate from those of the sites.
      clock: returns the seconds since the epoch.
    """

    def __init__(
        self,
        api: AdminApi,
        credentials: CredentialBook,
        calls: Calls,
        *,
        clock: Callable[[], float] = time.time,
    ):
        self._api, self._credentials, self._calls, self._clock = api, credentials, calls, clock
        self._methods: dict[str, tuple[Callable[[str, Any], Any], Any, Any]] = {
            "Probe": (self._probe, pb.ProbeRequest, pb.ProbeReply),
            "Status": (self._status, pb.StatusRequest, pb.StatusReply),
            "Order": (self._order, pb.OrderRequest, pb.OrderReply),
        }

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """Returns the handler of a call; gRPC asks for it with the headers, before any message."""
        if not details.method.startswith(OPERATION_PREFIX):
            return None
        method = details.method[len(OPERATION_PREFIX) :]
        try:
            name = self._check_credential(details.invocation_metadata)
            if method != "Probe" and name != OPERATOR:
                raise errors.WrongCredential(
                    f"site {name!r} is not the operator; use the operator's kit of this federation"
                )
        except errors.FederationError as error:
            return turned_away(error)
        return self._handler(*self._methods[method]) if method in self._methods else None

    def _handler(
        self, method: Callable[[str, Any], Any], request: Any, reply: Any
    ) -> grpc.RpcMethodHandler:
        """Returns a handler that gRPC treats as a stream in both directions.

        gRPC therefore does not read a message before it is asked for one.
        """

        def answer(stream: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[Any]:
            with answering(context):
                name = self._caller(context)
                with self._calls.of(name, context, lambda: self._caller(context)) as call:
                    data = next(call.following(stream), b"")
                    if len(data) > _MAX_MESSAGE:
                        raise errors.OrderRefused(
                            f"received a message of {len(data)} bytes; "
                            f"at most {_MAX_MESSAGE} are accepted"
                        )
                    try:
                        decoded = request.FromString(data)
                    except DecodeError as error:
                        raise errors.OrderRefused(
                            "a message cannot be read; install the same release at both ends"
                        ) from error
                    return iter((method(name, decoded),))

        return grpc.stream_stream_rpc_method_handler(answer, None, reply.SerializeToString)

    def _check_credential(self, metadata: conversion.Presented) -> str:
        name, secret = conversion.presented_credential(metadata)
        if name == OPERATOR:
            self._credentials.current().check_operator(secret)
        else:
            self._credentials.current().check(name, secret)
        return name

    def _caller(self, context: grpc.ServicerContext) -> str:
        """Returns the caller, if the certificate of the connection bears the credential's name."""
        name, _ = conversion.presented_credential(context.invocation_metadata())
        owner, certificate = tls.caller(context)
        self._credentials.current().check_certificate(certificate)
        if owner != name:
            raise errors.CertificateRefused(
                f"the certificate is that of {owner!r}, the credential of {name!r}; "
                "use one kit, whole"
            )
        return name

    def _probe(self, name: str, request: pb.ProbeRequest) -> pb.ProbeReply:
        size, plan = self._api.model_facts()
        lines, head = self._api.log_head()
        return pb.ProbeReply(
            time=self._clock(),
            protocol=PROTOCOL,
            release=release.version(),
            standing=OPERATOR if name == OPERATOR else self._api.standing(name),
            model_bytes=size,
            plan_json=json.dumps(plan),
            log_lines=lines,
            log_head=head,
        )

    def _status(self, name: str, request: pb.StatusRequest) -> pb.StatusReply:
        return pb.StatusReply(status_json=text_of(self._api.status()))

    def _order(self, name: str, request: pb.OrderRequest) -> pb.OrderReply:
        if request.kind not in ORDERS:
            raise errors.OrderRefused(
                f"unknown order {request.kind[:40]!r}; expected one of {', '.join(ORDERS)}"
            )
        return pb.OrderReply(answer=self._api.order(request.kind, request.site, request.round))
