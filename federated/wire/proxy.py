"""The connection to a server: direct, or through the proxy that gRPC chooses by its own rules.

gRPC reads `grpc_proxy`, `https_proxy` and `http_proxy`, in lower case only; the first that is set
counts, even if it is empty. It speaks plain HTTP to a proxy, so with any scheme but `http://` it
connects directly. It percent-decodes credentials in the address and assumes 443 for a missing port.
`no_grpc_proxy`, or else `no_proxy`, lists suffixes of host names, and networks for a server that is
given by address. A proxy is never used for loopback: `channel_options` ensures that.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import ipaddress
import re
import socket
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from federated.wire import addresses

_PROXY_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")  # in gRPC's order
_EXEMPTIONS = ("no_grpc_proxy", "no_proxy")
_ADDRESS = re.compile(
    r"http://(?:(?P<secret>[^/?#@]*)@)?(?P<host>\[[^\]/?#@]*\]|[^/?#@:]+)"
    r"(?::(?P<port>\d{1,5}))?(?:[/?#].*)?"
)
_PORT = 443


class ProxyRefused(OSError):
    """A proxy answered, but did not connect."""


class Proxy(NamedTuple):
    """A proxy, and the variable that names it. `secret` is "user:password" or empty."""

    variable: str
    host: str
    port: int
    secret: str


@dataclasses.dataclass(frozen=True)
class ServerEndpoint:
    """The address of the server and how to reach it.

    Attributes:
      environ: environment variables with the proxy settings.
      timeout_s: time limit for each step.
    """

    host: str
    port: int
    environ: Mapping[str, str] = dataclasses.field(default_factory=dict)
    timeout_s: float = 5.0

    @property
    def address(self) -> str:
        return addresses.joined(self.host, self.port)

    @property
    def proxy(self) -> Proxy | None:
        """Returns the proxy that gRPC uses, or None if it connects directly."""
        if addresses.is_loopback(self.host) or self._is_exempt():
            return None
        variable = self._variable()
        return _parsed(variable, self.environ[variable]) if variable else None

    @property
    def passed_over(self) -> list[tuple[str, str]]:
        """Returns the proxy settings that gRPC ignores for this server.

        Each is (setting and reason, remedy or "" if nothing is wrong). The texts never contain the
        value of a variable, which may hold a password.
        """
        variable, found = self._variable(), []
        if variable and self.environ[variable]:
            if addresses.is_loopback(self.host):
                found.append(
                    (f"{variable} does not apply to {self.host}, which is this machine", "")
                )
            elif self._is_exempt():
                found.append(
                    (
                        f"{variable} does not apply to {self.host}, "
                        f"which {self._exemptions()[0]} lists",
                        "",
                    )
                )
            elif _parsed(variable, self.environ[variable]) is None:
                wanted = "gRPC accepts only http://host:port, and connects directly otherwise"
                found.append(
                    (
                        f"{variable} is not used: {wanted}",
                        f"write {variable}=http://host:port, even for an https proxy",
                    )
                )
        for name in (*_PROXY_VARIABLES, *_EXEMPTIONS):
            if self.environ.get(name.upper()) and name not in self.environ:
                found.append(
                    (
                        f"{name.upper()} is not used: gRPC reads {name}, in lower case",
                        f"set {name} too",
                    )
                )
        return found

    def _variable(self) -> str | None:
        return next((variable for variable in _PROXY_VARIABLES if variable in self.environ), None)

    def _exemptions(self) -> tuple[str, str]:
        return next(
            ((name, self.environ[name]) for name in _EXEMPTIONS if name in self.environ), ("", "")
        )

    def _is_exempt(self) -> bool:
        return any(
            _covers(entry.strip(), addresses.plain(self.host))
            for entry in self._exemptions()[1].split(",")
            if entry
        )

    @contextlib.contextmanager
    def connected(self) -> Iterator[socket.socket]:
        """Opens a TCP connection to the server. Raises OSError; ProxyRefused is one."""
        proxy = self.proxy
        if proxy is None:
            with socket.create_connection(
                (addresses.plain(self.host), self.port), timeout=self.timeout_s
            ) as plain:
                yield plain
            return
        with socket.create_connection((proxy.host, proxy.port), timeout=self.timeout_s) as plain:
            login = (
                f"Proxy-Authorization: Basic {base64.b64encode(proxy.secret.encode()).decode()}\r\n"
                if proxy.secret
                else ""
            )
            plain.sendall(
                f"CONNECT {self.address} HTTP/1.1\r\nHost: {self.address}\r\n{login}\r\n".encode()
            )
            answer = b""
            while b"\r\n\r\n" not in answer and len(answer) < 2**16:
                piece = plain.recv(1)  # bytes after the answer are the server's
                if not piece:
                    break
                answer += piece
            status = answer.split(b"\r\n", 1)[0].decode("latin-1")
            if not re.match(r"HTTP/1\.\d 2\d\d\b", status):
                raise ProxyRefused(status or "nothing")
            yield plain


def channel_options(host: str) -> tuple[tuple[str, int], ...]:
    """Returns the channel options that make gRPC reach this machine without a proxy."""
    return (("grpc.enable_http_proxy", 0),) if addresses.is_loopback(host) else ()


def _parsed(variable: str, value: str) -> Proxy | None:
    """Returns the proxy that a variable names, or None if gRPC cannot use it."""
    found = _ADDRESS.fullmatch(value)
    if not found or (found["port"] and int(found["port"]) > 65535):
        return None
    host, secret = urllib.parse.unquote(found["host"]), urllib.parse.unquote(found["secret"] or "")
    return Proxy(variable, addresses.plain(host), int(found["port"] or _PORT), secret)


def _covers(entry: str, host: str) -> bool:
    """Returns whether an entry of no_proxy covers a host.

    An entry is a suffix of the host's name or a network that contains its address.
    """
    if host.lower().endswith(entry.lower()):
        return True
    try:
        return "/" in entry and ipaddress.ip_address(host) in ipaddress.ip_network(
            entry, strict=False
        )
    except ValueError:
        return False
