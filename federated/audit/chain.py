"""Reads the event log and checks its chain.

Each line has the hash of the previous one, rounds are signed by the server, and segments follow one
another. `federated.audit.log` writes the log.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import os
import pathlib
import re
from collections.abc import Iterator
from typing import cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from federated.rounds.log_lines import LogLine
from federated.security import certificates
from runkit import atomic, formats, log_segments
from runkit.log_segments import CONTINUED

# Stated by "started" and by the first line of a segment; raise it when earlier releases can no
# longer read a new log.
FORMAT = 2
FIRST = "0" * 64  # `previous` of the first line
SIGNED = frozenset({"aggregated", "round_discarded", "finished", CONTINUED})
_LINE = re.compile(
    rb'(?P<text>\{.*), "hash": "(?P<hash>[0-9a-f]{64})"'
    rb'(, "signature": "(?P<signature>[A-Za-z0-9+/=]+)")?\}\n'
)


class BrokenChain(ValueError):
    """The log, or a file that it describes, was changed; `line` is the first to show it.

    `segment` is the file of the damaged full segment, None for any other fault.
    """

    def __init__(self, line: int, why: str, *, segment: str | None = None):
        where = f" (in {segment})" if segment and segment not in why else ""
        super().__init__(f"line {line}: {why}{where}")
        self.line, self.segment = line, segment


def read_chain(
    path: str | os.PathLike, authority: x509.Certificate | None = None
) -> Iterator[LogLine]:
    """Yields the records of a log after checking each; skips half a line at the end.

    Args:
      authority: certificate of the federation's authority; if given, the end of a round must be
        signed by the key of a server that it certified.
    Raises:
      BrokenChain: at the first line that was changed, moved, removed or inserted.
      ValueError: if a newer release wrote the log.
    """
    path = pathlib.Path(path)
    head, last, server = FIRST, 0, None
    name: str | None = None  # name of the full segment that is read
    ends: dict[int, tuple[int, str]] = {}  # segment -> its last line and that line's hash
    for number, segment, line in _segments(path):
        before, name = name, None if segment is None else _name(segment)
        place = {"segment": name}
        first = number is not None
        due = last + 1
        if not line.endswith(b"\n"):
            if segment is None:
                return
            raise BrokenChain(due, "is not whole", **place)
        record, found = _checked(line, due, place)
        if first and number != 1 and last == 0:  # earlier segments have been removed
            head, due = record["previous"], record["line"]
        if record["previous"] != head or record["line"] != due:
            ended = f", with which {before} ends" if first and before else ""
            raise BrokenChain(
                due,
                f"does not follow line {last}{ended}: lines were removed, inserted or moved",
                **place,
            )
        opening = record if record["event"] == "log_continued" else None
        if first and number != (opening["segment"] if opening else 1):
            raise BrokenChain(due, f"does not begin segment {number} of the log", **place)
        if opening:
            ends[opening["segment"] - 1] = last or due - 1, head
            removed = opening.get("removed")
            told = ends.get(removed["segments"]) if removed else None
            if removed and told not in (None, (removed["lines"], removed["head"])):
                raise BrokenChain(due, "says that other lines were removed than are missing")
        if record["event"] == "started" or record["event"] == "log_continued":
            formats.refuse_newer(path, record.get("format"), FORMAT)
        if authority is not None and record["event"] == "started":
            server = _certificate_of(record.get("certificate", ""), due, authority)
        if authority is not None and opening and last == 0:
            server = _certificate_of(opening["carried"].get("certificate", ""), due, authority)
        if (
            authority is not None
            and record["event"] in SIGNED
            and not _signed_by(server, found["hash"], found["signature"])
        ):
            raise BrokenChain(
                due, f"{record['event']!r} is not signed by the server's key", **place
            )
        head, last = found["hash"].decode("ascii"), due
        yield cast(LogLine, {**record, "hash": head})


def _checked(
    line: bytes, number: int, place: dict[str, str | None]
) -> tuple[LogLine, re.Match[bytes]]:
    """Returns the record of a line and its parts. Raises BrokenChain unless its hash matches."""
    found = _LINE.fullmatch(line)
    if not found:
        raise BrokenChain(number, "is not a chained event", **place)
    if hashlib.sha256(found["text"]).hexdigest().encode("ascii") != found["hash"]:
        raise BrokenChain(number, "was changed: its hash does not fit", **place)
    return cast(LogLine, json.loads(found["text"] + b"}")), found


def _segments(path: pathlib.Path) -> Iterator[tuple[int | None, pathlib.Path | None, bytes]]:
    """Yields (segment, file, line) for each line of a log.

    The segment is its number at its first line, else None; the file is that of the full segment,
    None for the newest.

    Raises:
      BrokenChain: if a segment is damaged, or is missing without the log saying that it was
        removed.
    """
    # The newest segment first, because a running server may replace it.
    with atomic.naming(path), open(path, "rb") as stream:
        opening = stream.readline()
        full = log_segments.archived(path)
        newest, removed = _opened_by(opening, full)
        start = newest
        while start - 1 in full:
            start -= 1
        if start - 1 > removed:
            missing = log_segments.archive_path(path, start - 1)
            raise BrokenChain(
                _first_line(opening if start == newest else next(log_segments.lines(full[start]))),
                f"follows segment {_name(missing)}, which is missing; put it back from a backup",
                segment=_name(missing),
            )
        for number in range(start, newest):
            last = 0
            try:
                for count, line in enumerate(log_segments.lines(full[number])):
                    last = max(last, _first_line(line))
                    yield (None if count else number), full[number], line
            except ValueError as error:
                raise BrokenChain(last + 1, str(error), segment=_name(full[number])) from error
            if not last:
                raise BrokenChain(last + 1, "the segment is empty", segment=_name(full[number]))
        for count, line in enumerate(itertools.chain([opening] if opening else [], stream)):
            yield (None if count else newest), None, line


def _opened_by(line: bytes, full: dict[int, pathlib.Path]) -> tuple[int, int]:
    """Returns the newest segment's number by its first line, and how many segments were removed.

    A line that was changed is ignored here: it is checked later, in its turn.
    """
    try:
        record, _ = _checked(line, 1, {})
    except BrokenChain:
        return max(full, default=0) + 1, max(min(full, default=1) - 1, 0)
    if record["event"] != "log_continued":
        return 1, 0
    removed = record.get("removed")
    return record["segment"], removed["segments"] if removed else 0


def _name(segment: pathlib.Path) -> str:
    return f"{segment.parent.name}/{segment.name}"


def _first_line(line: bytes) -> int:
    """Returns the number that a line states, 0 if it does not state one."""
    found = re.search(rb', "line": (\d{1,15}), "previous": "', line)
    return int(found[1]) if found else 0


def _certificate_of(pem: str, line: int, authority: x509.Certificate) -> x509.Certificate:
    """Returns the certificate that a server logged at its start.

    Args:
      pem: the certificate, "" if none was logged.
      line: number of the line that has it.

    Raises:
      BrokenChain: unless the authority issued it to a server.
    """
    try:
        certificate = certificates.load(pem.encode("ascii"))
    except ValueError as error:
        raise BrokenChain(line, "a server started without a certificate") from error
    if not certificates.is_issued_by(certificate, authority) or not certificates.hosts_of(
        certificate
    ):
        raise BrokenChain(
            line, "the authority did not issue the certificate of this server to a server"
        )
    return certificate


def _signed_by(
    certificate: x509.Certificate | None, digest: bytes, signature: bytes | None
) -> bool:
    key = None if certificate is None else certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not signature:
        return False
    try:
        key.verify(base64.b64decode(signature), digest, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError):
        return False
    return True
