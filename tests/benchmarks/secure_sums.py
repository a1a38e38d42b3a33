"""The cost of secure aggregation beside plain averaging: bytes, and time at a site and the server.

    .venv/py3.11/bin/python -m tests.benchmarks.secure_sums
    SITES=3,8,16 VALUES=2000000 ...    sites, float32 values of the model

At a site: writing the update that is sent, and with masks also the keys, the shares and the masked
update. At the server: from the updates in its spool to the file of the global model, with every
site in the sum and with one that dropped out after it had shared. Nothing is sent over a network;
`bytes` is what a site uploads in a round.
"""

from __future__ import annotations

import json
import os
import pathlib
import tempfile
import time

from tests.benchmarks import side_by_side
from tests.benchmarks.side_by_side import Candidate

VALUES = int(os.environ.get("VALUES", "2000000"))
_HERE = "tests.benchmarks.secure_sums"


def _names(sites: int) -> list[str]:
    return [f"S{number:02d}" for number in range(sites)]


def prepare(folder: pathlib.Path, sites: int) -> None:
    """Writes a model, plain and masked updates, and the masks that remain in their sum."""
    import numpy as np

    from federated import simulation
    from federated.secure_aggregation import masks, participant, ring
    from federated.tensors import tensor_files
    from tests.federated.secure_aggregation import exchanges

    rng = np.random.default_rng(0)
    model = rng.normal(size=VALUES).astype(np.float32)
    tensor_files.save(folder / "model", {"w": model})
    signers = simulation.signers_in(folder / "signers", _names(sites))
    about = exchanges.context(sites)
    ready = exchanges.received(exchanges.shared(signers, about), tuple(signers))
    rule = ring.Ring.of(about.settings)
    for number, site in enumerate(signers):
        update = model + rng.normal(size=VALUES).astype(np.float32) * np.float32(1e-3)
        tensor_files.save(folder / f"plain_{site}", {"w": update})
        words = masks.add(
            rule.words(update, model, 10 + number, what=site),
            participant.own_masks(ready[site]),
            0,
        )
        specs = ring.masked_specs(VALUES)
        with tensor_files.TensorFileWriter(folder / f"masked_{site}", specs, {}) as writer:
            writer.write(words.data.cast("B"))
            writer.finish()
    gone = _names(sites)[-1]
    for dropped in ([], [gone]):
        own = [participant.own_masks(me)[0] for site, me in ready.items() if site not in dropped]
        pairs = [mask.opposite() for mask in participant.own_masks(ready[gone])[1:]]
        left = [[mask.seed.hex(), mask.negative] for mask in own + (pairs if dropped else [])]
        (folder / f"left_{len(dropped)}.json").write_text(json.dumps(left))


def site(folder: str, sites: int, masked: bool) -> dict[str, float]:
    """Times a site's writing and computing before an upload; adds up the bytes it uploads."""
    from federated import simulation
    from federated.rounds.tasks import Task
    from federated.secure_aggregation import participant
    from federated.secure_aggregation.shamir import SHARE_BYTES
    from federated.site.sums.masking import Masking, Plain
    from federated.tensors import tensor_files
    from federated.wire import conversion
    from federated.wire.messages import SumPost, SumState
    from runkit import private
    from tests.federated.secure_aggregation import exchanges

    root, (me, *others) = pathlib.Path(folder), _names(sites)
    arrays, _ = tensor_files.load(root / f"plain_{me}")
    with tensor_files.TensorFile(root / "model") as file:
        model = tensor_files.file_digest(file)
    about = exchanges.context(sites, model=model)
    signers = simulation.signers_in(root / "signers", [me, *others])
    begun = {other: participant.begin(signers[other], about, "update") for other in others}
    with tempfile.TemporaryDirectory(dir=root) as name:
        here = private.folder(name)
        began, processor_began = time.perf_counter(), time.process_time()
        sha256 = tensor_files.save(here / "update", arrays)
        sent = (here / "update").stat().st_size
        waited = 0.0
        if masked:
            plain = Plain(here / "update", sha256, root / "model", model, 10, frozenset(arrays))
            masking = Masking(here, about.run, about.settings, lambda: signers[me])
            keys = masking.keys(Task("train", 1, "round_000", exchange=1), plain)
            every = [keys.keys, *(each.keys for each in begun.values())]
            shares = masking.part(Task("share", 1, exchange=1), SumState(keys=tuple(every)))
            began_others = time.perf_counter()
            processor_others = time.process_time()
            sealed = {
                other: participant.share(
                    each, every, signers[other].authority, exchanges.NOW
                ).shares[me]
                for other, each in begun.items()
            }
            waited = time.perf_counter() - began_others
            processor_began += time.process_time() - processor_others
            masking.mask(Task("mask", 1, exchange=1), SumState(shares=sealed), plain)
            survivors = SumState(survivors=(me, *others))
            consent = masking.part(Task("consent", 1, exchange=1), survivors)
            of_all = dict.fromkeys((me, *others), bytes(SHARE_BYTES))
            posts = (keys, shares, consent, SumPost("reveal", keys.place, self_masks=of_all))
            sent = masking.masked_path.stat().st_size
            sent += sum(conversion.sum_post_to_message(post).ByteSize() for post in posts)
        return {
            "seconds": time.perf_counter() - began - waited,
            "processor_seconds": time.process_time() - processor_began,
            "bytes": float(sent),
        }


