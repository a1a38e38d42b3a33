"""What the audit program prints of a log in segments."""

import subprocess
import sys

from federated.audit import log as audit_log


def test_what_was_removed_is_told(tmp_path):
    log = audit_log.AuditLog(tmp_path / "events.jsonl", segment_bytes=2000, keep_segments=1)
    for number in range(1, 13):
        fields = {"sha256": f"{number:064d}"}
        log.append("pushed", site="C1", round=number, counts_in=number, num_examples=3, **fields)
        updates = {"C1": fields["sha256"]}
        log.append("aggregated", round=number, sites={"C1": 3}, updates=updates, **fields)
    found = subprocess.run(
        [sys.executable, "-m", "experiments.audit", f"--store={tmp_path}"],
        capture_output=True,
        text=True,
        check=False,
    )
    first = next(log.read())
    lines, rounds = first["line"] - 1, first["carried"]["round"]
    assert found.returncode == 0, found.stderr
    assert f"{log.head[0]} lines in " in found.stdout and 0 < rounds < 12
    assert (
        f"removed by the server's setting: lines 1 to {lines}, with all rounds up to {rounds};"
        in (found.stdout)
    )
