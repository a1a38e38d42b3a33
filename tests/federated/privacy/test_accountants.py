import builtins
import importlib
import math
import pathlib
import re

import pytest
from scipy import optimize, stats

from federated import errors
from federated.privacy import accountants

pytest.importorskip("dp_accounting", reason="the extra [privacy] is not installed")
DELTA = 1e-5


def closed_form(sigma, delta):
    """Returns the epsilon of one Gaussian release of sensitivity 1 (Balle and Wang 2018, Theorem 8)."""

    def excess(epsilon):
        a, b = 1 / (2 * sigma) - epsilon * sigma, -1 / (2 * sigma) - epsilon * sigma
        return stats.norm.cdf(a) - math.exp(epsilon) * stats.norm.cdf(b) - delta

    return optimize.brentq(excess, 0.0, 600.0, xtol=1e-12)


def renyi(multipliers, delta):
    """Returns the smallest bound over all orders, computed by hand.

    RDP of order a is a / (2 sigma^2) and adds up; it is converted by Proposition 12 of Canonne et
    al. 2020.
    """
    rate = sum(count / (2 * sigma**2) for sigma, count in multipliers.items())

    def bound(order):
        return (
            rate * order
            + math.log1p(-1 / order)
            - (math.log(delta) + math.log(order)) / (order - 1)
        )

    return optimize.minimize_scalar(bound, bounds=(1.001, 1000), method="bounded").fun


@pytest.mark.parametrize("sigma", [0.2, 0.5, 1.0, 3.0, 20.0])
def test_one_release_has_the_epsilon_of_the_closed_form(sigma):
    expected = closed_form(sigma, DELTA)
    assert accountants.analytic({sigma: 1}, DELTA) == pytest.approx(expected, rel=1e-9)
    assert expected <= accountants.rdp({sigma: 1}, DELTA) < 1.4 * expected


@pytest.mark.parametrize("multipliers", [{1.0: 1}, {4.0: 40}, {10.0: 40, 5.0: 3}])
def test_compositions_agree(multipliers):
    """Many releases are one of the noise sigma / sqrt(n): the sum of n independent looks."""
    sigma = 1 / math.sqrt(sum(count / s**2 for s, count in multipliers.items()))
    expected = closed_form(sigma, DELTA)
    assert accountants.analytic(multipliers, DELTA) == pytest.approx(expected, rel=1e-9)
    assert accountants.rdp(multipliers, DELTA) == pytest.approx(renyi(multipliers, DELTA), rel=2e-3)
    found = accountants.pld(multipliers, DELTA)
    assert expected <= found * (1 + 1e-9) and found == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("name", accountants.ACCOUNTANTS)
def test_nothing_costs_nothing(name):
    assert accountants.ACCOUNTANTS[name]({}, DELTA) == 0.0


def test_an_absurd_epsilon_is_stated_or_refused_but_never_too_small():
    little = {1e-3: 100}
    assert accountants.analytic(little, DELTA) > 100 / (2 * 1e-6)
    assert accountants.rdp(little, DELTA) > accountants.analytic(little, DELTA)
    with pytest.raises(errors.PolicyRefused, match=r"'pld' cannot.*use 'analytic'"):
        accountants.pld(little, DELTA)


def test_without_the_package_the_error_names_the_extra(monkeypatch):
    def missing(name, package=None):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(errors.PolicyRefused, match=r"dp-accounting.*'\.\[privacy\]'"):
        accountants.require_package()


def test_the_package_is_only_imported_when_an_epsilon_is_asked_for(monkeypatch):
    real = builtins.__import__

    def guarded(name, *rest):
        assert not name.startswith("dp_accounting")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", guarded)
    importlib.reload(accountants)


PAGE = pathlib.Path(__file__).parents[3] / "docs" / "privacy-policy.md"


def test_the_table_of_noise_on_the_page_holds():
    """With it the budget allows all rounds; with a hundredth less it would not."""
    table = PAGE.read_text(encoding="utf-8").partition("<!-- table: noise -->\n")[2]
    head, _, *lines = table.partition("\n\n")[0].splitlines()
    rounds = [int(text) for text in re.findall(r"(\d+) round", head)]
    assert rounds == [1, 10, 40, 100] and len(lines) == 5
    for line in lines:
        epsilon, *noises = map(float, line.strip("| ").split("|"))
        for number, noise in zip(rounds, noises, strict=True):
            found, less = (
                closed_form(each / 2 / math.sqrt(number), DELTA) for each in (noise, noise - 0.01)
            )
            assert found <= epsilon < less, (epsilon, number)
