"""A site's privacy policy: how it changes its updates before they leave. It is set at the site.

Neither the server nor the plan can change it; the settings are flags of experiments.join. A policy
is applied in full, or the site stops.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from federated.errors import PolicyRefused
from federated.privacy import accountants, releases
from federated.privacy.releases import Guarantee, Release
from federated.privacy.sparse_vector import SparseVector, lyu_epsilon2
from runkit import settings
from runkit.settings import Condition, setting

EPSILON = "privacy_epsilon"  # the epsilon that a site reports, in the metrics of its update
_POSITIVE = Condition(
    lambda value: value is None or 1e-30 <= value <= 1e30, "a number from 1e-30 to 1e30"
)
_SWITCH = Condition(lambda value: isinstance(value, bool), "true or false")
_OF = {  # filter -> the settings that it reads, of which the first ones are required
    "none": ((), ()),
    "clip": (("clip_norm",), ()),
    "gaussian": (("clip_norm", "noise", "budget"), ("delta", "accountant")),
    "percentile": (("percentile",), ("gamma",)),
    "svt": (("gamma", "epsilon3", "budget"), ("fraction", "threshold", "epsilon1", "epsilon2")),
}
_OF_ANY = ("send_metrics", "tell_epsilon")
# A value of these settings that is larger (or smaller) than before is a weaker policy.
_WEAKER_IF_LARGER = (
    "clip_norm",
    "budget",
    "delta",
    "gamma",
    "fraction",
    "epsilon1",
    "epsilon2",
    "epsilon3",
    "send_metrics",
)
_WEAKER_IF_SMALLER = ("noise", "percentile")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrivacyPolicy:
    """The settings of a policy.

    Those that a filter does not read must keep their defaults, so that a setting is never silently
    without effect.

    Raises:
      PolicyRefused: naming a setting, its value and what is expected.
    """

    filter: Literal["none", "clip", "gaussian", "percentile", "svt"] = setting(
        "none",
        "What happens to this site's updates before they leave. 'none': nothing. 'clip': their "
        "change is scaled down to --privacy_clip. 'gaussian': clipped, then noise is added, with a "
        "guarantee. 'percentile': only the largest changes are shared, without a guarantee. 'svt': "
        "the sparse vector technique of Li et al. 2019. Each is set at this site; see "
        "docs/privacy-policy.md.",
        flag="privacy_filter",
    )
    clip_norm: float | None = setting(
        None,
        "Needed by 'clip' and 'gaussian': largest Euclidean norm of an update's change, over all "
        "arrays that are shared.",
        condition=_POSITIVE,
        flag="privacy_clip",
        unset=0.0,
    )
    noise: float | None = setting(
        None,
        "Needed by 'gaussian': standard deviation of the noise on every value, as a multiple of "
        "--privacy_clip.",
        condition=Condition(
            lambda value: value is None or 1e-6 <= value <= 1e4, "a number from 1e-6 to 10000"
        ),
        flag="privacy_noise",
        unset=0.0,
    )
    budget: float | None = setting(
        None,
        "Needed by 'gaussian' and 'svt': largest epsilon for all updates of the run together. The "
        "site stops before it is exceeded (exit code 77).",
        condition=_POSITIVE,
        flag="privacy_budget",
        unset=0.0,
    )
    delta: float = setting(
        1e-5,
        "Probability with which the guarantee of 'gaussian' may fail; less than one in the number "
        "of the site's training cases.",
        condition=Condition(lambda value: 0.0 < value < 1.0, "a probability above 0, below 1"),
        flag="privacy_delta",
    )
    accountant: str = setting(
        "analytic",
        "How the epsilon of 'gaussian' is computed: 'analytic' exactly, 'pld' from the "
        "distribution of the privacy loss, 'rdp' from Renyi divergences, an upper bound.",
        choices=tuple(accountants.ACCOUNTANTS),
        flag="privacy_accountant",
    )
    percentile: float | None = setting(
        None,
        "Needed by 'percentile': this many per cent of the values are not shared, e.g. 75.",
        condition=Condition(
            lambda value: value is None or 0.0 < value < 100.0, "above 0, below 100"
        ),
        flag="privacy_percentile",
        unset=0.0,
    )
    gamma: float | None = setting(
        None,
        "Needed by 'svt', optional for 'percentile': largest size of a shared change per training "
        "step; larger ones are cut off. 0 for no such bound.",
        condition=_POSITIVE,
        flag="privacy_gamma",
        unset=0.0,
    )
    fraction: float = setting(
        0.1,
        "For 'svt': share of the values that are shared, q of Li et al.",
        condition=Condition(lambda value: 0.0 < value <= 1.0, "a share above 0, at most 1"),
        flag="privacy_fraction",
    )
    threshold: float = setting(
        1e-6,
        "For 'svt': a value is shared if its change per training step is above this, both with "
        "noise; tau of Li et al.",
        condition=Condition(lambda value: 0.0 <= value < math.inf, "a number of at least 0"),
        flag="privacy_threshold",
    )
    epsilon1: float = setting(
        0.1,
        "For 'svt': epsilon of the threshold in each round.",
        condition=_POSITIVE,
        flag="privacy_epsilon1",
    )
    epsilon2: float | None = setting(
        None,
        "For 'svt': epsilon of all comparisons of a round together. 0: --privacy_epsilon1 times "
        "(2 q)^(2/3) for q shared values (Lyu et al. 2017), which is large for a network.",
        condition=_POSITIVE,
        flag="privacy_epsilon2",
        unset=0.0,
    )
    epsilon3: float | None = setting(
        None,
        "Needed by 'svt': epsilon of all shared values of a round together.",
        condition=_POSITIVE,
        flag="privacy_epsilon3",
        unset=0.0,
    )
    send_metrics: bool = setting(
        False,
        "Send the metrics of the local training (losses, validation) with a filtered update. They "
        "are computed from the patients and no filter covers them.",
        flag="privacy_send_metrics",
    )
    tell_epsilon: bool = setting(
        False,
        "Tell the server this site's epsilon of the run so far, as a number with each update, for "
        "the report. It depends on the policy and the rounds only, not on the patients.",
        flag="privacy_tell_epsilon",
    )

    def __post_init__(self) -> None:
        for name, about in settings.declared(PrivacyPolicy).items():
            value, condition = getattr(self, name), about.condition or _SWITCH
            if about.choices:
                condition = settings.one_of(about.choices)
            if not _holds(condition, value):
                raise PolicyRefused(f"{flag(name)} is {value!r}; expected {condition.expected}")
        required, optional = _OF[self.filter]
        for name in required:
            if getattr(self, name) is None:
                raise PolicyRefused(
                    f"privacy_filter is {self.filter!r}, which needs {flag(name)}; give it "
                    "(docs/privacy-policy.md says how to choose)"
                )
        read = {"filter", *required, *optional, *(_OF_ANY if self.active else ())}
        for field in dataclasses.fields(self):
            if field.name not in read and getattr(self, field.name) != field.default:
                raise PolicyRefused(
                    f"{flag(field.name)} is {getattr(self, field.name)!r}, but has no effect with "
                    f"privacy_filter {self.filter!r}; leave it out, or choose the filter that it "
                    "belongs to"
                )
        if self.tell_epsilon and not self.guaranteed:
            raise PolicyRefused(
                f"privacy_filter {self.filter!r} has no epsilon to tell; leave out "
                "privacy_tell_epsilon"
            )

    @property
    def active(self) -> bool:
        """Whether updates are changed before they leave."""
        return self.filter != "none"

    @property
    def guaranteed(self) -> bool:
        """Whether an epsilon is guaranteed."""
        return self.filter in ("gaussian", "svt")

    @property
    def sparse(self) -> bool:
        """Whether an update equals the global model in most of its values."""
        return self.filter in ("percentile", "svt")

    def sparse_vector(self, num_values: int) -> SparseVector:
        """Returns the parameters of 'svt' for a model with that many shared values."""
        if self.gamma is None or self.epsilon3 is None:
            raise PolicyRefused(f"privacy_filter is {self.filter!r}, not 'svt'")
        answers = max(1, int(num_values * self.fraction))
        return SparseVector(
            answers=answers,
            gamma=self.gamma,
            threshold=self.threshold,
            epsilon1=self.epsilon1,
            epsilon2=self.epsilon2 or lyu_epsilon2(self.epsilon1, answers),
            epsilon3=self.epsilon3,
        )

    def release(self, num_values: int) -> Release:
        """Returns the cost of one update with that many shared values."""
        if self.filter == "gaussian" and self.noise is not None:
            return Release("gaussian", self.noise)
        if self.filter == "svt":
            return Release("pure", self.sparse_vector(num_values).epsilon)
        return Release("none")

    def together(self, of: Iterable[Release]) -> Guarantee:
        """Returns the guarantee of all these releases, by the policy's accountant and delta.

        Raises:
          PolicyRefused: if the accountant cannot compute it, or its package is missing.
        """
        accountant = accountants.ACCOUNTANTS[self.accountant]
        return releases.together(of, accountant=accountant, delta=self.delta)

    def check_budget(self, num_values: int) -> None:
        """Raises PolicyRefused if the budget holds no update with that many shared values."""
        one = self.together([self.release(num_values)])
        if self.budget is not None and (one.epsilon or 0.0) > self.budget:
            raise PolicyRefused(
                f"privacy_budget is {self.budget:g}, but one round costs {one}; nothing would "
                "ever leave. Give more noise (for 'svt' smaller epsilons) or a larger budget"
            )

    def check_delta(self, num_examples: int) -> None:
        """Raises PolicyRefused if delta is so large that it may reveal a whole patient."""
        if self.filter == "gaussian" and self.delta >= 1.0 / num_examples:
            raise PolicyRefused(
                f"privacy_delta is {self.delta:g}, not less than 1 / {num_examples}, one in the "
                "number of training cases: publishing one patient at random would pass; give a "
                "smaller one"
            )

    def to_json(self) -> dict[str, Any]:
        """Returns the filter and the settings that it reads."""
        required, optional = _OF[self.filter]
        read = ("filter", *required, *optional, *(_OF_ANY if self.active else ()))
        return {name: getattr(self, name) for name in read}

    def flags(self) -> tuple[str, ...]:
        """Returns the flags of experiments.join that specify this policy."""
        found = []
        for name, value in self.to_json().items():
            if isinstance(value, bool):
                found.append(f"--{flag(name)}={str(value).lower()}")
            elif value is not None:
                found.append(f"--{flag(name)}={value}")
        return tuple(found)


def _holds(condition: Condition, value: Any) -> bool:
    """Returns whether a value, which may be of any type of JSON, meets a condition."""
    if isinstance(value, bool) and condition is not _SWITCH:
        return False  # although it is an int
    try:
        return condition.holds(value)
    except TypeError:
        return False


def flag(name: str) -> str:
    """Returns the name of a setting's flag."""
    about = settings.declared(PrivacyPolicy)[name]
    return about.flag or name


def weaker(now: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """Returns the settings in which policy `now` is weaker than `before`, both from `to_json`.

    Another filter counts as weaker: which of two is stronger depends on the threat.
    """
    if now["filter"] != before["filter"]:
        return [f"privacy_filter {before['filter']} before, {now['filter']} now"]
    found = []
    for names, is_weaker in (
        (_WEAKER_IF_LARGER, lambda new, old: new > old),
        (_WEAKER_IF_SMALLER, lambda new, old: new < old),
    ):
        for name in names:
            if name not in now or name not in before:
                continue
            if name == "clip_norm" and now["filter"] == "gaussian":
                continue  # the noise is a multiple of this setting
            old, new = (_bound(entry[name]) for entry in (before, now))
            # An automatic epsilon 2 depends on the model, so it is unknown which one is larger.
            automatic = name == "epsilon2" and (now[name] is None) != (before[name] is None)
            if automatic or is_weaker(new, old):
                found.append(f"{flag(name)} {before[name]} before, {now[name]} now")
    return found


def _bound(value: Any) -> float:
    """Returns a setting as a number; without a bound, gamma is infinite."""
    return math.inf if value is None else float(value)
