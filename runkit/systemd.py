"""Reports a service's state to systemd by the sd_notify protocol: a datagram to its socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping


def notify(state: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Sends e.g. "READY=1" or "STATUS=round 3"; returns whether systemd received it.

    Never raises: a failed report must not stop the service.
    """
    name = environ.get("NOTIFY_SOCKET", "")
    if not name:
        return False
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.sendto(state.encode("utf-8"), "\0" + name[1:] if name.startswith("@") else name)
    except OSError:
        return False
    return True
