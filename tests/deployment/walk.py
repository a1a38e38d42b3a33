"""A deployment from the first key to the audit: a server and two hospitals in separate networks.

    sudo .venv/py3.11/bin/python -m tests.deployment.walk --folder=/var/tmp/walk
        runs the real programs on synthetic scans; with --toys, the same without TensorFlow, in
        seconds

Every command comes from the guides (docs/hospital-guide.md, docs/federation.md). This program does
what people do between commands: it copies files, compares fingerprints, stops and starts programs.
The second hospital's line is slow and drops connections.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from federated.audit import verification
from federated.security import provisioning
from runkit import private
from tests import waiting
from tests.deployment import guide, network

ROOT = pathlib.Path(__file__).parents[2]
HOSPITALS = {"C1": "hospital1", "C2": "hospital2"}
_TOY_FLAGS = "--num_rounds=1000\n"  # the operator's order ends it
_REAL_FLAGS = (
    "--num_rounds=1000\n--local_epochs=1\n--patches_per_case=1\n--batch_size=2\n--filters=4\n"
    "--inference_window=48,48,48\n"
)


class Walk:
    """One walk through the guides.

    Args:
      folder: created if missing. Each host's files are in a folder of its name, and the output of
        its programs in `<host>.<step>.log`.
      toys: whether to replace the programs that need TensorFlow by toys.
      say: called with a text about each step.
    """

    def __init__(self, folder: pathlib.Path, *, toys: bool, say: Callable[[str], None] = print):
        self._folder, self._toys, self._say = folder, toys, say
        self._steps = guide.steps()
        self.used: set[str] = set()
        self._running: list[subprocess.Popen] = []
        self._noted: list[str] = []  # the head of the server's log that each hospital noted
        self._timeout_s = 120.0 if toys else 900.0

    def run(self) -> None:
        """Walks through the guides.

        Raises:
          AssertionError: if something does not go as the guides say; with the program's output.
        """
        self._folder.mkdir(parents=True)
        program = f"{sys.executable} -m tests.deployment.stand_in" if self._toys else sys.executable
        environment = {
            "P": program,
            "PYTHONPATH": str(ROOT),
            "GRPC_VERBOSITY": "NONE",
            "OMP_NUM_THREADS": "1",
        }
        names = {
            "server": {"fl.example.org": "server"},
            "operator": {"fl.example.org": "server"},
            "hospital1": {"fl.example.org": "server"},
            "hospital2": {"fl.example.org": "line"},
            "line": {},
        }
        with (
            network.hosts(self._folder, names, environment) as (self._hosts, self._address),
            contextlib.ExitStack() as stack,
        ):
            stack.callback(self._end)
            self._walk()

    def _walk(self) -> None:
        settings = (ROOT / "experiments" / "flagfiles" / "demo.flags").read_text() + (
            _TOY_FLAGS if self._toys else _REAL_FLAGS
        )
        for host in ("server", "operator", *HOSPITALS.values()):
            self._path(host, "study.flags").write_text(settings)
        if not self._toys:
            self._scans()
        self._enrol()
        self._serve_and_join()
        self._steer()
        self._renew()
        self._stop_and_go_on()
        self._finish()
        self._revoke()

    def _enrol(self) -> None:
        self._began = time.monotonic()
        spoken = {}
        for site, host in HOSPITALS.items():
            output = self._do(host, "hospital request", SITE=site)
            spoken[site] = _fingerprint(output)
            self._carry(host, "kit/site.csr", "operator", f"{site}.csr")
        output = self._do("operator", "operator fingerprints")
        for site, fingerprint in spoken.items():
            assert fingerprint in output, (
                f"the operator does not see the fingerprint that {site} reads out:\n{output}"
            )
        self._authority = _fingerprint(
            self._do("operator", "operator provision"), "authority's fingerprint"
        )
        for site, host in HOSPITALS.items():
            self._carry("operator", f"federation/{site}", host, "answer")
            secrets = [
                path.name
                for path in self._path(host, "answer").iterdir()
                if path.suffix == ".key" or path.name == "credential"
            ]
            assert not secrets, f"{secrets} travelled"
            if host == "hospital1":
                self._exchanged_on_the_way(site, host)
            output = self._do(host, "hospital answer", AUTHORITY=self._authority)
            assert self._authority in output, output
        self._carry("operator", "federation/server", "server", "kit")
        self._carry("operator", "initial.safetensors", "server", "initial.safetensors")

    def _exchanged_on_the_way(self, site: str, host: str) -> None:
        """An attacker answers in place of the operator; the fingerprint reveals it."""
        forged = provisioning.provision(
            self._folder / "somebody",
            "attacker.example",
            (),
            requests=[self._path(host, "kit/site.csr")],
            port=8443,
        )
        genuine = self._path(host, "answer").rename(self._path(host, "genuine"))
        shutil.copytree(forged / site, self._path(host, "answer"))
        output = self._do(host, "hospital answer", code=1, AUTHORITY=self._authority)
        assert "is not the authority with the fingerprint" in output, output
        shutil.rmtree(self._path(host, "answer"))
        genuine.rename(self._path(host, "answer"))

    def _serve_and_join(self) -> None:
        output = self._do("hospital1", "hospital doctor", code=1)
        assert "nothing is listening on fl.example.org:8443" in output, output
        self._do("server", "server doctor")
        self._server = self._serve()
        self._line = self._hosts["line"].start(
            f"exec {sys.executable} -m tests.deployment.link "
            f"--listen={self._address['line']}:8443 --to={self._address['server']}:8443",
            self._log("line", "line"),
        )
        self._running.append(self._line)
        self._until(lambda: "passing on" in self._said("line", "line"), "the line", self._line)
        for host in HOSPITALS.values():
            self._do(host, "hospital prepare")
            output = self._do(host, "hospital doctor")
            self._noted.append(re.search(r"server's log +line \d+, ([0-9a-f]{32})", output)[1])
        self._sites = {host: self._start(host, "hospital join") for host in HOSPITALS.values()}
        self._until(
            lambda: self._events().count('"event": "aggregated"') >= 1,
            "the first round",
            *self._sites.values(),
        )
        self._say(
            f"the first round is averaged {time.monotonic() - self._began:.0f} s after the first "
            "command"
        )
        for host in HOSPITALS.values():
            assert not self._hosts[host].listening(), (
                f"{host} listens: {self._hosts[host].listening()}"
            )

    def _steer(self) -> None:
        output = self._do("operator", "operator status")
        assert re.search(r"^C1 +\w+ +\d+ ", output, re.MULTILINE) and "C2" in output, output
        self._do("operator", "operator pause")
        assert "paused" in self._do("operator", "operator status")
        self._do("operator", "operator resume")

    def _renew(self) -> None:
        self._do("hospital1", "hospital renew")
        self._carry("hospital1", "kit/site.csr", "operator", "C1.csr")
        self._do("operator", "operator renew")
        self._carry("operator", "federation/C1", "hospital1", "answer")
        self._do("hospital1", "hospital renewed")
        self._carry("operator", "federation/server", "server", "kit")
        self._stop(self._sites["hospital1"], signal.SIGTERM)
        self._sites["hospital1"] = self._start("hospital1", "hospital join")
        self._do("hospital1", "hospital doctor")

    def _stop_and_go_on(self) -> None:
        done = self._events().count('"event": "aggregated"')
        self._stop(self._server, signal.SIGKILL)
        self._stop(self._sites["hospital2"], signal.SIGKILL)
        self._server = self._serve()
        self._sites["hospital2"] = self._start("hospital2", "hospital join")
        self._until(
            lambda: self._events().count('"event": "aggregated"') >= done + 2,
            "rounds after the kills",
            *self._sites.values(),
        )

    def _finish(self) -> None:
        self._do("operator", "operator finish")
        for host, site in self._sites.items():
            assert self._wait(site) == 0, self._said(host, "hospital join")
        assert self._wait(self._server) == 0, self._said("server", "server serve")
        output = self._do("server", "server audit")
        assert (
            "unbroken, signed by the server" in output and "to the same bits: rounds" in output
        ), output
        for head in self._noted:
            verification.verify(self._path("server", "store"), head=head)
        assert "dropped connection" in self._said("line", "line"), (
            "the bad line has dropped nothing"
        )
        folders = [
            "server/store",
            "server/kit",
            "operator/federation",
            *(f"{h}/{f}" for h in HOSPITALS.values() for f in ("kit", "site")),
        ]
        open_ones = [
            path for folder in folders for path in private.open_to_others(self._folder / folder)
        ]
        assert not open_ones, f"other accounts can read {', '.join(map(str, open_ones))}"
        rows = [
            json.loads(line)
            for line in self._path("server", "store/rows.jsonl").read_text().splitlines()
        ]
        assert {row["site"] for row in rows} == set(HOSPITALS), "rows of a site are missing"
        assert list(self._path("server", "scalars").glob("events.out.tfevents.*")), (
            "nothing for TensorBoard"
        )

    def _revoke(self) -> None:
        shutil.move(self._path("server", "store"), self._path("server", "store_of_the_first_run"))
        server = self._revoke_server(self._serve())
        self._do("hospital2", "hospital doctor")
        self._do("operator", "operator revoke")
        self._carry(
            "operator", "federation/server/credentials.json", "server", "kit/credentials.json"
        )
        output = self._do("hospital2", "hospital doctor", code=1)
        assert "or the site was revoked" in output, output
        self._do("hospital1", "hospital doctor")
        self._stop(server, signal.SIGTERM)

    def _revoke_server(self, server: subprocess.Popen) -> subprocess.Popen:
        """Returns the server with its new key, after checking that the old one is refused."""
        shutil.copytree(self._path("server", "kit"), self._path("server", "stolen"))
        self._do("operator", "operator revokeserver")
        self._carry("operator", "federation/server", "server", "kit")
        self._stop(server, signal.SIGTERM)
        assert "stopped; run the same command again to resume" in self._said(
            "server", "server serve"
        )
        shutil.rmtree(self._path("hospital1", "site/federated"))  # the first run's
        server = self._serve()
        site = self._start("hospital1", "hospital join")
        self._until(
            self._path("hospital1", "site/federated/revoked.crl").is_file,
            "the news of the revocation",
            site,
        )
        self._stop(site, signal.SIGTERM)
        self._do("hospital1", "hospital doctor")
        self._do("operator", "operator status")
        self._stop(server, signal.SIGTERM)
        self._path("server", "kit").rename(self._path("server", "new_kit"))
        self._path("server", "stolen").rename(self._path("server", "kit"))
        server = self._serve()
        output = self._do("hospital1", "hospital doctor", code=1)
        assert "revoked by the operator" in output, output
        self._stop(server, signal.SIGTERM)
        self._path("server", "kit").rename(self._path("server", "stolen"))
        self._path("server", "new_kit").rename(self._path("server", "kit"))
        return self._serve()

    def _scans(self) -> None:
        for site, host in HOSPITALS.items():
            self._say(f"{host}: synthetic scans")
            subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "experiments.synthesize",
                    f"--site={site}",
                    "--cases=5",
                    f"--output={self._path(host, 'scans')}",
                ],
                cwd=ROOT,
                check=True,
                stdout=subprocess.DEVNULL,
            )

    def _serve(self) -> subprocess.Popen:
        before = self._said("server", "server serve").count("serving on port 8443")
        server = self._start("server", "server serve")
        self._until(
            lambda: self._said("server", "server serve").count("serving on port 8443") > before,
            "the server",
            server,
        )
        return server

    def _do(self, host: str, step: str, *, code: int = 0, **environment: str) -> str:
        """Runs a step of the guide to its end; returns its output."""
        already = len(self._said(host, step))
        process = self._start(host, step, **environment)
        ended, said = self._wait(process), self._said(host, step)[already:]
        assert ended == code, (
            f"{host}: step {step!r} ended with {ended}, not {code}\n{self._steps[step]}\n{said}"
        )
        return said

    def _start(self, host: str, step: str, **environment: str) -> subprocess.Popen:
        self._say(f"{host}: {step}")
        self.used.add(step)
        process = self._hosts[host].start(self._steps[step], self._log(host, step), **environment)
        self._running.append(process)
        return process

    def _wait(self, process: subprocess.Popen) -> int:
        return process.wait(self._timeout_s)

    def _stop(self, process: subprocess.Popen, number: int) -> None:
        """Signals a step's programs and waits until all of them have ended, not just the shell."""
        deadline = time.monotonic() + 30.0
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        process.wait(30)
        while _is_running(process.pid) and time.monotonic() < deadline:
            time.sleep(0.02)

    def _end(self) -> None:
        for process in self._running:
            if process.poll() is None:
                self._stop(process, signal.SIGKILL)

    def _until(
        self,
        condition: Callable[[], bool],
        what: str,
        process: subprocess.Popen,
        *others: subprocess.Popen,
    ) -> None:
        waiting.until(
            condition,
            process,
            *others,
            told=lambda: f"{what} did not come; see {self._folder}",
            seconds=self._timeout_s,
        )

    def _carry(self, source: str, what: str, target: str, name: str) -> None:
        self._say(f"{source} -> {target}: {what}")
        origin, place = self._path(source, what), self._path(target, name)
        if origin.is_dir():
            shutil.copytree(origin, place, dirs_exist_ok=True)
        else:
            shutil.copy(origin, place)

    def _path(self, host: str, name: str) -> pathlib.Path:
        return self._folder / host / name

    def _log(self, host: str, step: str) -> pathlib.Path:
        return self._folder / f"{host}.{step.replace(' ', '_')}.log"

    def _said(self, host: str, step: str) -> str:
        log = self._log(host, step)
        return log.read_text(errors="replace") if log.exists() else ""

    def _events(self) -> str:
        log = self._path("server", "store/events.jsonl")
        return log.read_text() if log.exists() else ""


def _is_running(group: int) -> bool:
    """Returns whether a process group has a running process; a zombie does not count."""
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended while we looked
            state, _, its_group = path.read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group and state not in "ZX":
                return True
    return False


def _fingerprint(output: str, what: str = "fingerprint") -> str:
    found = re.search(rf"{what} ((?:[0-9a-f]{{4}} ){{7}}[0-9a-f]{{4}})", output)
    assert found, f"no fingerprint in:\n{output}"
    return found[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--folder", required=True, type=pathlib.Path, help="made by the walk; must not exist yet"
    )
    parser.add_argument(
        "--toys", action="store_true", help="replace the programs that need TensorFlow by toys"
    )
    given = parser.parse_args()
    reason = network.why_not()
    if reason:
        sys.exit(f"error: {reason}")
    began = time.monotonic()
    walk = Walk(given.folder.absolute(), toys=given.toys)
    walk.run()
    print(
        f"every step of the guides, {time.monotonic() - began:.0f} s; "
        f"the output of each program is in {given.folder}"
    )


if __name__ == "__main__":
    main()
