import html
import json
import pathlib
import re

import numpy as np
import pytest

from experiments.reports import table1_report
from experiments.studies import html_report, study_results
from runkit import atomic
from tests.experiments import browser, run_folder

DOCS = pathlib.Path(__file__).parents[3] / "docs"

needs_browser = pytest.mark.skipif(browser.missing() is not None, reason=str(browser.missing()))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run with its sites' prepared cases and masks at hand."""
    folder = tmp_path_factory.mktemp("run")
    run_folder.leave_traces(folder)
    run_folder.leave_cases(folder)
    table1_report.write_table(
        folder,
        table1_report.document(
            run_folder.rows(),
            {
                "profile": "demo",
                "seed": 2,
                "stack": "s",
                "configuration": run_folder.CONFIGURATION,
                "wall_seconds": {"cohort": 61.0},
                "notes": ["Data: </script><b>not a tag</b>"],
            },
        ),
    )
    return folder


def joint(run, pictures="synthetic"):
    return html_report.study_page(study_results.of_one_run(run, pictures), run)


def test_a_page_loads_nothing_else(run):
    page = joint(run)
    addresses = re.findall(r"""(?:(?:src|href)=["']|url\()([^"')>\s]+)""", page)
    assert [a for a in addresses if not a.startswith(("#", "data:", "${"))] == []
    assert set(re.findall(r"https?://[^\"'` <]+", page)) == {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in page
    assert "</script><b>" not in page  # a note cannot end the script


def test_pictures_of_a_private_cohort_stay_at_the_sites(run):
    private = joint(run, "private")
    assert "data:image/" not in private and "Each site has its own page" in private
    # CT, truth, two models; two test cases of C1, three of C2
    assert joint(run).count("data:image/") == 4 * (2 + 3)
    page = html_report.site_page(run, "C1", run_folder.rows())
    assert page.count("data:image/") == 4 * 2
    for text in (private, joint(run), page):
        assert "SECRET" not in text and str(run) not in text  # no identifier, no path


def test_the_page_of_a_study_with_184_cases_is_small(tmp_path):
    rng = np.random.default_rng(1)
    rows = []
    for model in (
        *run_folder.DICE,
        "FL_best_global",
        "pooled",
        "finetuned_C1_to_C2",
        "finetuned_C2_to_C1",
        "FL_global_no_vae",
    ):
        for site, count in (("C1", 84), ("C2", 100)):
            for case in range(1, count + 1):
                for grid in ("training", "native"):
                    row = {
                        "model": model,
                        "site": site,
                        "case": case,
                        "grid": grid,
                        "truth_ml_pancreas": 70.0,
                    }
                    row |= {
                        "truth_ml_tumour": 9.0 * (site == "C2"),
                        "dice_pancreas": rng.uniform(),
                        "volume_ml_pancreas": rng.uniform(),
                    }
                    row |= {
                        "dice_tumour": rng.uniform() if site == "C2" else None,
                        "volume_ml_tumour": rng.uniform(),
                    }
                    rows.append(row)
    table1_report.write_table(
        tmp_path,
        table1_report.document(
            rows,
            {"profile": "demo", "seed": 1, "stack": "s", "configuration": {}, "wall_seconds": {}},
        ),
    )
    content = study_results.of_one_run(tmp_path)
    page = html_report.study_page(
        {
            **content,
            "cases": [{**row, "seed": seed} for row in content["cases"] for seed in (1, 2, 3)],
        },
        tmp_path,
    )
    assert len(page) < 4e6  # three seeds, numbers alone; 20 MB with pictures
    found = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S).group(1))
    assert len(found["cases"]["rows"]) == 10 * 184 * 2 * 3 and found["cases"]["rows"][0][
        5
    ] == round(content["cases"][0]["dice_pancreas"], 4)


@pytest.fixture(scope="module")
def window():
    with browser.Browser() as window:
        yield window


def opened(window, page, folder):
    path = folder / "page.html"
    atomic.write_text(path, page)
    window.size(1280, 900)
    window.open(path.as_uri())
    window.wait_for(
        "return !document.getElementById('browser') || "
        "document.getElementById('browser').dataset.ready !== undefined"
    )
    assert window.messages() == []


