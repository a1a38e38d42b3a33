import io
import logging
import unicodedata

import pytest

from runkit import printable, progress

FORGED = "x\nI0101 event=pushed site=C2"
FOREIGN = [
    FORGED,
    "\x1b[2J\x1b]0;title\x07",  # clears the screen, names the window
    "100 %\rdone",
    "abc\u202egnp.exe",
    "\u2066isolated\u2069",
    "line\u2028separator\u2029paragraph\x85next",
    "nul\x00 bell\x07 delete\x7f c1\x9b31m",
    "\ud800 half a pair",
    "zero\u200bwidth\ufeff",
]


def harmless(text):
    """Returns whether a text has no control, format, line separator or unassigned character."""
    return all(
        unicodedata.category(character) not in {"Cc", "Cf", "Cs", "Zl", "Zp", "Cn"}
        for character in text
    )


@pytest.mark.parametrize("foreign", FOREIGN)
def test_foreign_text_becomes_one_line_with_visible_escapes(foreign):
    shown = printable.text(foreign)
    assert (
        harmless(shown)
        and shown.encode("ascii", "backslashreplace").decode("unicode_escape") == foreign
    )


@pytest.mark.parametrize(
    "plain", ["", "C1_FL_local", "Tumor 3 mm, Größe „5“ … 膵臓", "C:\\kit\\new", "10\u00a0000"]
)
def test_harmless_text_is_unchanged(plain):
    assert printable.text(plain) == plain and printable.block(plain) == plain


def test_a_long_text_is_visibly_cut():
    shown = printable.text("a" * 10_000, limit=50)
    assert shown == "a" * 50 + "… (cut, 10000 characters)"
    assert len(printable.text("\x1b" * 10_000, limit=50)) < 80  # escapes count too
    assert printable.text("a" * 50, limit=50) == "a" * 50


def test_the_fields_of_an_event_are_one_harmless_line_made_only_if_it_is_printed():
    class Counted:
        made = 0

        def __str__(self):
            Counted.made += 1
            return "a\nb"

    fields = printable.Fields({"round": 3, "change": None, "over": True, "why": Counted()})
    assert not Counted.made
    assert str(fields) == r"round=3 change=None over=True why=a\nb" and Counted.made == 1


def test_a_block_keeps_its_lines_and_indents_all_but_the_first():
    assert printable.block("Traceback:\n  File\tx\nValueError: " + FORGED) == (
        "Traceback:\n      File\tx\n    ValueError: x\n    I0101 event=pushed site=C2"
    )


@pytest.mark.parametrize("foreign", FOREIGN)
def test_the_log_formatter_makes_foreign_text_harmless(foreign):
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(printable.Formatter(logging.Formatter("%(levelname)s %(message)s")))
    logger = logging.Logger("test")
    logger.addHandler(handler)
    logger.info("event=%s", foreign)
    try:
        raise ValueError(foreign)
    except ValueError:
        logger.exception("failed")
    lines = stream.getvalue().rstrip("\n").split("\n")
    assert all(harmless(line) for line in lines)
    assert [
        line for line in lines if not line.startswith(("INFO event=", "ERROR failed", "    "))
    ] == []
    # a trace stays readable, line by line
    assert any("Traceback (most recent call last)" in line for line in lines)


def test_the_label_of_a_progress_bar_is_one_harmless_line(capsys):
    for _ in progress.bar([1], what=FORGED + "\x1b[2J"):
        pass
    printed = capsys.readouterr().err
    assert "\x1b[2J" not in printed and "\nI0101" not in printed and "\\n" in printed


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([], ""),
        (["a"], "a"),
        (["a", "b"], "a, b"),
        (["a", "b", "c"], "a, b and 1 more"),
        (list("abcdef"), "a, b and 4 more"),
    ],
)
def test_a_long_list_of_names_is_cut_and_the_rest_counted(names, text):
    assert printable.some(names, 2) == text
