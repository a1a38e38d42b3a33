import numpy as np

from experiments.figures import membership_pictures as figures
from experiments.results.statistics import membership_rates
from experiments.results.statistics.membership_rates import Stratum
from tests.experiments.figures.rendered import pixels


def entry(seed=0, shift=1.0):
    rng = np.random.default_rng(seed)
    parts = {
        site: Stratum(rng.normal(shift + place, 1, 8), rng.normal(place, 1, 120))
        for place, site in enumerate(("C1", "C2"))
    }
    return {
        "model": "FL_global",
        "round": 4,
        "attack": "loss",
        **membership_rates.summary(list(parts.values())),
        "scores": {
            site: {"members": list(one.members), "nonmembers": list(one.others)}
            for site, one in parts.items()
        },
    }


def test_members_found_are_those_of_the_curves_weighted_by_members():
    near = Stratum(np.array([3.0]), np.array([1.0, 2.0]))  # found before any other
    far = Stratum(np.array([0.0, 0.0, 3.0]), np.array([1.0, 2.0]))
    found = figures.found_at([near, far], np.array([0.0, 0.49, 0.5, 1.0]))
    np.testing.assert_allclose(found, [2 / 4, 2 / 4, 2 / 4, 1.0])


def test_curves_have_logarithmic_axes_and_the_area_in_the_legend():
    own = entry()
    (axes,) = figures.curves([own], "title").axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    (text,) = [t.get_text() for t in axes.get_legend().get_texts()]
    assert text == f"loss, AUC {own['auc']['estimate']:.2f}"
    assert pixels(figures.curves([own], "title")).std() > 0


def test_the_histogram_shows_shares_of_members_and_non_members():
    (axes,) = figures.histogram(entry(shift=3.0), "title").axes
    heights = [patch.get_height() for patch in axes.patches]
    assert abs(sum(heights[:24]) - 1) < 1e-9 and abs(sum(heights[24:]) - 1) < 1e-9


def test_areas_are_drawn_with_their_intervals_in_the_order_of_the_labels():
    area = {"estimate": 0.7, "low": 0.6, "high": 0.75}
    (axes,) = figures.areas({("", "loss"): [("1", area), ("10", area)]}, "round").axes
    assert [t.get_text() for t in axes.get_xticklabels()] == ["1", "10"]
    (segments,) = [c.get_segments() for c in axes.collections]
    np.testing.assert_allclose(segments[0][:, 1], [0.6, 0.75])


def test_only_areas_of_numbers_are_joined_by_a_line():
    area = {"estimate": 0.7, "low": 0.6, "high": 0.75}
    for labels, style in ((("1", "10"), "-"), (("cases-7", "cases-4"), "None")):
        (axes,) = figures.areas({("", "loss"): [(label, area) for label in labels]}, "axis").axes
        (line,) = [line for line in axes.lines if line.get_marker() == "o"]
        assert line.get_linestyle() == style


def test_two_models_under_one_attack_differ_in_more_than_their_colour():
    area = {"estimate": 0.6, "low": 0.55, "high": 0.7}
    names = [
        ("FL_global", "loss"),
        ("site's update", "loss"),
        ("site's update", "alignment"),
    ]
    (axes,) = figures.areas({name: [("1", area), ("10", area)] for name in names}, "round").axes
    whole, update, alignment = (container.lines[0] for container in axes.containers)
    assert whole.get_color() == update.get_color() != alignment.get_color()
    assert whole.get_linestyle() != update.get_linestyle() == alignment.get_linestyle()
    assert whole.get_marker() != update.get_marker() == alignment.get_marker()
