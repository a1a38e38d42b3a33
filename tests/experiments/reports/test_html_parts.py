"""Parts of pages: escaped text, tables, histograms."""

import base64
import io
import re

import matplotlib.image
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from experiments.reports import html_parts
from tests.experiments.test_foreign_text import NASTY
from tests.federated.conftest import initial, kits, serving  # noqa: F401 - fixtures


def test_names_in_a_report_page():
    assert "\u202e" not in html_parts.text(NASTY) and "\x1b" not in html_parts.table(
        ["a", "b"], [[NASTY, NASTY]]
    )


def test_text_is_escaped_and_columns_of_numbers_are_right():
    table = html_parts.table(["name", "count#"], [["a<b>", 3]])
    assert "<th>name</th><th class=number>count</th>" in table
    assert "<td>a&lt;b&gt;</td><td class=number>3</td>" in table
    page = html_parts.page("A & B", "<sub>", "<p>kept</p>")
    assert "<title>A &amp; B</title>" in page and "&lt;sub&gt;" in page and "<p>kept</p>" in page


def test_a_document_has_its_style_and_what_else_its_head_needs_before_its_body():
    page = html_parts.document("A", "<p>b</p>", style="p {}", head='<link rel="icon">\n')
    parts = ("<!doctype html>", '<link rel="icon">', "<title>A</title>", "p {}", "<p>b</p>")
    assert sorted(parts, key=page.index) == list(parts) and page.endswith("</html>\n")


def test_a_picture_in_a_page_is_the_picture():
    pixels = np.zeros((16, 24, 3), np.uint8)
    pixels[:, 12:] = (255, 255, 255)
    encoded = re.search(r"base64,([^\"]+)", html_parts.picture(pixels))[1]
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))))
    assert shown.shape == (16, 24, 3)
    assert np.abs(shown.astype(int) - pixels).mean() < 5  # JPEG


def test_bars_are_as_high_as_their_counts_and_the_axis_has_the_edges():
    drawn = html_parts.histogram([0, 10, 20, 30], [[1, 4, None], [2, 0, 2]], unit="ml")
    heights = [float(found) for found in re.findall(r'<rect[^>]* height="([\d.]+)"', drawn)]
    assert heights[1] == 4 * heights[0] > 0 and heights[2] == 0
    assert drawn.count("<polyline") == 1
    assert re.findall(r">([\d.]+ ml)<", drawn) == ["0 ml", "15 ml", "30 ml"]


def test_a_figure_is_a_picture_inside_the_page_with_words_for_it():
    figure = Figure(figsize=(1, 1), dpi=20)
    found = html_parts.drawing(figure, "a < b")
    data = re.search(r'alt="a &lt; b".*src="data:image/png;base64,([^"]+)"', found)[1]
    assert matplotlib.image.imread(io.BytesIO(base64.b64decode(data))).shape == (20, 20, 4)
