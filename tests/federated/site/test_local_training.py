import json

import numpy as np
import pytest

from federated import errors
from federated.site import loop as site_loop
from federated.tensors import tensor_files
from tests.federated import toy
from tests.federated.run_steps import interrupt, start_driving


def test_one_site_federated_is_that_site_trained_alone(opened, take_part):
    run = opened(min_num_clients=1, max_num_clients=1)
    driver = start_driving(run.lead)
    take_part({"C1": run.transport("C1")}, {"C1": toy.ToyTrainer("C1")})
    driver.join(30)
    alone, weights = toy.ToyTrainer("C1"), toy.INITIAL
    for number in (1, 2, 3):
        weights, _ = alone.train(weights, number)
    arrays, _ = tensor_files.load(run.folder / "global" / "round_003.safetensors")
    for name, array in weights.items():
        np.testing.assert_array_equal(arrays[name], array)


def test_an_interrupted_site_says_so_and_resumes_at_the_next_start(opened, take_part, tmp_path):
    run = opened(min_num_clients=1, max_num_clients=1)
    driver = start_driving(run.lead)
    stopped = site_loop.run(
        toy.ToyTrainer("C1", on_train=lambda number: interrupt(number) if number == 2 else None),
        run.transport("C1"),
        tmp_path / "journal_C1",
    )
    assert (stopped.finished, stopped.rounds) == (False, 1)
    again = toy.ToyTrainer("C1")
    assert take_part({"C1": run.transport("C1")}, {"C1": again})["C1"].finished
    driver.join(30)
    assert again.calls[0] == "train 2"  # model 1 had been scored before the interruption


class Answering:
    """A transport that answers the first push with an error."""

    def __init__(self, transport, error):
        self._transport, self._error, self.pushes = transport, error, 0

    def __getattr__(self, name):
        return getattr(self._transport, name)

    def push(self, *given, **named):
        self.pushes += 1
        if self.pushes == 1:
            raise self._error
        return self._transport.push(*given, **named)


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (errors.UpdateRefused("too large a change"), False),  # sent again, it would be again
        (errors.ServerMisbehaves("a receipt for something else"), True),
    ],
)
def test_an_update_that_is_refused_is_trained_again_and_one_that_a_liar_got_is_kept(
    opened, tmp_path, error, kept
):
    run = opened(min_num_clients=1, max_num_clients=1)
    folder = tmp_path / "journal_C1"
    with pytest.raises(type(error)):
        site_loop.run(toy.ToyTrainer("C1"), Answering(run.transport("C1"), error), folder)
    assert (folder / "update.safetensors").exists() == kept


def test_an_update_that_came_too_late_is_dropped_and_the_site_goes_on(opened, take_part, tmp_path):
    run = opened(min_num_clients=1, max_num_clients=1, num_rounds=1)
    transport = Answering(run.transport("C1"), errors.StaleUpdate("too late"))
    driver, trainer = start_driving(run.lead), toy.ToyTrainer("C1")
    summary = take_part({"C1": transport}, {"C1": trainer})["C1"]
    driver.join(30)
    assert (summary.finished, summary.rounds, transport.pushes) == (True, 1, 2)
    assert trainer.calls.count("train 1") == 2
    events = map(json.loads, (tmp_path / "journal_C1" / "events.jsonl").read_text().splitlines())
    assert [e["error"] for e in events if e["event"] == "dropped"] == ["StaleUpdate"]
