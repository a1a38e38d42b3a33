"""What must hold in every story, whatever went wrong: found out from the store's rows and files, and
compared with what the sites trained and with what they were told.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from federated.aggregation.rules import parse
from federated.audit import verification
from federated.audit.chain import BrokenChain
from federated.rounds import tasks
from federated.rounds.rounds import Update
from federated.tensors import tensor_files
from tests.simulated.server import Leading
from tests.simulated.story import SERVER
from tests.simulated.world import EXAMPLES, STORE, Violation, World, bytes_of, digest_of

_DESCRIPTORS = 2  # beside two for each transfer: the lock, and a file that is just read
_SITE_BYTES = 40_000  # of a site's folder; models are 36 bytes
_STORE_BYTES = 150_000

Check = Callable[[World, Leading], None]


def check(world: World, leading: Leading) -> None:
    """Checks the store when a server has started, and at the end."""
    _check_all(world, leading, (_check_counted, _check_weights, _check_receipts))


def check_end(world: World, leading: Leading) -> None:
    check(world, leading)
    _check_all(world, leading, (_check_files, _check_sites, _check_memory, _check_audit))


def _check_all(world: World, leading: Leading, checks: Sequence[Check]) -> None:
    """Notes the first violation."""
    try:
        for one in checks:
            one(world, leading)
    except Violation as violation:
        world.violation = world.violation or violation


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise Violation(what)


def _check_counted(world: World, leading: Leading) -> None:
    """Every update counts once, in its round or (if late ones are kept) in the next."""
    seen: dict[tuple[str, int], int] = {}
    late = world.config.late_updates == "keep"
    held = leading.store.globals()
    for number, updates in leading.store.counted_updates().items():
        if number in held:
            least = world.config.min_num_clients
            _require(len(updates) >= least, f"round {number} counts fewer than {least} updates")
        for update in updates:
            key = update.site, update.round
            _require(
                key not in seen,
                f"counted twice: update of {update.site}, round {update.round}, counts in "
                f"{seen.get(key)} and {number}",
            )
            seen[key] = number
            _require(
                update.round == number or (late and update.round == number - 1),
                f"wrong round: an update of round {update.round} counts in {number}",
            )
            examples = EXAMPLES[update.site]
            _require(
                update.num_examples == examples,
                f"wrong weight: {update.site} counts {update.num_examples}, has {examples}",
            )


def _check_weights(world: World, leading: Leading) -> None:
    """Each global model is the rule's result on what the sites trained, from that very model on."""
    store, rule = leading.store, parse(world.config.aggregation)
    counted, held = store.counted_updates(), store.globals()
    models: dict[int, Mapping[str, np.ndarray]] = {}
    for number in held:
        path = store.global_path(number)
        if path.exists():
            models[number], _ = tensor_files.load(path)
            _require(digest_of(models[number]) == held[number], f"global model {number} differs")
        elif not world.config.keep_globals or number == max(held):
            raise Violation(f"the file of global model {number} is lost")
    velocity: dict[str, np.ndarray] = {}
    for number in range(1, max(held) + 1):
        for update in counted.get(number, ()):
            _check_base(world, update, models)
        if number not in models or number - 1 not in models:
            velocity = {}
            if rule.name != "fedavg":
                return
            continue
        _require(bool(counted.get(number)), f"lost receipt: no update counts in round {number}")
        # Sums of products of such numbers are exact in float64, in any order.
        total = float(sum(EXAMPLES[update.site] for update in counted[number]))
        for name, found in models[number].items():
            mean = (
                sum(
                    EXAMPLES[u.site] * world.trained[u.sha256].arrays[name].astype(np.float64)
                    for u in counted[number]
                )
                / total
            )
            wanted = mean
            if rule.name == "fedavgm":
                step = models[number - 1][name].astype(np.float64) - mean
                velocity[name] = 0.5 * velocity.get(name, 0.0) + step
                wanted = models[number - 1][name].astype(np.float64) - velocity[name]
            if np.asarray(wanted, np.float32).tobytes() != found.tobytes():
                raise Violation(
                    f"wrong weights: global model {number}, {name}: {found} for {wanted}"
                )


def _check_base(world: World, update: Update, models: Mapping) -> None:
    made = world.trained.get(update.sha256)
    _require(made is not None, f"{update.site} never trained what counts in round {update.round}")
    assert made is not None
    _require(
        (made.site, made.round) == (update.site, update.round),
        f"an update of {made.site}, round {made.round}, counts as {update.site}, {update.round}",
    )
    base = models.get(update.round - 1)
    if base is not None:
        _require(
            made.base == bytes_of(base),
            f"stale update: {update.site} trained round {update.round} from another model",
        )


