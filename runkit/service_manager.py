"""Tells systemd how a service is doing (sd_notify's protocol: a datagram to the socket that it
names).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping


def notify(state: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Sends e.g. "READY=1" or "STATUS=round 3"; returns whether a service manager is there to hear
    it. Never fails a service.
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
