"""The flags that programs share, checked."""

import dataclasses

import pytest
from absl import app, flags

from experiments import flags as experiment_flags
from experiments import setting_flags
from runkit.settings import at_least, check, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class Camera:
    shots: int = setting(3, "Number of pictures.", condition=at_least(1))
    lens: str = setting("wide", "Which lens.", choices=("wide", "tele"))

    def __post_init__(self):
        check(self)


@pytest.fixture
def given(monkeypatch):
    values = flags.FlagValues()
    monkeypatch.setattr(experiment_flags, "FLAGS", values)
    return values


def test_settings_come_from_their_flags_and_a_wrong_one_is_named_as_a_flag(given):
    setting_flags.define(Camera, into=given)
    given(["program", "--shots=5"])
    assert experiment_flags.settings_of(Camera) == Camera(shots=5)
    given["shots"].value = 0
    with pytest.raises(app.UsageError, match="--shots is 0; expected at least 1"):
        experiment_flags.settings_of(Camera)


def test_a_required_flag_and_named_files_are_told_apart_from_missing_ones(given, tmp_path):
    flags.DEFINE_string("output", None, "Where.", flag_values=given)
    flags.DEFINE_list("models", [], "Which.", flag_values=given)
    (tmp_path / "m").write_bytes(b"")
    given(["program", f"--models=one:{tmp_path / 'm'}"])
    with pytest.raises(app.UsageError, match="--output is missing: the folder"):
        experiment_flags.required("output", "the folder")
    assert experiment_flags.named_files("models") == {"one": tmp_path / "m"}
    given["models"].value = ["two:absent"]
    with pytest.raises(app.UsageError, match="--models has 'two:absent'; expected name:file"):
        experiment_flags.named_files("models")
