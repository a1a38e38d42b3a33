"""The privacy cost of several releases: accountants of dp-accounting behind one protocol."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from federated.errors import PolicyRefused

_STEP, _LARGEST_STEP = 1e-4, 10.0  # of the table of privacy losses
# Noise in units of the distance by which one patient can move the values -> number of releases.
Multipliers = Mapping[float, int]


class Accountant(Protocol):
    """Composes releases of the Gaussian mechanism.

    Each is on all patients, so there is no amplification by sampling.
    """

    def __call__(self, multipliers: Multipliers, delta: float) -> float:
        """Returns the epsilon of all releases together at `delta`; it is never too small."""


def analytic(multipliers: Multipliers, delta: float) -> float:
    """Returns the exact epsilon.

    Releases with one or several multipliers together are one Gaussian mechanism (Dong et al. 2022),
    whose epsilon is known (Balle and Wang 2018).
    """
    squares = math.fsum(count / sigma**2 for sigma, count in multipliers.items())
    if not squares:
        return 0.0
    return float(_package("").get_epsilon_gaussian(1.0 / math.sqrt(squares), delta))


def pld(multipliers: Multipliers, delta: float) -> float:
    """Returns the epsilon from the distribution of the privacy loss, computed numerically."""
    if not multipliers:
        return 0.0
    # The losses spread over some standard deviations of 1 / sigma around half its square; with a
    # fixed step, their table would not fit into memory for small noise.
    squares = math.fsum(count / sigma**2 for sigma, count in multipliers.items())
    step = max(_STEP, _STEP * (squares + math.sqrt(squares)))
    if step > _LARGEST_STEP:
        raise PolicyRefused(
            "privacy_accountant 'pld' cannot compute so large an epsilon (above about "
            f"{squares / 2:,.0f}); use 'analytic', which is exact"
        )
    return _composed(
        _package(".pld").PLDAccountant, multipliers, delta, value_discretization_interval=step
    )


def rdp(multipliers: Multipliers, delta: float) -> float:
    """Returns the epsilon from Renyi differential privacy (Mironov 2017), an upper bound."""
    return _composed(_package(".rdp").RdpAccountant, multipliers, delta) if multipliers else 0.0


ACCOUNTANTS: Mapping[str, Accountant] = {"analytic": analytic, "pld": pld, "rdp": rdp}


def require_package() -> None:
    """Raises PolicyRefused if the package that computes an epsilon is missing."""
    _package("")


def _composed(
    make: Callable[..., Any], multipliers: Multipliers, delta: float, **options: float
) -> float:
    package = _package("")
    # The multipliers are already in units of what replacing a patient moves. For REPLACE_ONE, the
    # package's PLD accountant would double that; its RDP accountant would not.
    accountant = make(neighboring_relation=package.NeighboringRelation.ADD_OR_REMOVE_ONE, **options)
    for sigma, count in multipliers.items():
        accountant.compose(package.GaussianDpEvent(sigma), count)
    return float(accountant.get_epsilon(delta))


def _package(module: str) -> Any:
    try:
        return importlib.import_module(f"dp_accounting{module}")
    except ModuleNotFoundError as error:
        raise PolicyRefused(
            "an epsilon is computed by the package dp-accounting, which is not installed here; "
            "install it with pip install '.[privacy]'"
        ) from error