def _check_receipts(world: World, leading: Leading) -> None:
    """What a site was told is there, is there, unless an order has taken it away."""
    store = leading.store
    held, models = store.globals(), store.models()
    evicted = {site for site, record in store.sites().items() if record.evicted}
    for (site, what), (sha256, lineage, standing) in world.receipts.items():
        if (
            site in evicted
            or lineage != store.discarded
            or standing != world.evictions.get(site, 0)
        ):
            continue
        kind, _, name = what.partition(" ")
        if kind == "round":
            update = store.update(site, int(name))
            _require(update is not None or bool(world.rotten), f"lost receipt: {site}, {what}")
            if update is not None and update.sha256 != sha256:
                later = world.trained[update.sha256].number > world.trained[sha256].number
                _require(later, f"lost receipt: {site}, {what}: an earlier update took its place")
            open_still = int(name) > max(held) and not store.finished
            if update is not None and open_still and sha256[:16] not in world.rotten:
                path = store.update_path(update)
                counted = update in store.counted_updates().get(max(held), ())
                _require(counted or path.exists(), f"lost file of an update: {site}, {what}")
        elif kind == "scores":
            found = site in store.scored(int(name))
            _require(found or int(name) not in held, f"lost scores: {site}, {what}")
        elif kind == "rows":
            _require(site in store.reported(), f"lost rows: {site}")
        elif kind == "model":
            _require(models.get(name) == (site, sha256), f"lost model: {name}")
            _require(store.model_path(name).exists(), f"lost file of a model: {name}")


def _check_files(world: World, leading: Leading) -> None:
    """The store holds the files that its rows name, and no others."""
    store, held = leading.store, leading.store.globals()
    found = set(world.disks.files(SERVER)) - {"initial.safetensors"}
    left: set[str] = set()
    for path in sorted(found):
        folder, _, name = path.removeprefix("store/").rpartition("/")
        stem = pathlib.PurePath(name).stem
        if name.startswith(".partial-"):
            left.add(path)
        elif folder in ("global", "rule_state"):
            if tasks.global_number(stem) not in held:
                left.add(path)
        elif (
            (folder == "models" and stem not in store.models())
            or folder == "spool"
            or folder == "discarded"
            or folder.startswith("discarded/")
        ):
            left.add(path)
        elif folder.startswith("kept/"):
            number = tasks.global_number(folder.removeprefix("kept/"))
            if number is None or number <= max(held) - world.config.keep_updates:
                left.add(path)
    if store.finished:
        _require(not left, f"leaked files at the server: {sorted(left)}")
    incoming = [path for path in found if path.startswith("store/incoming/")]
    _require(len(incoming) <= len(world.story.sites), f"leaked transfers: {incoming}")


def _check_sites(world: World, leading: Leading) -> None:
    for site in world.story.sites:
        files = world.disks.files(site)
        size = sum(len(node.content) for node in files.values())
        _require(size <= _SITE_BYTES, f"the disk of {site} grows to {size} bytes")
        if world.endings.get(site) == "finished":
            allowed = (
                "journal.json",
                "answers.json",
                "events.jsonl",
                "incoming.safetensors",
                "lock",
            )
            left = [
                path
                for path in files
                if path.removeprefix("journal/") not in allowed
                and not path.startswith("journal/rows/C")
                and not path.startswith("journal/rows/FL_")
            ]
            _require(not left, f"leaked files at site {site}: {left}")
    size = sum(len(node.content) for node in world.disks.files(SERVER).values())
    _require(size <= _STORE_BYTES, f"the server's disk grows to {size} bytes")


def _check_memory(world: World, leading: Leading) -> None:
    transfers = leading.lead._uploads._transfers._in_progress
    _require(len(transfers) <= len(world.story.sites), f"{len(transfers)} transfers are in memory")
    used = sum(transfer.holders - 1 for _, transfer in transfers.values())
    _require(not used, "a transfer is in use for ever")
    files = world.disks.descriptors(SERVER, leading)
    _require(
        files <= _DESCRIPTORS + 2 * len(transfers), f"leaked descriptors: the server has {files}"
    )


def _check_audit(world: World, leading: Leading) -> None:
    """The log tells what the store holds, even what a kill or a full disk kept from it at first."""
    leading.lead.stop()
    try:
        verified = verification.verify(STORE)
    except BrokenChain as error:
        if leading.lead._run.log_is_behind:
            return
        raise Violation(f"the audit fails: {error}") from error
    if not leading.lead._run.log_is_behind:
        missing = set(range(1, max(leading.store.globals()) + 1)) - {
            *verified.rounds,
            *verified.pruned,
        }
        _require(not missing, f"the log lacks the rounds {missing}")
