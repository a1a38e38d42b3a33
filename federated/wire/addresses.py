"""Hosts and ports as people write them, IPv6 included, and which hosts are this machine."""

from __future__ import annotations

import ipaddress
import re

DEFAULT_PORT = 8443  # of a server


def plain(host: str) -> str:
    """Returns a host as sockets and certificates need it.

    That is without the brackets that an IPv6 address has in "[::1]:8443".
    """
    inside = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    return inside if ":" in inside else host


def check_host(host: str) -> None:
    """Raises ValueError unless a host is a name or an address, without a port or a scheme."""
    try:
        ipaddress.ip_address(plain(host))
    except ValueError:
        if not re.fullmatch(r"(\*\.)?[\w-]+(\.[\w-]+)*\.?", host, re.ASCII):
            raise ValueError(
                f"host is {host!r}; expected a name or an address alone, e.g. fl.example.org, "
                "with the port given separately, and an international name in its form xn--…"
            ) from None


def joined(host: str, port: int) -> str:
    """Returns "host:port" as gRPC and people read it, with brackets around an IPv6 address."""
    host = plain(host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split(text: str) -> tuple[str, int]:
    """Returns the host and port of "host:port", "[::1]:port" or "::1:port". Raises ValueError."""
    host, separator, port = text.rpartition(":")
    host = plain(host)
    if (
        not separator
        or not host
        or set(host) & set("[]/@")
        or not port.isdecimal()
        or not 1 <= int(port) <= 65535
    ):
        raise ValueError(f"{text!r}; expected host:port, e.g. fl.example.org:8443 or [::1]:8443")
    if ":" in host:
        try:
            ipaddress.IPv6Address(host)
        except ValueError as error:
            raise ValueError(
                f"{text!r}, and {host!r} is not an IPv6 address; "
                "expected host:port, e.g. [2001:db8::1]:8443"
            ) from error
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Returns whether a host is this machine, judged by its text alone, without a lookup."""
    host = plain(host)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        name = host.lower().rstrip(".")
        return name == "localhost" or name.endswith(".localhost")
