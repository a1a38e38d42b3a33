"""Colours that everybody can tell apart, and figures without a display."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from experiments import figures


@pytest.mark.parametrize("colour_vision", ["full", "red-blind", "green-blind", "none"])
def test_pancreas_and_tumour_can_be_told_apart_with_any_colour_vision(colour_vision):
    # Viénot et al. 1999 (dichromats, linear RGB); "none" sees luminance alone.
    matrix = {
        "full": np.eye(3),
        "red-blind": [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
        "green-blind": [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
        "none": [[0.2126, 0.7152, 0.0722]] * 3,
    }[colour_vision]
    seen = [
        np.asarray(matrix) @ np.power(to_rgb(colour), 2.2)
        for colour in (figures.PANCREAS, figures.TUMOUR)
    ]
    assert np.abs(seen[0] - seen[1]).max() > 0.3


def test_no_figure_needs_a_display_or_uses_pyplot():
    code = (
        "import sys; from experiments import figures; "
        "figures.overview().savefig(__import__('io').BytesIO()); "
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], check=False, env={"PATH": "", "MPLBACKEND": "TkAgg"}
        ).returncode
        == 0
    )