CHOOSE = (
    "const s = document.getElementById(arguments[0]); s.value = arguments[1]; "
    "s.dispatchEvent(new Event('change')); return s.value"
)
OPTIONS = "return [...document.getElementById(arguments[0]).options].map(o => o.value)"


@needs_browser
def test_every_control_of_the_joint_page_works_without_console_messages(run, window, tmp_path):
    opened(window, joint(run), tmp_path)
    watched = {
        "table-grid": "table",
        "table-seed": "table",
        "verdict-filter": "verdicts",
        "case-measure": "cases",
        "case-grid": "cases",
        "case-seed": "cases",
        "pair-x": "pairs",
        "pair-y": "pairs",
        "timeline-run": "timeline",
        "timeline-round": "timeline",
        "curve-run": "curves",
        "curve-part": "curves",
    }
    present = window.run("return [...document.querySelectorAll('select')].map(s => s.id)")
    assert set(present) == {*watched, "browser-case"}
    for control, place in watched.items():
        drawn = {}
        for option in window.run(OPTIONS, control):
            assert window.run(CHOOSE, control, option) == option
            drawn[option] = window.run(
                "return document.getElementById(arguments[0]).innerHTML", place
            )
            assert (
                drawn[option] and "NaN" not in drawn[option] and "undefined" not in drawn[option]
            ), (control, option)
        if control in (
            "table-grid",
            "verdict-filter",
            "case-measure",
            "case-grid",
            "pair-y",
            "curve-part",
        ):
            assert len(set(drawn.values())) > 1, control
        window.run(CHOOSE, control, next(iter(drawn)))
    # FL_global: 80 on C1 by hand, 40 on the native grid
    cell = (
        "return document.querySelector('#table tr[data-row=FL_global] "
        "td:nth-child(2)').firstChild.textContent"
    )
    assert window.run(cell) == "80.0"
    window.run(CHOOSE, "table-grid", "native")
    assert window.run(cell) == "40.0"
    # a curve and a dot a model, beside the table of patients: C2_baseline marks a tumour in every
    # one of five
    drawn = "return [...document.querySelectorAll('#froc ' + arguments[0])].length"
    assert window.run(drawn, "path") == window.run(drawn, "circle") == 5
    cells = (
        "return [...document.querySelectorAll('#s-patients tr')].map(r => "
        "[...r.children].map(c => c.textContent)).find(r => r[0] === 'C2_baseline')"
    )
    assert [cell.split(",")[0] for cell in window.run(cells)[1:3]] == ["3 of 3", "0 of 2"]
    states = [
        window.run(
            "document.getElementById('theme').click(); "
            "return document.documentElement.dataset.theme || 'auto'"
        )
        for _ in range(3)
    ]
    assert states == ["light", "dark", "auto"]
    assert (
        window.run(
            "let printed = 0; window.print = () => printed++; "
            "document.getElementById('print').click(); return printed"
        )
        == 1
    )
    tip = (
        "document.querySelector('#cases .dot').dispatchEvent(new MouseEvent('mousemove', "
        "{clientX: 9, clientY: 9})); return document.getElementById('tip').textContent"
    )
    assert "case 1, seed 2" in window.run(tip)
    assert window.messages() == []


PIXELS = """
return [...document.querySelectorAll('#browser-panels canvas')].map(k => {
  const d = k.getContext('2d').getImageData(0, 0, k.width, k.height).data;
  let blue = 0, yellow = 0;
  for (let i = 0; i < d.length; i += 4) {
    if (d[i + 2] > d[i] + 40) blue++;
    if (d[i] > d[i + 2] + 40) yellow++;
  }
  return [blue, yellow];
})"""


