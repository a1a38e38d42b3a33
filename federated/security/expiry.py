"""Warns of certificates before they end: at the start of server and site, in the status, and by the
doctor.
"""

from __future__ import annotations

import datetime
import os
import pathlib

from cryptography import x509

from federated.security import certificates


def warnings(kit: str | os.PathLike, now: datetime.datetime | None = None) -> list[str]:
    """Returns a line for every certificate of a kit that ends within 30 days or has ended; a
    damaged one is left to the doctor.
    """
    now, lines = now or datetime.datetime.now(datetime.timezone.utc), []
    for path in sorted(pathlib.Path(kit).glob("*.pem")):
        try:
            days = certificates.days_left(x509.load_pem_x509_certificate(path.read_bytes()), now)
        except (OSError, ValueError):
            continue
        if days < certificates.WARN_DAYS:
            when = f"ends in {days:.0f} days" if days > 0 else f"ended {-days:.0f} days ago"
            way_out = (
                "provision the federation again" if path.name == "ca.pem" else "have it renewed"
            )
            lines.append(f"{path.name}: the certificate {when}; {way_out}")
    return lines
