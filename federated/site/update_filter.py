"""Applies a site's privacy policy to its updates, after training and before the journal.

The journal and the server get the filtered update; the trainer's own models are not changed. The
order matters: the budget is checked before training, the spending is on disk before noise is drawn,
and an update that is sent again has the same bytes. If these are lost, new noise is drawn and
counted again, because the mean of two noisy copies has less noise.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from federated import errors
from federated.errors import PolicyRefused
from federated.privacy import clipping, gaussian, percentile, sparse_vector
from federated.privacy.noise import Bits, system_bits
from federated.privacy.policy import EPSILON, PrivacyPolicy
from federated.privacy.releases import Guarantee
from federated.site import privacy_ledger
from federated.site.journal import Journal
from federated.site.privacy_ledger import PrivacyLedger
from federated.tensors.weights import DTYPES, NamedArrays, TensorSpec

_MOST_TOLD = 1e30  # largest number in a report


class UpdateFilter:
    """The policy of one site in one run.

    Args:
      policy: the site's policy; its filter is not "none".
      folder: the folder of the ledger.
      specs: the tensors of an update in canonical order.
      num_examples: number of the site's training cases.
      steps: training steps per round.
      bits: source of randomness for the noise.
    Raises:
      PolicyRefused: if the policy cannot be applied here.
      ValueError: if the ledger cannot be read.
    """

    def __init__(
        self,
        policy: PrivacyPolicy,
        folder: str | os.PathLike,
        specs: Sequence[TensorSpec],
        *,
        num_examples: int,
        steps: int = 1,
        bits: Bits = system_bits,
    ):
        if not policy.active:
            raise PolicyRefused("privacy_filter is 'none', which filters nothing")
        if steps < 1:
            raise ValueError(f"steps_per_round is {steps}; expected at least 1")
        self.policy, self._specs, self._steps, self._bits = policy, tuple(specs), steps, bits
        self._num_values = sum(spec.size for spec in specs)
        policy.check_delta(num_examples)
        policy.check_budget(self._num_values)
        self._cost = policy.release(self._num_values)
        self._ledger = PrivacyLedger(folder)

    @property
    def has_ledger(self) -> bool:
        return self._ledger.exists

    def is_stricter(self, run: str, site: str) -> bool:
        """Returns whether earlier updates no longer pass. Raises as `PrivacyLedger.check` does."""
        return self._ledger.check(run, site, self.policy.to_json())

    def enter(self, run: str, site: str, *, unfiltered_rounds: int = 0) -> None:
        """Begins or continues the site's ledger. Raises as `PrivacyLedger.enter` does."""
        self._ledger.enter(run, site, self.policy.to_json(), unfiltered_rounds=unfiltered_rounds)

    def check_ledger(self, trained: int, updates: int) -> None:
        """Raises PolicyRefused if the ledger lacks updates that the journal has.

        Args:
          trained: the last round in the journal.
          updates: number of filtered updates in the journal; a round may have had several.
        """
        if not self.has_ledger:
            return
        spent = self._ledger.spent
        noted = max((entry.round for entry in spent), default=0)
        if trained > max(noted, self._ledger.unfiltered_rounds):
            older = f"ends with round {noted}, but this site has trained round {trained}"
        elif updates > len(spent):
            older = f"has {len(spent)} updates, but this site has made {updates}"
        else:
            return
        raise PolicyRefused(
            f"{self._ledger.path}: {older}, so it is an older copy and lacks what was spent since; "
            "restore the newest one, or leave this run"
        )

    def check_range(self, value_range: float) -> None:
        """Raises PolicyRefused if what the policy makes of an update hardly fits into a secure sum.

        Args:
          value_range: the largest change of one value that can be added.
        """
        policy = self.policy
        if policy.filter == "gaussian" and policy.clip_norm and policy.noise:
            # The largest of n normal values is about sqrt(2 ln n), and exceeds that by 1 in less
            # than one in a thousand updates of a network.
            most = math.sqrt(2.0 * math.log(max(1, self._num_values))) + 1.0
            largest, smaller = policy.clip_norm * (1.0 + policy.noise * most), "privacy_clip"
            what = f"privacy_noise {policy.noise:g} with privacy_clip {policy.clip_norm:g}"
        elif policy.filter == "svt" and policy.gamma:
            largest, smaller = policy.gamma * self._steps, "privacy_gamma"
            what = f"privacy_gamma {policy.gamma:g} in {self._steps} training steps"
        else:
            return
        if largest > value_range:
            raise PolicyRefused(
                f"{what} changes single values by up to about {largest:.3g}, and the server's "
                f"secure aggregation takes {value_range:g} at most, so that updates would be paid "
                f"for and never arrive; give a smaller {smaller}, or have the server started with "
                "a larger --secure_aggregation_range"
            )

    @property
    def spent(self) -> Guarantee:
        """The guarantee for all updates of the run so far."""
        return self.policy.together(self._ledger.releases)

    @property
    def of_a_round(self) -> Guarantee:
        """The guarantee for one update by itself."""
        return self.policy.together([self._cost])

    def after(self, rounds: int) -> Guarantee:
        """Returns the guarantee after that many further updates."""
        return self.policy.together([*self._ledger.releases, *[self._cost] * rounds])

    def affordable(self, most: int) -> int:
        """Returns how many further updates the budget allows, at most `most`."""
        low, high = 0, most
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self._within(middle) else (low, middle - 1)
        return low

    def check_budget(self, round_number: int) -> None:
        """Raises PolicyRefused if the budget does not allow one more update.

        Called before the update is trained.
        """
        if not self._within(1):
            raise PolicyRefused(
                f"privacy_budget {self.policy.budget:g} is spent: {self.spent} after "
                f"{len(self._ledger.spent)} updates, {self.after(1)} after round {round_number}. "
                "This site sends no more updates of this run, and starting it again does not help. "
                "Tell the server's operator that the run continues without it"
            )

    def filtered(
        self, received: Mapping[str, np.ndarray], trained: Mapping[str, np.ndarray], number: int
    ) -> NamedArrays:
        """Records the spending, then returns the arrays that may leave in place of an update.

        Args:
          received: the global model at the start of training; at least the shared arrays.
          trained: the shared arrays after training.
          number: number of the round.
        Raises:
          UpdateRefused: if a value is not finite.
          PolicyRefused: if the budget does not allow it.
        """
        change = np.concatenate(
            [
                trained[spec.name].astype(np.float64).ravel()
                - received[spec.name].astype(np.float64).ravel()
                for spec in self._specs
            ]
        )
        if not np.isfinite(change).all():
            raise errors.UpdateRefused(
                f"update of round {number} has a value that is not finite, which no privacy filter "
                "can bound; nothing was sent. Look at the losses in the training log"
            )
        self.check_budget(number)
        self._ledger.spend(number, self._cost)
        shared, change = self._released(change)
        return self._applied(received, change, shared)

    def metrics(self, trained: Mapping[str, float]) -> dict[str, float]:
        """Returns the metrics that are sent with an update.

        The policy decides whether the metrics of the training and the epsilon are among them.
        """
        told = dict(trained) if self.policy.send_metrics else {}
        epsilon = self.spent.epsilon
        if self.policy.tell_epsilon and epsilon is not None and epsilon <= _MOST_TOLD:
            told[EPSILON] = epsilon
        return told

    def _released(self, change: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
        """Returns (which values are shared, None for all; their changes)."""
        policy = self.policy
        if policy.filter == "clip" and policy.clip_norm is not None:
            return None, clipping.clipped(change, policy.clip_norm)
        if policy.filter == "gaussian" and policy.clip_norm and policy.noise:
            return None, gaussian.noisy(
                change, clip_norm=policy.clip_norm, noise=policy.noise, bits=self._bits
            )
        if policy.filter == "percentile" and policy.percentile is not None:
            limit = None if policy.gamma is None else policy.gamma * self._steps
            return percentile.largest(change, policy.percentile), percentile.bounded(change, limit)
        with_ = policy.sparse_vector(self._num_values)
        shared, answers = sparse_vector.shared(change / self._steps, with_, self._bits)
        return shared, answers * self._steps

    def _applied(
        self, received: Mapping[str, np.ndarray], change: np.ndarray, shared: np.ndarray | None
    ) -> NamedArrays:
        """Returns the received model with the change; values not shared keep their exact bits."""
        result, start = {}, 0
        for spec in self._specs:
            part = slice(start, start + spec.size)
            before = received[spec.name].astype(DTYPES[spec.dtype])
            after = (before.astype(np.float64) + change[part].reshape(spec.shape)).astype(
                DTYPES[spec.dtype]
            )
            if shared is not None:
                after = np.where(shared[part].reshape(spec.shape), after, before)
            result[spec.name], start = after, part.stop
        return result

    def _within(self, rounds: int) -> bool:
        if self.policy.budget is None or not self.policy.guaranteed:
            return True
        if self._ledger.unfiltered_rounds:  # what left before is unprotected; the rest is bounded
            own = [entry.release for entry in self._ledger.spent]
            epsilon = self.policy.together([*own, *[self._cost] * rounds]).epsilon
        else:
            epsilon = self.after(rounds).epsilon
        return epsilon is not None and epsilon <= self.policy.budget


def prepared(
    policy: PrivacyPolicy | None,
    journal: Journal,
    specs: Sequence[TensorSpec],
    *,
    num_examples: int,
    steps: int,
) -> UpdateFilter | None:
    """Returns the filter of a site with its ledger in the journal's folder; None without a policy.

    Raises:
      PolicyRefused: if the policy cannot be applied; or, in a run that had one, if the policy is
        missing or its ledger is missing or older than the journal.
    """
    folder = journal.folder / "privacy"
    if policy is None or not policy.active:
        if journal.filtered or privacy_ledger.path_in(folder).exists():
            raise PolicyRefused(
                f"{journal.folder} belongs to a run in which this site's updates pass a privacy "
                "policy, and now there is none; give the same --privacy_filter and its settings"
            )
        return None
    found = UpdateFilter(policy, folder, specs, num_examples=num_examples, steps=steps)
    if journal.filtered and not found.has_ledger:
        raise PolicyRefused(
            f"{folder}: the ledger of this run is missing, so nobody knows what was spent; "
            "restore it from a backup, or leave this run"
        )
    found.check_ledger(journal.trained, journal.filtered_updates)
    return found


def begun(
    filter_: UpdateFilter, journal: Journal, run: str, site: str, num_rounds: int
) -> dict[str, Any]:
    """Begins or continues the ledger in a run; returns what the operator should know of it.

    Raises as `PrivacyLedger.enter` does.
    """
    # After discarded rounds a site forgets which ones it had trained; what it sent is not undone.
    unfiltered = max(journal.trained, int(journal.discarded > 0))
    if filter_.is_stricter(run, site) and journal.update is not None:
        journal.drop_update()  # it may not have left yet, and contains more than is allowed now
    filter_.enter(run, site, unfiltered_rounds=0 if journal.filtered else unfiltered)
    if not journal.filtered:
        journal.keep_filtered()
    rest = max(0, num_rounds - journal.trained)
    return {
        "filter": filter_.policy.filter,
        "round": str(filter_.of_a_round),
        "so_far": str(filter_.spent),
        "run": str(filter_.after(rest)),
        "rounds_left": rest,
        "rounds_affordable": filter_.affordable(rest),
    }
