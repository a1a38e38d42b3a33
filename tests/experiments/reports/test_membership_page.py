import re

from experiments.reports import membership_page
from tests.experiments.figures.test_membership_pictures import entry


def content():
    return {
        "patches": 2,
        "sites": {
            site: {"members": 8, "nonmembers": 120, "references": 1} for site in ("C1", "C2")
        },
        "attacks": [
            {**entry(1, shift=0.0), "round": 2},
            {**entry(2, shift=2.0), "round": 4},
            {**entry(3), "round": 4, "attack": "calibrated"},
            {**entry(4), "model": "C1_FL_local", "round": None, "tpr": None},
        ],
    }


def test_the_table_has_a_row_for_every_attack_with_its_verdict():
    own = content()
    _, rows = membership_page.table(own["attacks"])
    auc = own["attacks"][1]["auc"]
    assert rows[1][:3] == ["FL_global", "4", "loss"]
    assert rows[1][3] == f"{auc['estimate']:.2f} [{auc['low']:.2f}, {auc['high']:.2f}]"
    assert rows[0][-1] == "not found" and rows[1][-1] == "found"
    assert rows[3][1] == rows[3][4] == "–"
    text = membership_page.markdown(own, "Title")
    assert text.startswith("# Title") and "C1: 8 members, 120 non-members, 1 reference" in text
    assert text.count("\n| FL_global |") == 3


def test_the_page_stands_alone_and_shows_each_model_at_its_last_round():
    html = membership_page.html(content(), "Membership <1>")
    assert "Membership &lt;1&gt;" in html and "<script" not in html and "http" not in html
    assert re.findall(r"<h2>(.*?)</h2>", html) == [
        "Attacks",
        "Area under the curve by round",
        "FL_global, round 4",
        "C1_FL_local",
    ]
    assert html.count("data:image/png;base64,") == 1 + 2 * 2
    assert len(re.findall(r'<img alt="[^"]+', html)) == 1 + 2 * 2


def test_only_models_of_several_rounds_are_shown_by_round():
    found = membership_page.series_by_round(content()["attacks"])
    assert list(found) == [("FL_global", "loss")]
    assert [label for label, _ in found[("FL_global", "loss")]] == ["2", "4"]
