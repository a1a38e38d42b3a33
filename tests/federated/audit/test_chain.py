import random

import pytest

from federated.audit import chain, verification
from federated.audit import log as audit_log
from tests.federated.audit.kept_rounds import keep_round


def test_any_flipped_bit_is_found_at_its_line(store, authority):
    path = store / "events.jsonl"
    content = path.read_bytes()
    draw = random.Random(5)
    positions = draw.sample(range(len(content) - 1), 300)
    for position in positions:
        changed = bytearray(content)
        changed[position] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)
        line = content[:position].count(b"\n") + 1
        with pytest.raises(chain.BrokenChain) as caught:
            list(chain.read_chain(path, authority))
        # A flipped line end joins two lines, or splits one: the first of them is named, or the
        # next.
        assert caught.value.line in (line, line + 1)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda lines: lines[:3] + lines[4:], 4),
        (lambda lines: [*lines[:3], lines[4], lines[3], *lines[5:]], 4),
        (lambda lines: [*lines[:3], lines[2], *lines[3:]], 4),
        (lambda lines: lines[1:], 1),
    ],
    ids=["removed", "swapped", "repeated", "first removed"],
)
def test_lines_removed_moved_or_repeated_are_found(store, change, line):
    path = store / "events.jsonl"
    path.write_text("".join(change(path.read_text().splitlines(keepends=True))))
    with pytest.raises(chain.BrokenChain) as caught:
        verification.verify(store)
    assert caught.value.line == line


def test_a_site_cannot_sign_for_the_server(store, authority, kits):
    """A site's certificate is from the same authority, but not for a server."""
    (store / "events.jsonl").unlink()
    log = audit_log.AuditLog(store / "events.jsonl", key=kits / "C1" / "site.key")
    log.append("started", certificate=(kits / "C1" / "site.pem").read_text())
    keep_round(store, log, 1)
    with pytest.raises(
        chain.BrokenChain,
        match="line 1: the authority did not issue the certificate of this server",
    ):
        verification.verify(store, authority)
