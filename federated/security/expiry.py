"""Warnings before certificates expire: when a server or site starts, and in the server's status."""

from __future__ import annotations

import datetime
import os
import pathlib

from federated.security import certificates


def warnings(kit: str | os.PathLike, now: datetime.datetime | None = None) -> list[str]:
    """Returns one line per certificate of a kit that has expired or will within 30 days.

    Damaged certificates are skipped; the doctor reports them.
    """
    now, lines = now or datetime.datetime.now(datetime.timezone.utc), []
    for path in sorted(pathlib.Path(kit).glob("*.pem")):
        try:
            days = certificates.days_left(certificates.load(path.read_bytes()), now)
        except (OSError, ValueError):
            continue
        if days < certificates.WARN_DAYS:
            when = f"expires in {days:.0f} days" if days > 0 else f"expired {-days:.0f} days ago"
            remedy = (
                "provision the federation again" if path.name == "ca.pem" else "have it renewed"
            )
            lines.append(f"{path.name}: the certificate {when}; {remedy}")
    return lines
