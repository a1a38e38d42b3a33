"""Flags made from a dataclass, and the dataclass made from the flags."""

import dataclasses
from typing import Literal

import pytest
from absl import flags

from experiments import setting_flags
from runkit.settings import setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class Camera:
    """One field of each kind that settings have, and one that is not a setting."""

    shots: int = setting(3, "Number of pictures.")
    exposure_s: float = setting(0.5, "Exposure time.", flag="exposure")
    limit_s: float | None = setting(None, "Time limit; 0 for none.", flag="limit", unset=0.0)
    colour: bool = setting(True, "Take colour pictures.")
    lens: Literal["wide", "tele"] = setting("wide", "Which lens.")
    mount: str = setting("old", "Which mount.", choices=("old", "new"))
    size: tuple[int, int] = setting((640, 480), "Width,height in pixels.")
    gain: tuple[float, float, float] = setting((1.0, 0.25, -2), "Gain of red,green,blue.")
    tags: tuple[str, ...] = setting((), "Words to store.")
    serial: str = "unknown"


@pytest.fixture
def given():
    return flags.FlagValues()


def test_flags_without_arguments_give_the_defaults(given):
    names = setting_flags.define(Camera, into=given)
    assert names == [
        "shots",
        "exposure",
        "limit",
        "colour",
        "lens",
        "mount",
        "size",
        "gain",
        "tags",
    ]
    given(["program"])
    assert Camera(**setting_flags.values(Camera, given)) == Camera()
    assert given["limit"].default == 0.0 and given["gain"].default == ["1.0", "0.25", "-2"]
    assert given["lens"].help.endswith("Which lens.")


def test_arguments_become_values_of_the_fields_types(given):
    setting_flags.define(Camera, into=given)
    given(
        [
            "program",
            "--shots=5",
            "--exposure=2",
            "--limit=7.5",
            "--nocolour",
            "--lens=tele",
            "--size=10,20",
            "--gain=1,2,3e-1",
            "--tags=a,b",
        ]
    )
    assert Camera(**setting_flags.values(Camera, given)) == Camera(
        shots=5,
        exposure_s=2.0,
        limit_s=7.5,
        colour=False,
        lens="tele",
        size=(10, 20),
        gain=(1.0, 2.0, 0.3),
        tags=("a", "b"),
    )


def test_chosen_fields_alone(given):
    assert setting_flags.define(Camera, ["lens", "shots"], into=given) == ["lens", "shots"]
    given(["program", "--shots=1"])
    found = setting_flags.values(Camera, given, ["lens", "shots"])
    assert found == {"lens": "wide", "shots": 1} and "colour" not in given


@pytest.mark.parametrize("size", ["10", "10,20,30", "10,ten"])
def test_a_list_of_another_length_or_kind_is_named(given, size):
    setting_flags.define(Camera, into=given)
    given(["program", f"--size={size}"])
    with pytest.raises(ValueError, match=rf"^size is '{size}'; expected 2 numbers separated"):
        setting_flags.values(Camera, given)
