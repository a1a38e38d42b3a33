"""Hosts in network namespaces on one bridge, each with its own address and hosts file."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import subprocess
from collections.abc import Iterator, Mapping

PREFIX = "10.77.0."


def why_not() -> str:
    """Returns why namespaces cannot be created here, or "" if they can."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "network namespaces need root"
    for program in ("ip", "mount", "ss"):
        if shutil.which(program) is None:
            return f"the program {program!r} is not installed"
    name = f"fedtry{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"no network namespace can be made here: {made.stderr.strip()}"
    bridge = subprocess.run(
        ["ip", "-n", name, "link", "add", "name", "bridge0", "type", "bridge"],
        capture_output=True,
        text=True,
        check=False,
    )
    subprocess.run(["ip", "netns", "del", name], check=True)
    return f"no bridge can be made here: {bridge.stderr.strip()}" if bridge.returncode else ""


class Host:
    """One host: starts commands in its own network, with its own hosts file."""

    def __init__(
        self,
        namespace: str,
        hosts_file: pathlib.Path,
        folder: pathlib.Path,
        environment: Mapping[str, str],
    ):
        self._namespace, self._hosts_file = namespace, hosts_file
        self.folder, self._environment = folder, dict(environment)

    def start(self, commands: str, log: pathlib.Path, **environment: str) -> subprocess.Popen:
        """Starts shell commands in the host's folder and in their own process group.

        Their output is appended to `log`.
        """
        # `ip netns exec` makes a new mount namespace, in which this replaces only the host's file.
        inside = 'mount --bind "$0" /etc/hosts && exec sh -euc "$1"'
        with open(log, "ab") as stream:
            return subprocess.Popen(
                [
                    "ip",
                    "netns",
                    "exec",
                    self._namespace,
                    "sh",
                    "-c",
                    inside,
                    str(self._hosts_file),
                    commands,
                ],
                cwd=self.folder,
                env={**os.environ, **self._environment, **environment},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def listening(self) -> str:
        """Returns the listening TCP sockets of this host, one per line."""
        return subprocess.run(
            ["ip", "netns", "exec", self._namespace, "ss", "-ltnH"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()


@contextlib.contextmanager
def hosts(
    folder: pathlib.Path, names: Mapping[str, Mapping[str, str]], environment: Mapping[str, str]
) -> Iterator[tuple[dict[str, Host], dict[str, str]]]:
    """Creates hosts, and removes them at the end; yields (name -> host, name -> address).

    Args:
      folder: folder in which each host gets a folder of its name.
      names: host -> its hosts file: DNS name -> the host that this name means there.
      environment: added to the environment of every command.
    """
    stem = f"fed{os.getpid()}"
    address = {name: f"{PREFIX}{number}" for number, name in enumerate(names, start=1)}
    net, made = f"{stem}net", []

    def ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)

    try:
        ip("netns", "add", net)
        made.append(net)
        ip("-n", net, "link", "add", "name", "bridge0", "type", "bridge")
        ip("-n", net, "link", "set", "bridge0", "up")
        result = {}
        for number, (name, known) in enumerate(names.items()):
            namespace = f"{stem}h{number}"
            ip("netns", "add", namespace)
            made.append(namespace)
            ip(
                "-n",
                net,
                "link",
                "add",
                f"v{number}",
                "type",
                "veth",
                "peer",
                "name",
                "eth0",
                "netns",
                namespace,
            )
            ip("-n", net, "link", "set", f"v{number}", "master", "bridge0", "up")
            ip("-n", namespace, "addr", "add", f"{address[name]}/24", "dev", "eth0")
            ip("-n", namespace, "link", "set", "eth0", "up")
            ip("-n", namespace, "link", "set", "lo", "up")
            (folder / name).mkdir(parents=True)
            file = folder / f"{name}.hosts"
            lines = [
                "127.0.0.1 localhost",
                *(f"{address[meant]} {dns}" for dns, meant in known.items()),
            ]
            file.write_text("\n".join(lines) + "\n")
            result[name] = Host(namespace, file, folder / name, environment)
        yield result, address
    finally:
        for namespace in reversed(made):
            subprocess.run(["ip", "netns", "del", namespace], check=False, capture_output=True)
