"""The cost of a run with many sites: bytes, the server's processor, memory and disk, and time.

Values in, values out. `scale.py` prints predictions and measures; `docs/scale.md` explains. MB are
10**6 bytes, as links are sold; a rate is in MB/s.
"""

from __future__ import annotations

import collections
import dataclasses
import heapq
import math

LAPSE_S, PATIENCE_S = 5.0, 30.0  # of `federated.connections.transfer_queue`
PACE = 32 * 2**20 / 1e6 / LAPSE_S  # MB/s of a transfer whose slot does not lapse


@dataclasses.dataclass(frozen=True)
class Server:
    """The resources that one server needs, in processor seconds, MiB and kB.

    They are measured by `scale.py` and `scale_many.py`.
    """

    round_s: float  # per round
    site_s: float  # per site and round, whatever the model
    pair_s: float  # the same, and again for every site of the run
    mb_s: float  # per MB that a site moves in a round: sent, received, checked, stored, averaged
    moving_s: float  # per second that a transfer lasts: a slow link delivers in small pieces
    ask_s: float  # per question for the next task; a waiting site asks when another one has sent
    idle_mib: float  # memory without sites
    site_mib: float  # memory per site: its connection, its waiting call
    transfer_mib: float  # memory per transfer in progress
    log_kb: float  # event log per site and round, before compression
    start_kb: float  # the same at each start of the server
    fixed_s: float  # of a round, besides: syncs, and calls one after the other
    crowded: float  # elapsed time of the server's work per processor time; 1 if it has its own core


# On an AMD EPYC, two cores shared with ten times as much work; see docs/scale.md.
MEASURED = Server(
    round_s=0.007,
    site_s=0.0125,
    pair_s=1.5e-6,
    mb_s=0.0059,
    moving_s=0.006,
    ask_s=4.2e-5,
    idle_mib=80.3,
    site_mib=0.34,
    transfer_mib=5.0,
    log_kb=1.35,
    start_kb=6.5,
    fixed_s=0.2,
    crowded=2.2,
)


