"""What a server keeps of old rounds, which must be enough for the best model and the audit."""

import numpy as np
import pytest

from federated import errors
from federated.audit import verification
from federated.server import config as server_config
from tests.federated.server.test_coordinator import Site


def run_rounds(run, scores):
    """Runs as many rounds as there are scores; both sites report `scores[n]` for global model n."""
    first, second = Site(run, "C1"), Site(run, "C2")
    for number, score in enumerate(scores, start=1):
        for site in (first, second):
            run.lead.report_scores(site.name, number - 1, {"dice": score})
        first.push(number, float(number))
        second.push(number, float(number) + 1.0)
        run.lead.advance()
    return first, second


def there(run):
    return [int(path.stem.split("_")[1]) for path in sorted((run.folder / "global").iterdir())]


def test_everything_is_kept_by_default(opened):
    run = opened(num_rounds=6)
    run_rounds(run, [0.1] * 6)
    assert there(run) == list(range(7))
    assert [path.name for path in (run.folder / "kept").iterdir()] == ["round_006"]


def test_old_models_are_removed_except_the_initial_the_best_and_the_newest(opened):
    run = opened(num_rounds=9, keep_globals=2)
    #         scores of global models 0 to 7: the third is the best
    run_rounds(run, [0.1, 0.2, 0.3, 0.9, 0.2, 0.3, 0.4, 0.5])
    assert there(run) == [0, 3, 7, 8]
    assert run.lead.summary().best_round == 3
    with pytest.raises(
        errors.UnknownModel,
        match=r"'round_002'.*known are round_000, round_003, round_007, round_008",
    ):
        run.lead.open_model("round_002")


def test_a_plateau_counts_models_that_were_removed(opened):
    run = opened(num_rounds=9, keep_globals=2, patience_rounds=3)
    run_rounds(run, [0.1, 0.9, 0.2, 0.2, 0.2])
    assert run.store.last_round == 5 and there(run) == [0, 1, 4, 5]


@pytest.mark.parametrize("keep", [0, 1, 3])
def test_updates_of_the_newest_rounds_can_be_averaged_again(opened, keep):
    run = opened(num_rounds=5, keep_updates=keep)
    run_rounds(run, [0.1] * 5)
    kept = sorted(path.name for path in (run.folder / "kept").glob("round_*"))
    assert kept == [f"round_{number:03d}" for number in range(6 - keep, 6)]
    assert list((run.folder / "spool").iterdir()) == []


def test_what_is_kept_outlives_a_restart(opened):
    run = opened(num_rounds=5, keep_updates=2)
    run_rounds(run, [0.1] * 3)
    opened(num_rounds=5, keep_updates=2)
    assert sorted(path.name for path in (run.folder / "kept").iterdir()) == [
        "round_002",
        "round_003",
    ]


def test_one_model_alone_is_not_enough():
    with pytest.raises(ValueError, match="keep_globals is 1; expected at least 2 models"):
        server_config.ServerConfig(num_rounds=1, keep_globals=1)


def test_an_audit_of_a_pruned_store_says_what_is_gone(serving, kits, tmp_path):
    from federated.tensors import tensor_files
    from tests.federated import toy

    running = serving(
        num_rounds=5, keep_globals=2, keep_updates=1, min_num_clients=1, max_num_clients=1
    )
    transport = running.connect("C1")
    transport.login(toy.PLAN, 30)
    for number in range(1, 6):
        transport.next_task()
        transport.report_scores(number - 1, {"dice": 1.0 / number})
        path = tmp_path / f"{number}.safetensors"
        sha256 = tensor_files.save(
            path, {name: np.full_like(array, number) for name, array in toy.INITIAL.items()}
        )
        transport.push(path, sha256, round_number=number, num_examples=30, metrics={})
    assert transport.next_task().kind == "score"
    transport.close()
    running.stop()
    found = verification.verify(running.folder)
    assert found.recomputed == (5,) and set(found.pruned) == {1, 2, 3}
