"""The operator's side door of a server: probe, status and orders, each call checked on its headers before a message is read."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, Protocol

import grpc
from absl import logging

from federated import errors, tls, wire
from federated import operation_pb2 as pb
from federated.answering import Answering, turned_away
from federated.credentials import CredentialBook
from federated.exchange import PROTOCOL
from runkit import printable, release

PREFIX = "/federation_operation.Operation/"
OPERATOR = "operator"
ORDERS = ("pause", "resume", "evict", "admit", "finish", "finish_now")


class Desk(Protocol):
    """What the operator can see and do, e.g. `control_desk.ControlDesk`."""

    def standing(self, site: str) -> str:
        """Returns how a site stands: "admitted", "welcome" (it may log in), "evicted" or "full"."""

    def model_facts(self) -> tuple[int, dict]:
        """Returns (bytes of the model, the plan)."""

    def log_head(self) -> tuple[int, str]:
        """Returns (lines of the run's log, hash of the last one)."""

    def status(self) -> dict[str, Any]:
        """Returns the whole picture as JSON-able values."""

    def order(self, kind: str, site: str) -> str:
        """Carries an order out and returns what came of it. Raises OrderRefused."""


class OperationGate(grpc.ServerInterceptor):
    """Answers the calls of this service and lets all others pass.

    Args:
      desk: carries the calls out.
      credentials: whose callers' credentials are known.
      clock: seconds since the epoch.
    """

    def __init__(self, desk: Desk, credentials: CredentialBook, *, clock: Callable[[], float] = time.time):
        self._desk, self._credentials, self._clock = desk, credentials, clock
        self._handlers = {
            "Probe": grpc.unary_unary_rpc_method_handler(self._probe, pb.ProbeRequest.FromString, pb.ProbeReply.SerializeToString),
            "Status": grpc.unary_unary_rpc_method_handler(self._status, pb.StatusRequest.FromString, pb.StatusReply.SerializeToString),
            "Order": grpc.unary_unary_rpc_method_handler(self._order, pb.OrderRequest.FromString, pb.OrderReply.SerializeToString),
        }

    def intercept_service(self, continuation: Callable, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        if not details.method.startswith(PREFIX):
            return continuation(details)
        method = details.method[len(PREFIX) :]
        try:
            name = self._check_credential(details.invocation_metadata)
            if method != "Probe" and name != OPERATOR:
                raise errors.WrongCredential(f"site {name!r} is not the operator; use the operator's kit of this federation")
        except errors.FederationError as error:
            logging.info("event=refused error=%s %s", type(error).__name__, printable.text(error))
            return turned_away(error)
        return self._handlers.get(method)

    def _check_credential(self, metadata: Any) -> str:
        name, secret = wire.presented_credential(metadata)
        if name == OPERATOR:
            self._credentials.check_operator(secret)
        else:
            self._credentials.check(name, secret)
        return name

    def _caller(self, context: grpc.ServicerContext) -> str:
        """Returns who calls, once the certificate of the connection is found to bear the name of the credential."""
        name, _ = wire.presented_credential(context.invocation_metadata())
        owner, certificate = tls.caller(context)
        self._credentials.check_certificate(certificate)
        if owner != name:
            raise errors.CertificateRefused(f"the certificate is that of {owner!r}, the credential of {name!r}; use one kit, whole")
        return name

    def _probe(self, request: pb.ProbeRequest, context: grpc.ServicerContext) -> pb.ProbeReply:
        with Answering(context):
            name = self._caller(context)
            size, plan = self._desk.model_facts()
            lines, head = self._desk.log_head()
            return pb.ProbeReply(
                time=self._clock(),
                protocol=PROTOCOL,
                release=release.version(),
                standing=OPERATOR if name == OPERATOR else self._desk.standing(name),
                model_bytes=size,
                plan_json=json.dumps(plan),
                log_lines=lines,
                log_head=head,
            )

    def _status(self, request: pb.StatusRequest, context: grpc.ServicerContext) -> pb.StatusReply:
        with Answering(context):
            self._caller(context)
            return pb.StatusReply(status_json=json.dumps(self._desk.status(), allow_nan=False))

    def _order(self, request: pb.OrderRequest, context: grpc.ServicerContext) -> pb.OrderReply:
        with Answering(context):
            self._caller(context)
            if request.kind not in ORDERS:
                raise errors.OrderRefused(f"there is no order {request.kind[:40]!r}; there are {', '.join(ORDERS)}")
            return pb.OrderReply(answer=self._desk.order(request.kind, request.site))