def server(folder: str, sites: int, masked: bool, dropped: int = 0) -> dict[str, float]:
    """Times the aggregation of a round, from files to a file."""
    import functools

    from federated.aggregation import spooled_updates
    from federated.aggregation.fedavg import FedAvg
    from federated.aggregation.spooled_updates import StoredFile, Targets
    from federated.rounds.rounds import Update
    from federated.secure_aggregation.masks import Mask
    from federated.secure_aggregation.opening import OpenedMean
    from federated.secure_aggregation.ring import Ring
    from federated.tensors import tensor_files
    from tests.federated.secure_aggregation import exchanges

    root, kind = pathlib.Path(folder), "masked" if masked else "plain"
    updates = {
        root / f"{kind}_{name}": Update(name, 1, 10 + number, "")
        for number, name in enumerate(_names(sites)[: sites - dropped])
    }
    with tensor_files.TensorFile(root / "model") as file:
        specs, model = file.specs, StoredFile(root / "model", tensor_files.file_digest(file))
    left = [
        Mask(bytes.fromhex(s), n)
        for s, n in json.loads((root / f"left_{dropped}.json").read_text())
    ]
    ring = Ring.of(exchanges.context(sites).settings)

    def combine(sources, shared):
        total = sum(examples for _, examples in sources.values())
        given = [source for source, _ in sources.values()]
        return OpenedMean(given, left, shared, ring, total), total

    with tempfile.TemporaryDirectory(dir=root) as name:
        targets = Targets(pathlib.Path(name) / "m", pathlib.Path(name) / "s")
        call = functools.partial(
            spooled_updates.aggregate_spooled, FedAvg(), updates, targets, specs, {}
        )
        began, processor_began = time.perf_counter(), time.process_time()
        call(model=model, verified=frozenset(updates), combine=combine if masked else None)
        return {
            "seconds": time.perf_counter() - began,
            "processor_seconds": time.process_time() - processor_began,
        }


def main() -> None:
    flags = side_by_side.arguments(__doc__)
    for sites in map(int, os.environ.get("SITES", "3,8,16").split(",")):
        with tempfile.TemporaryDirectory() as folder:
            prepare(pathlib.Path(folder), sites)
            about = {"folder": folder, "sites": sites}
            at_site = [
                Candidate("plain", f"{_HERE}:site", arguments={**about, "masked": False}),
                Candidate("masked", f"{_HERE}:site", arguments={**about, "masked": True}),
            ]
            at_server = [
                Candidate("plain", f"{_HERE}:server", arguments={**about, "masked": False}),
                Candidate("masked", f"{_HERE}:server", arguments={**about, "masked": True}),
                Candidate(
                    "masked, one dropped",
                    f"{_HERE}:server",
                    arguments={**about, "masked": True, "dropped": 1},
                ),
            ]
            for what, candidates in (("a site", at_site), ("the server", at_server)):
                found = side_by_side.measure(candidates, repetitions=flags.repetitions)
                for figure in ("bytes", "seconds", "processor_seconds", "peak_mib"):
                    if all(figure in figures for figures in found.values()):
                        print(f"{what} of {sites}, {VALUES} values: {figure}")
                        print(side_by_side.table(found, figure=figure, reference="plain"))
                        print(flush=True)


if __name__ == "__main__":
    main()
