"""A bad line: forwards TCP slowly and with a delay, and drops the first connections part-way.

    python -m tests.deployment.link --listen=10.77.0.4:8443 --to=10.77.0.1:8443

Replaces `tc netem` and `tbf` on kernels that have neither.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import socket
import threading
import time


class Line:
    """Forwards connections.

    Args:
      rate: bytes per second, in each direction.
      delay_s: added to every piece.
      cut_after: bytes in one direction after which a connection is dropped.
      cuts: how many connections are dropped.
    """

    def __init__(
        self, target: tuple[str, int], *, rate: float, delay_s: float, cut_after: int, cuts: int
    ):
        self._target, self._rate, self._delay_s, self._cut_after = target, rate, delay_s, cut_after
        self._left = itertools.count(cuts, -1)
        self.dropped = 0

    def serve(self, listener: socket.socket) -> None:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=self._join, args=(connection,), daemon=True).start()

    def _join(self, near: socket.socket) -> None:
        with (
            contextlib.suppress(OSError),
            near,
            socket.create_connection(self._target, timeout=10) as far,
        ):
            far.settimeout(None)
            pumps = [
                threading.Thread(target=self._pump, args=ends, daemon=True)
                for ends in ((near, far), (far, near))
            ]
            for pump in pumps:
                pump.start()
            for pump in pumps:
                pump.join()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(2**15):
                time.sleep(self._delay_s + len(data) / self._rate)
                sink.sendall(data)
                passed += len(data)
                if passed > self._cut_after and next(self._left) > 0:
                    self.dropped += 1
                    print(f"dropped connection {self.dropped} after {passed} bytes", flush=True)
                    break
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen", required=True)
    parser.add_argument("--to", required=True)
    parser.add_argument("--rate", type=float, default=10e6)
    parser.add_argument("--delay_ms", type=float, default=1.0)
    parser.add_argument("--cut_after", type=int, default=10**6)
    parser.add_argument("--cuts", type=int, default=3)
    given = parser.parse_args()
    (host, port), (target, target_port) = given.listen.rsplit(":", 1), given.to.rsplit(":", 1)
    line = Line(
        (target, int(target_port)),
        rate=given.rate,
        delay_s=given.delay_ms / 1000,
        cut_after=given.cut_after,
        cuts=given.cuts,
    )
    with socket.create_server((host, int(port))) as listener:
        print("passing on", flush=True)
        line.serve(listener)


if __name__ == "__main__":
    main()
