"""The way to a server: straight, or through the proxy that gRPC would take."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import ipaddress
import socket
import urllib.parse
from collections.abc import Iterator, Mapping

_PROXY_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")  # in the order in which gRPC looks at them


class ProxyRefused(OSError):
    """A proxy that answers, but not with 200."""


@dataclasses.dataclass(frozen=True)
class Way:
    """Where the server is and how to get there.

    Attributes:
      environ: for the proxy's settings.
      timeout_s: of every step.
    """

    host: str
    port: int
    environ: Mapping[str, str] = dataclasses.field(default_factory=dict)
    timeout_s: float = 5.0

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def proxy(self) -> tuple[str, str, int, str] | None:
        """Returns (variable, host, port, user:password) of the proxy that gRPC would use, None where it would use none."""
        for entry in (self.environ.get("no_grpc_proxy") or self.environ.get("no_proxy") or "").split(","):
            if entry.strip() and _covers(entry.strip(), self.host):
                return None
        for variable in _PROXY_VARIABLES:
            if self.environ.get(variable):
                url = urllib.parse.urlsplit(self.environ[variable])
                secret = f"{url.username}:{url.password or ''}" if url.username else ""
                return variable, url.hostname or "", url.port or 80, secret
        return None

    @contextlib.contextmanager
    def connected(self) -> Iterator[socket.socket]:
        """Opens a TCP connection to the server. Raises OSError, ProxyRefused among them."""
        proxy = self.proxy
        if proxy is None:
            with socket.create_connection((self.host, self.port), timeout=self.timeout_s) as plain:
                yield plain
            return
        _, host, port, secret = proxy
        with socket.create_connection((host, port), timeout=self.timeout_s) as plain:
            login = f"Proxy-Authorization: Basic {base64.b64encode(secret.encode()).decode()}\r\n" if secret else ""
            plain.sendall(f"CONNECT {self.address} HTTP/1.1\r\nHost: {self.address}\r\n{login}\r\n".encode("ascii"))
            answer = b""
            while b"\r\n\r\n" not in answer and len(answer) < 2**16:
                piece = plain.recv(4096)
                if not piece:
                    break
                answer += piece
            status = answer.split(b"\r\n", 1)[0].decode("latin-1")
            if status.split(" ")[1:2] != ["200"]:
                raise ProxyRefused(status or "nothing")
            yield plain


def _covers(entry: str, host: str) -> bool:
    """Returns whether an entry of no_proxy covers a host: a suffix, an address or a network."""
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        suffix = entry.lstrip("*.").lower()
        return host.lower() == suffix or host.lower().endswith("." + suffix) or entry == "*"
