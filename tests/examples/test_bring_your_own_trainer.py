"""The code on the page equals the code of the examples."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "bring-your-own-trainer.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"<!-- code: (\S+) -->\n```python\n(.*?)```", PAGE, re.DOTALL)


def test_every_piece_of_code_on_the_page_is_in_the_file_it_names():
    assert PAGE.count("```python") == len(SHOWN) == 3
    for name, code in SHOWN:
        assert code in (ROOT / name).read_text(encoding="utf-8"), f"{name} has other code"


def test_the_trainer_takes_about_thirty_lines():
    (code,) = [code for _, code in SHOWN if code.startswith("class ")]
    assert len([line for line in code.splitlines() if line.strip()]) <= 32
