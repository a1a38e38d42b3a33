import json

import numpy as np

from federated import tensor_files
from tests.federated import toy


def test_whole_federation_over_mutual_tls(serving, take_part):
    server = serving()
    trainers = {site: toy.ToyTrainer(site) for site in ("C1", "C2")}
    summaries = take_part({site: server.connect(site) for site in trainers}, trainers)
    assert all(summary.finished for summary in summaries.values())
    summary = server.join()
    assert (summary.finished, summary.rounds, summary.sites, summary.rows) == (True, 3, ("C1", "C2"), 16)
    for number, model in enumerate(toy.expected_globals(("C1", "C2"), 3)):
        arrays, _ = tensor_files.load(server.folder / "global" / f"round_{number:03d}.safetensors")
        for name, array in model.items():
            np.testing.assert_array_equal(arrays[name], array.astype(np.float32))
    logged = [json.loads(line) for line in (server.folder / "events.jsonl").read_text().splitlines()]
    assert [e["round"] for e in logged if e["event"] == "aggregated"] == [1, 2, 3]
    assert {e["event"] for e in logged} >= {
        "login",
        "round_opened",
        "pulled",
        "scored",
        "pushed",
        "published",
        "models_fixed",
        "rows",
        "finished",
    }
