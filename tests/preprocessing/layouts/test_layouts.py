"""The table of layouts."""

from preprocessing import layouts


def test_every_layout_can_be_loaded():
    for name in layouts.MODULES:
        assert callable(layouts.load(name).find), name
