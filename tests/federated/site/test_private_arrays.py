import itertools
import re

import numpy as np
import pytest

from federated import errors
from federated.rounds.sharing import ShareRules
from federated.site.journal import Journal
from federated.site.private_arrays import PrivateArrays
from federated.tensors.weights import specs_of

INITIAL = {"w": np.zeros(3, np.float32), "norm": np.ones(2, np.float32)}


def opened(folder, *rules):
    specs = specs_of(INITIAL)
    sharing = ShareRules(*rules or (("norm",),)).of(spec.name for spec in specs)
    return PrivateArrays(Journal(folder), sharing, specs)


def model(value):
    return {name: np.full_like(array, value) for name, array in INITIAL.items()}


def norm_in(arrays, name, **named):
    found, of = arrays.completed(name, dict(INITIAL), **named)
    assert found["w"] is INITIAL["w"] and list(found) == [s.name for s in specs_of(INITIAL)]
    return float(found["norm"][0]), of


def test_a_global_model_gets_the_arrays_of_the_last_round_up_to_its_own(tmp_path):
    arrays = opened(tmp_path)
    assert norm_in(arrays, "round_000", number=0) == (1.0, "")  # as received, before any round
    for number in (1, 2, 4):
        arrays.keep(f"round_{number:03d}", model(number * 10))
    arrays = opened(tmp_path)  # they survive a restart
    assert norm_in(arrays, "round_002", number=2) == (20.0, "round_002")
    assert norm_in(arrays, "round_003", number=3) == (20.0, "round_002")  # the site was away
    assert norm_in(arrays, "FL_global") == (40.0, "round_004")


def test_a_lent_model_gets_those_it_was_lent_with_and_anothers_gets_the_last(tmp_path):
    arrays = opened(tmp_path)
    arrays.keep("round_001", model(10))
    arrays.keep("C1_FL_local", model(7))
    assert norm_in(arrays, "C1_FL_local") == (7.0, "C1_FL_local")
    assert norm_in(arrays, "C2_FL_local") == (10.0, "round_001")


def test_a_round_that_is_trained_again_replaces_its_arrays_and_leaves_no_file(tmp_path):
    arrays = opened(tmp_path)
    arrays.keep("round_001", model(10))
    arrays.keep("round_001", model(11))
    assert norm_in(arrays, "FL_global") == (11.0, "round_001")
    assert len(list((tmp_path / "private").iterdir())) == 1


def test_going_back_forgets_the_rounds_that_were_discarded(tmp_path):
    journal = Journal(tmp_path)
    arrays = opened(tmp_path)
    for name, value in (("round_001", 10), ("round_002", 20), ("C1_FL_local", 7)):
        arrays.keep(name, model(value))
    journal = Journal(tmp_path)
    journal.note_global("a", 1)
    journal.note_global("b", 2)
    journal.go_back(2, 1)
    assert (journal.number_of("a"), journal.number_of("b")) == (1, None)
    arrays = opened(tmp_path)
    arrays.remove_unnoted()
    assert norm_in(arrays, "FL_global") == (10.0, "round_001")
    assert norm_in(arrays, "C1_FL_local") == (10.0, "round_001")
    assert len(list((tmp_path / "private").iterdir())) == 1


@pytest.mark.parametrize("damage", ["remove", "change"])
def test_arrays_that_are_gone_are_named_with_the_remedy(tmp_path, damage):
    opened(tmp_path).keep("round_001", model(10))
    (path,) = (tmp_path / "private").iterdir()
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(ValueError, match=r"private arrays are missing or were changed.*backup"):
        opened(tmp_path).completed("FL_global", dict(INITIAL))


@pytest.mark.parametrize("gone", itertools.product([False, True], repeat=4))
def test_after_the_remedy_for_any_loss_the_site_can_continue(tmp_path, gone):
    """Any of the files of rounds 1, 2, 4 and of the lent model may be lost.

    The operator discards the rounds that the message names, and then all needed files are there.
    """
    arrays, names = opened(tmp_path), ("round_001", "round_002", "round_004", "C1_FL_local")
    for value, name in enumerate(names):
        arrays.keep(name, model(value))
    for name, lost in zip(names, gone, strict=True):
        if lost:
            next((tmp_path / "private").glob(f"{name}.*")).unlink()
    asked, discarded = [("C1_FL_local", None), ("FL_global", None), ("FL_best_global", 2)], 0
    while asked:
        name, number = asked[-1]
        try:
            opened(tmp_path).completed(name, dict(INITIAL), number=number)
            asked.pop()
        except ValueError as error:
            discarded += 1
            first = int(re.search(r"discard the rounds from round_(\d+) on", str(error))[1])
            Journal(tmp_path).go_back(first, discarded)
    # One order for each model at most, and none that keeps less than it must.
    assert discarded <= sum(gone)
    kept = {name for name in names[:3] if name in Journal(tmp_path).private}
    if not any(gone):
        assert kept == set(names[:3])
    if gone == (False, False, True, False):
        assert kept == {"round_001", "round_002"}
    if gone == (False, True, True, False):
        assert kept == {"round_001"}


def test_only_shared_arrays_may_be_sent(tmp_path):
    arrays = opened(tmp_path, ("norm",))
    assert arrays.shared(model(3), what="update").keys() == {"w"}
    with pytest.raises(errors.IncompatibleWeights, match="update lacks w, which the plan shares"):
        arrays.shared({"norm": INITIAL["norm"]}, what="update")
    with pytest.raises(errors.IncompatibleWeights, match="lacks norm, which the plan keeps"):
        arrays.keep("round_001", {"w": INITIAL["w"]})


def test_without_rules_nothing_is_split_and_nothing_written(tmp_path):
    arrays, given = opened(tmp_path, ()), model(3)
    arrays.keep("round_001", given)
    assert arrays.shared(given, what="update") is given
    assert arrays.completed("FL_global", given) == (given, "")
    assert not (tmp_path / "private").exists()
