"""What the operator sees of a secure sum: its phase, who has done it, and who is awaited."""

from __future__ import annotations

from federated.server.run_state import RunState
from federated.wire.status import SumStatus


def sum_status(run: RunState) -> SumStatus | None:
    """Returns how far the sum of the open round is, None if there is none; with the lock held."""
    state = run.exchange
    if state is None or run.round is None:
        return None
    sites = run.store.sites()
    expected = sites.keys() if state.members is None else state.members
    coming = {site for site in expected if not sites[site].evicted} - state.done.keys()
    policy = run.config.sum_policy
    return {
        "exchange": state.number,
        "phase": state.phase,
        "done": sorted(state.done),
        "awaited": [] if run.closing else sorted(coming),
        "needed": run.policy.min_num_clients if state.phase == "keys" else policy.threshold,
    }
