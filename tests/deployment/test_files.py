"""The example units and the container file start what the guides start."""

import configparser
import re
import shutil
import subprocess

import pytest

from federated.server.config import ServerConfig
from runkit import settings
from tests.deployment import guide

FILES = guide.DOCS / "deployment"
UNITS = {"federation-server.service": "server serve", "federation-site.service": "hospital join"}


def flags(command):
    return set(re.findall(r"--\w+=?[^\s\\]*", command))


def read_unit(unit):
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str
    parser.read(FILES / unit)
    return parser


@pytest.mark.parametrize(("unit", "step"), UNITS.items())
def test_a_unit_starts_the_guides_command(unit, step):
    parser = read_unit(unit)
    command, shown = parser["Service"]["ExecStart"], guide.steps()[step]
    assert re.search(r"-m (\S+)", command)[1] == re.search(r"-m (\S+)", shown)[1]
    assert flags(command) - {"--port=8443"} == flags(shown) - {"--tensorboard=scalars"}
    assert parser["Service"]["NoNewPrivileges"] == "true"


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_starts_again_after_a_kill_or_a_power_cut_however_often(unit):
    parser = read_unit(unit)
    assert parser["Service"]["Restart"] == "on-failure"
    assert parser["Unit"]["StartLimitIntervalSec"] == "0"
    assert parser["Install"]["WantedBy"] == "multi-user.target"


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_understands_the_unit(unit, tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    text = re.sub(
        r"^ExecStart=\S+",
        f"ExecStart={shutil.which('true')}",
        (FILES / unit).read_text(),
        flags=re.MULTILINE,
    )
    (tmp_path / unit).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", tmp_path / unit],
        capture_output=True,
        text=True,
        check=False,
    )
    complaints = [line for line in done.stderr.splitlines() if unit in line]
    assert not complaints, done.stderr


def test_the_container_runs_the_guides_commands_as_an_ordinary_user():
    text = (FILES / "Containerfile").read_text()
    shown = re.sub(r" \\\n#\s+", " ", text)
    for step in UNITS.values():
        module = re.search(r"-m (\S+)", guide.steps()[step])[1]
        command = re.search(rf"{re.escape(module)}[^\n]*", shown)[0]
        assert flags(command) == flags(guide.steps()[step]) - {"--tensorboard=scalars"}
    assert re.search(r"^USER study$", text, re.MULTILINE) and 'ENTRYPOINT ["python", "-m"]' in text
    assert "--read-only --cap-drop=all --security-opt=no-new-privileges" in text


def test_a_server_has_at_most_five_times_to_set():
    declared = settings.declared(ServerConfig).values()
    times = [about.flag for about in declared if about.help.startswith("Seconds")]
    assert 1 <= len(times) <= 5, times
