import shutil

import numpy as np

from federated.audit import log as audit_log
from federated.tensors import tensor_files
from tests.federated import toy


def keep_round(store, log, number, *, keep_updates=True):
    """Writes the files that a server keeps of a round: two updates, their mean, and the log."""
    arrays = {
        site: {
            name: array * np.float32(number) + np.float32(toy.STEP[site])
            for name, array in toy.INITIAL.items()
        }
        for site in ("C1", "C2")
    }
    digests, folder = {}, store / "kept" / f"round_{number:03d}"
    for site, values in arrays.items():
        path = folder / "update.safetensors"
        digests[site] = tensor_files.save(path, values)
        path.rename(folder / f"round_{number:03d}.{site}.{digests[site][:16]}.safetensors")
        log.append(
            "pushed",
            site=site,
            round=number,
            counts_in=number,
            num_examples=toy.EXAMPLES[site],
            sha256=digests[site],
        )
    total = sum(toy.EXAMPLES[site] for site in arrays)
    mean = {
        name: (sum(toy.EXAMPLES[s] * arrays[s][name].astype("f8") for s in arrays) / total).astype(
            "f4"
        )
        for name in toy.INITIAL
    }
    sha256 = tensor_files.save(store / "global" / f"round_{number:03d}.safetensors", mean)
    if not keep_updates:
        shutil.rmtree(folder)
    log.append(
        "aggregated",
        round=number,
        sites={site: toy.EXAMPLES[site] for site in arrays},
        updates=digests,
        sha256=sha256,
    )


def write_again(folder, records, settings=None, *, without=()):
    """Returns a new log of a folder with the same events, except those of the given kinds."""
    log = audit_log.AuditLog(folder / "events.jsonl", **(settings or {}))
    chained = ("time", "event", "line", "previous", "hash", "signature")
    for record in records:
        if record["event"] not in without:
            kept = {key: value for key, value in record.items() if key not in chained}
            log.append(record["event"], **kept)
    return log