@dataclasses.dataclass(frozen=True)
class Study:
    """A run: sites that are alike except for stragglers, and links that are alike."""

    sites: int
    model_mb: float
    rounds: int = 100
    training_s: float = 600.0
    down: float = 12.5  # a site's link, MB/s
    up: float = 5.0
    server_link: float = 125.0  # each way
    stragglers: float = 0.0  # share of sites
    slower: float = 1.0  # how many times as long they train
    minimum: int = 0  # updates that close a round, 0 for all
    wait_s: float = 10.0  # for others once these are in
    transfers_at_once: int = 2
    keep_updates: int = 1
    keep_globals: int = 0  # 0 for all

    def __post_init__(self) -> None:
        positive = ("sites", "model_mb", "rounds", "down", "up", "server_link", "slower")
        for name in positive:
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; expected more than 0")
        if not 0 <= self.stragglers <= 1:
            raise ValueError(f"stragglers is {self.stragglers}; expected a share from 0 to 1")
        if not 0 <= self.minimum <= self.sites:
            raise ValueError(f"minimum is {self.minimum}; expected 0 to {self.sites}, the sites")
        if self.transfers_at_once < 1:
            raise ValueError(f"transfers_at_once is {self.transfers_at_once}; expected 1 or more")

    @property
    def trainings_s(self) -> list[float]:
        """Seconds that each site trains; the stragglers come last."""
        slow = round(self.sites * self.stragglers)
        return [self.training_s] * (self.sites - slow) + [self.training_s * self.slower] * slow


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The predicted cost of one round, unless stated otherwise."""

    round_s: float
    transfer_s: float  # of which the round waits for more than the slowest training
    counted: int  # sites whose update is in when the round closes
    sent_mb: float  # by the server
    received_mb: float
    processor_s: float
    memory_mib: float
    disk_mb: float  # at the end of the run, and at most
    log_mb: float  # of the run, before compression
    run_h: float


def predict(study: Study, server: Server = MEASURED) -> Prediction:
    """Returns the predicted cost of a run."""
    moved_mb = study.sites * study.model_mb
    processor_s = processor_seconds(study, server)
    arrived = sorted(finish_times(study, study.server_link))
    last = arrived[-1]
    if study.minimum:
        last = min(last, arrived[study.minimum - 1] + study.wait_s)
    # As if nothing moved while the processor works: at most that much too long.
    round_s = last + processor_s * server.crowded + server.fixed_s
    held = study.keep_globals + 2 if study.keep_globals else study.rounds + 1
    log_mb = (study.rounds * study.sites * server.log_kb + server.start_kb) / 1e3
    return Prediction(
        round_s=round_s,
        transfer_s=round_s - min(max(study.trainings_s), last),
        counted=sum(moment <= last for moment in arrived),
        sent_mb=moved_mb,
        received_mb=moved_mb,
        processor_s=processor_s,
        memory_mib=server.idle_mib
        + study.sites * server.site_mib
        + min(study.sites, study.transfers_at_once) * server.transfer_mib,
        disk_mb=study.model_mb * (held + study.sites * (1 + study.keep_updates)) + log_mb,
        log_mb=log_mb,
        run_h=study.rounds * round_s / 3600,
    )


def processor_seconds(study: Study, server: Server) -> float:
    """Returns the server's processor seconds for one round.

    Every update wakes the sites that wait, on average half of them, and each asks again.
    """
    sites, model_mb = study.sites, study.model_mb
    questions = sites * (sites - 1) / 2
    moving_s = model_mb / study.down + model_mb / study.up
    each_s = (
        server.site_s + sites * server.pair_s + model_mb * server.mb_s + moving_s * server.moving_s
    )
    return server.round_s + sites * each_s + questions * server.ask_s


def finish_times(study: Study, server_rate: float) -> list[float]:
    """Returns when each site's update has arrived, in seconds after the round opened.

    Every site downloads the model, trains, and uploads. Transfers share the server's rate evenly,
    and take slots as `TransferQueue` gives them: first come, first served. A slot lapses after five
    seconds of a slow transfer, which continues without it, and no transfer waits more than half a
    minute.

    Args:
      server_rate: MB/s that the server moves in each direction.
    """
    links = (study.down, study.up)
    done = [0.0, 0.0]  # MB that each transfer of a direction has moved since the start
    moving: tuple[list, list] = ([], [])  # of (`done` at its end, site)
    arriving = [(0.0, site, 0) for site in range(study.sites)]  # heap: time, site, direction
    queue = collections.deque[tuple[float, int, int]]()
    slots: dict[tuple[int, int], float] = {}  # (site, direction) -> when it lapses
    finished = [0.0] * study.sites
    now = 0.0

    def rates() -> list[float]:
        return [
            min(link, server_rate / len(active)) if active else link
            for link, active in zip(links, moving, strict=True)
        ]

    def start(site: int, direction: int) -> None:
        heapq.heappush(moving[direction], (done[direction] + study.model_mb, site))

    while arriving or queue or any(moving):
        rate = rates()
        moments = [
            now + (active[0][0] - sent) / speed
            for active, sent, speed in zip(moving, done, rate, strict=True)
            if active
        ]
        moments += [arriving[0][0]] if arriving else []
        moments += [queue[0][0] + PATIENCE_S] if queue else []
        moments += [min(slots.values())] if slots and queue else []
        step = max(min(moments) - now, 0.0)
        now += step
        for direction in (0, 1):
            done[direction] += step * rate[direction]
            active = moving[direction]
            while active and active[0][0] <= done[direction] + 1e-9:
                _, site = heapq.heappop(active)
                slots.pop((site, direction), None)
                if direction:
                    finished[site] = now
                else:
                    heapq.heappush(arriving, (now + study.trainings_s[site], site, 1))
        while arriving and arriving[0][0] <= now:
            queue.append(heapq.heappop(arriving))
        for holder, ends in list(slots.items()):
            if ends <= now:
                if rate[holder[1]] >= PACE:
                    slots[holder] = now + LAPSE_S
                else:
                    del slots[holder]
        while queue and (
            len(slots) < study.transfers_at_once or queue[0][0] + PATIENCE_S <= now + 1e-9
        ):
            _, site, direction = queue.popleft()
            if len(slots) < study.transfers_at_once:
                slots[site, direction] = now + LAPSE_S
            start(site, direction)
    return finished


def most_sites(study: Study, server: Server, *, busy: float = 0.5) -> tuple[int, str]:
    """Returns how many sites one server can serve, and the resource that limits them.

    Args:
      busy: the share of a round for which the server's processor or link may be in use; beyond it,
        rounds grow longer with every site.
    """
    room_s = busy * study.training_s
    link = int(room_s * study.server_link / study.model_mb)
    study = dataclasses.replace(study, minimum=0)
    few, many = 0, 2**20
    while few < many:  # the processor's work grows with the number of sites
        middle = (few + many + 1) // 2
        if processor_seconds(dataclasses.replace(study, sites=middle), server) <= room_s:
            few = middle
        else:
            many = middle - 1
    return min((few, "processor"), (link, "link"))