@needs_browser
def test_the_slice_browser_shows_masks_moves_and_hides_them(run, window, tmp_path):
    opened(window, html_report.site_page(run, "C2", run_folder.rows()), tmp_path)
    names = window.run(
        "return [...document.querySelectorAll('#browser-panels figcaption "
        "span:first-child')].map(s => s.textContent)"
    )
    assert names == ["CT", "truth", "C1_baseline", "FL_global"]
    ct, truth, without, same = window.run(PIXELS)
    assert ct == [0, 0] and min(truth) > 0 and same == truth and without == [truth[0], 0]
    set_box = (
        "const b = document.getElementById(arguments[0]); b.checked = arguments[1]; "
        "b.dispatchEvent(new Event('change'))"
    )
    window.run(set_box, "browser-tumour", False)
    assert window.run(PIXELS)[1] == [truth[0], 0]
    window.run(set_box, "browser-pancreas", False)
    assert window.run(PIXELS)[1] == [0, 0]
    window.run(set_box, "browser-pancreas", True)
    window.run(set_box, "browser-outline", True)
    assert 0 < window.run(PIXELS)[1][0] < truth[0]
    window.run(set_box, "browser-outline", False)
    slide = (
        "const s = document.getElementById(arguments[0]); s.value = arguments[1]; "
        "s.dispatchEvent(new Event('input'))"
    )
    window.run(slide, "browser-opacity", 0)
    position = "return document.getElementById('browser-position').textContent"
    before = window.run(position)
    window.run(slide, "browser-slice", 0)
    assert window.run(position).startswith("1 of ") and window.run(position) != before
    window.run(
        "document.querySelector('#browser-panels canvas').dispatchEvent(new "
        "WheelEvent('wheel', {deltaY: 5, cancelable: true}))"
    )
    assert window.run(position).startswith("2 of ")
    for index, _ in enumerate(window.run(OPTIONS, "browser-case")):
        window.run(CHOOSE, "browser-case", str(index))
        window.wait_for(f"return document.getElementById('browser').dataset.ready === '{index}'")
    assert window.messages() == []


@needs_browser
def test_the_page_adapts_to_dark_mode_phones_and_paper(run, window, tmp_path):
    opened(window, joint(run), tmp_path)
    colours = "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]"
    light = window.run(colours)
    window.media(scheme="dark")
    dark = window.run(colours)
    assert light[0] == "rgb(255, 255, 255)" and sum(
        map(int, re.findall(r"\d+", dark[0]))
    ) < 150 < sum(map(int, re.findall(r"\d+", dark[1])))
    window.media(scheme="dark", media="print")
    assert window.run(colours)[0] == "rgb(255, 255, 255)"  # paper is white whatever the screen is
    assert window.run("return getComputedStyle(document.querySelector('.bar')).display") == "none"
    assert window.pdf().startswith(b"%PDF")
    window.media()
    window.size(390, 800)
    assert window.run("return document.documentElement.scrollWidth") <= 390
    assert window.messages() == []


@needs_browser
def test_a_partial_study_and_a_sweep_are_drawn_too(window, tmp_path):
    empty = {
        "name": "s",
        "profile": "demo",
        "seeds": [1],
        "pictures": "private",
        "axis": None,
        "notes": [],
        "table": {},
        "native": {},
        "verdicts": [],
        "cases": [],
        "runs": [],
    }
    opened(window, html_report.study_page(empty, tmp_path), tmp_path)
    point = {
        "label": "5",
        "table": study_results.table([]),
        "wall_seconds": None,
        "bytes": None,
        "runs": 0,
    }
    sweep = {
        **{k: v for k, v in empty.items() if k not in ("table", "native", "verdicts", "cases")},
        "axis": "local epochs",
        "sweep": [point],
    }
    opened(window, html_report.study_page(sweep, tmp_path), tmp_path)
    assert "Local epochs" in window.run("return document.body.textContent")


@pytest.mark.parametrize("name", ["bad_site", "leakage", "methods", "privacy"])
def test_whatever_a_study_finds_is_on_its_page_as_in_its_markdown(name, tmp_path):
    content = {"cases": [], **atomic.read_json(DOCS / "results" / f"{name}.json")}
    headings = re.findall(r"(?m)^##+ (.+)$", study_results.markdown(content))
    shown = html.unescape(html_report.study_page(content, tmp_path))
    assert len(headings) > 2
    for heading in headings:
        assert re.search(rf"<h[23]>{re.escape(heading)}</h[23]>", shown), heading
