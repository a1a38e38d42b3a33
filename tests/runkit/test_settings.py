import dataclasses
from typing import Literal

import pytest

from runkit import settings
from runkit.settings import Condition, at_least, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class Oven:
    degrees: int = setting(180, "Temperature in Celsius.", condition=at_least(50))
    mode: Literal["top", "bottom", "fan"] = setting("top", "Where the heat comes from.")
    light: str = setting("off", "Lamp.", choices=("on", "off"))
    trays: tuple[str, ...] = setting(
        (), "Trays in use.", condition=Condition(lambda trays: len(trays) < 2, "at most one")
    )
    serial: str = "x1"

    def __post_init__(self):
        settings.check(self)


def test_a_setting_has_its_default_and_its_documentation():
    assert Oven() == Oven(degrees=180, mode="top", light="off", trays=(), serial="x1")
    assert list(settings.declared(Oven)) == ["degrees", "mode", "light", "trays"]
    assert settings.declared(Oven)["degrees"].help == "Temperature in Celsius."


def test_a_setting_of_another_class_keeps_its_default_help_and_rule():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Kitchen:
        degrees: int = settings.same_as(Oven, "degrees")

    assert Kitchen().degrees == 180
    assert settings.declared(Kitchen)["degrees"] == settings.declared(Oven)["degrees"]
    assert Oven().degrees == 180  # the field of the class it comes from is as it was


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"degrees": 49}, "degrees is 49; expected at least 50"),
        ({"mode": "side"}, "mode is 'side'; expected 'top', 'bottom' or 'fan'"),
        ({"light": "dim"}, "light is 'dim'; expected 'on' or 'off'"),
        ({"trays": ("a", "b")}, "trays is 'a,b'; expected at most one"),
    ],
)
def test_a_value_against_its_rule_is_named_with_what_is_expected(change, message):
    with pytest.raises(ValueError) as caught:
        Oven(**change)
    assert str(caught.value) == message
