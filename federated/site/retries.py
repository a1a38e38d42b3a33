"""A transport that keeps trying: waits while the server is down, logs in again if necessary."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from absl import logging

from federated import errors
from federated.site.transport import Transport
from federated.wire.messages import Session
from runkit import backoff, printable

Result = TypeVar("Result")

# Transfers of one call that arrive damaged, in all. TLS already protects against errors of the
# line, so what fails this often is damaged, or too large, at one of the two ends.
MAX_DAMAGED = 20


class Persistent:
    """Wraps a transport: has the same methods, which return once the server has answered.

    Args:
      transport: the transport that carries the calls.
      plan, num_examples, labels: sent with each login.
      pauses: returns the sequence of pauses, in seconds, for one call.
      pause: waits for that many seconds; a parameter, so that tests need not wait.
      on_retry: called with the error each time a call is tried again.
      on_login: called with the session of each login, also of one in the middle of another call;
        what it raises ends the call.
    Raises (any method): the error with which the server refused the call; never ServerUnreachable,
    DamagedTransfer, StorageTrouble, TooManyCalls or SessionExpired. ServerMisbehaves if transfers
    of one call were damaged MAX_DAMAGED times.
    """

    def __init__(
        self,
        transport: Transport,
        plan: dict[str, Any],
        num_examples: int,
        *,
        labels: Mapping[str, str] | None = None,
        pauses: Callable[[], Iterator[float]] = backoff.pauses,
        pause: Callable[[float], object] = time.sleep,
        on_retry: Callable[[errors.FederationError], None] = lambda error: None,
        on_login: Callable[[Session], None] = lambda session: None,
    ):
        self._transport, self._plan = transport, plan
        self._num_examples, self._labels = num_examples, labels
        self._pauses, self._pause = pauses, pause
        self._on_retry, self._on_login = on_retry, on_login
        # Pauses between logins, from one that a call needed to the next call that needs none.
        self._between_logins: Iterator[float] | None = None

    def login(self) -> Session:
        session = self._trying(
            "login",
            lambda: self._transport.login(self._plan, self._num_examples, self._labels),
            may_log_in=False,
        )
        self._on_login(session)
        return session

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._transport, name)

        @functools.wraps(method)
        def trying(*given: Any, **named: Any) -> Any:
            return self._trying(name, lambda: method(*given, **named))

        setattr(self, name, trying)  # found there from now on
        return trying

    def _trying(self, name: str, call: Callable[[], Result], *, may_log_in: bool = True) -> Result:
        pauses, logged_in, damaged = self._pauses(), False, 0
        while True:
            try:
                result = call()
            except errors.SessionExpired as error:
                if not may_log_in:
                    raise
                # A server that voids all tokens immediately must not be called without a pause.
                if self._between_logins is not None:
                    self._wait(name, next(self._between_logins), error)
                else:
                    self._on_retry(error)
                    self._between_logins = self._pauses()
                self.login()
                logged_in = True
            except errors.RETRYABLE as error:
                damaged += isinstance(error, errors.DamagedTransfer)
                if damaged == MAX_DAMAGED:
                    raise errors.ServerMisbehaves.because(
                        f"and this site failed {damaged} times to transfer what the call {name} "
                        f"carries ({printable.text(error)})"
                    ) from error
                self._wait(name, next(pauses), error)
            else:
                if may_log_in and not logged_in:
                    self._between_logins = None
                return result

    def _wait(self, name: str, wait_s: float, error: errors.FederationError) -> None:
        if isinstance(error, errors.CertificateOutOfDate):  # only a person can end this wait
            logging.error(
                "event=certificate_out_of_date call=%s wait_s=%.2f reason=%s",
                name,
                wait_s,
                printable.text(error),
            )
        else:
            logging.warning(
                "event=retry call=%s wait_s=%.2f reason=%s", name, wait_s, printable.text(error)
            )
        self._on_retry(error)
        self._pause(wait_s)
