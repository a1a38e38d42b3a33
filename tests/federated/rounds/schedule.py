"""A random schedule of one round under a virtual clock, which checks the invariants of the round."""

import dataclasses

from federated.errors import StaleUpdate, UnknownSite
from federated.rounds.rounds import (
    Policy,
    Round,
    Update,
    accept,
    closes_at,
    is_expired,
    is_over,
    next_moment,
    progressed,
    reopened,
    resumed,
    without,
)


def random_policy(rng):
    low = rng.randint(1, 3)
    return Policy(
        min_num_clients=low,
        max_num_clients=rng.randint(low, 5),
        num_rounds=2,
        wait_after_min_clients_s=rng.choice([0.0, 7.0, 40.0]),
        round_deadline_s=rng.choice([None, 30.0, 100.0]),
        progress_grace_s=rng.choice([0.0, 5.0, 20.0]),
        max_extension_s=rng.choice([0.0, 15.0, 60.0]),
        late_updates=rng.choice(["discard", "keep"]),
    )


class Schedule:
    """Simulates a round with a driver and sites that push, pause, leave, return and are evicted."""

    def __init__(self, rng):
        self.rng, self.policy = rng, random_policy(rng)
        self.sites = [f"C{n}" for n in range(1, 7)]
        self.before = frozenset(rng.sample(self.sites, rng.randint(0, 3)))
        self.now = 1000.0
        self.state = Round(2, opened_at=self.now, counted_before=self.before)
        self.min_at, self.attempt_at, self.pauses = None, self.now, 0
        self.progress = {}  # site -> when bytes of it came

    def play(self):
        for _ in range(self.rng.randint(5, 40)):
            moment = next_moment(self.state, self.policy)
            step = self.rng.expovariate(0.2)
            if moment is not None and self.now + step >= moment:
                self.now = max(self.now, moment)  # the driver wakes up then, not later
                if self.look():
                    return
                continue
            self.now += step
            self.something_happens()
            if self.look():
                return

    def look(self):
        """The driver's turn; returns whether the round is over."""
        if is_expired(self.state, self.policy, now=self.now):
            assert len(self.state.received) < self.policy.min_num_clients and not is_over(
                self.state, self.policy, now=self.now
            )
            kept = self.state.received
            self.state = reopened(self.state, now=self.now)
            self.attempt_at = self.now
            assert self.state.received == kept and not is_expired(
                self.state, self.policy, now=self.now
            )
        if not is_over(self.state, self.policy, now=self.now):
            self.check_open()
            return False
        self.check_over()
        return True

    def something_happens(self):
        site, what = self.rng.choice(self.sites), self.rng.random()
        if what < 0.45:
            self.push(site, number=self.rng.choice([2, 2, 2, 2, 1, 3]))
        elif what < 0.65:
            self.state = progressed(self.state, site, policy=self.policy, now=self.now)
            self.progress.setdefault(site, []).append(self.now)
        elif what < 0.8:
            self.state = without(self.state, self.rng.sample(self.sites, self.rng.randint(0, 3)))
        elif what < 0.83:
            self.state, self.pauses = resumed(self.state, now=self.now), self.pauses + 1
            self.attempt_at = self.now
            self.min_at = None if self.min_at is None else self.now
        else:
            assert accept_twice_is_once(self.state, self.policy, self.now)

    def push(self, site, number):
        update = Update(site, number, 10, f"{self.rng.random()}")
        before = self.state
        try:
            self.state = accept(before, update, policy=self.policy, now=self.now)
        except StaleUpdate:
            late = number == 1 and self.policy.late_updates == "keep"
            current = site in before.received and before.received[site].round == 2
            assert number != 2 and not (late and site not in self.before and not current)
            return
        except UnknownSite:
            assert (
                site not in before.received and len(before.received) == self.policy.max_num_clients
            )
            return
        assert self.state.received[site] == update and len(self.state.received) == len(
            {**before.received, site: update}
        )
        if self.min_at is None and len(self.state.received) >= self.policy.min_num_clients:
            self.min_at = self.now

    def check_open(self):
        assert len(self.state.received) <= self.policy.max_num_clients
        assert (self.state.min_reached_at is None) == (
            len(self.state.received) < self.policy.min_num_clients
        )

    def check_over(self):
        policy, received = self.policy, self.state.received
        assert policy.min_num_clients <= len(received) <= policy.max_num_clients
        assert all(site == update.site for site, update in received.items())
        for update in (
            received.values()
        ):  # of this round, or late where that is allowed, and then counted nowhere else
            assert update.round == 2 or (
                policy.late_updates == "keep"
                and update.round == 1
                and update.site not in self.before
            )
        latest = self.min_at + policy.wait_after_min_clients_s
        if policy.round_deadline_s is not None:
            latest = min(latest, max(self.attempt_at + policy.round_deadline_s, self.min_at))
        assert closes_at(self.state, policy) <= latest + policy.max_extension_s
        # Nobody was kept waiting beyond that, and nobody who was still sending was cut off before.
        waited_for = [
            self.moments_without_gap(site)
            for site in self.state.arriving
            if site not in self.state.absent
        ]
        everybody = len(received) >= policy.max_num_clients - len(
            self.state.absent - received.keys()
        )
        if not everybody and policy.max_extension_s == 60.0:
            assert all(
                self.now >= min(at[-1] + policy.progress_grace_s, latest + 60.0)
                for at in waited_for
                if at[0] <= latest
            )

    def moments_without_gap(self, site):
        """The last of a site's moments of progress that lie no more than the grace apart."""
        *moments, last = self.progress[site]
        run = [last]
        while moments and run[0] - moments[-1] <= self.policy.progress_grace_s:
            run.insert(0, moments.pop())
        return run


def accept_twice_is_once(state, policy, now):
    for update in state.received.values():
        again = accept(
            dataclasses.replace(state, counted_before=frozenset()), update, policy=policy, now=now
        )
        if again.received != state.received or again.min_reached_at != state.min_reached_at:
            return False
    return True
