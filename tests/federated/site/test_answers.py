import json

import numpy as np
import pytest

from federated.errors import AnswersUsedUp, PolicyRefused
from federated.site import answers
from federated.site.answers import AnswerLimits, Answers

LIMITS = AnswerLimits(max_scored_models=2, max_evaluated_models=3)


def test_models_are_counted_once_each_and_up_to_the_bound(tmp_path):
    own = Answers(tmp_path, LIMITS)
    assert [own.note("rows", name, "ab" * 32) for name in ("m", "n", "m")] == [1, 2, 2]
    assert own.note("rows", "m", "cd" * 32) == 3  # the same name, another model
    with pytest.raises(AnswersUsedUp, match=r"asks for 4 models .* --max_evaluated_models=4"):
        own.note("rows", "o", "ab" * 32)
    assert own.note("rows", "n", "ab" * 32) == 3  # one that has been noted may be scored again
    assert own.note("scores", "round_000", "ab" * 32) == 1  # counted apart
    assert str(own) == (
        "1 of at most 2 global models scored on validation cases; "
        "3 of at most 3 models evaluated on test cases"
    )


def test_an_update_from_an_earlier_model_counts_again_and_one_from_the_last_does_not(tmp_path):
    """Or a server could have a site train from two models in turn, without end."""
    limits = AnswerLimits(max_updates=4, max_scored_models=4)
    counts = []
    for sha256 in ("ab", "ab", "cd", "ab", "ab", "cd"):
        own = Answers(tmp_path, limits)  # a restart does not matter
        counts.append(own.note("updates", "round_000", sha256 * 32))
    assert counts == [1, 1, 2, 3, 3, 4]
    with pytest.raises(AnswersUsedUp, match="asks for 5 updates"):
        Answers(tmp_path, limits).note("updates", "round_000", "ab" * 32)


def test_what_was_not_asked_is_not_counted_out(tmp_path):
    own = Answers(tmp_path, LIMITS)
    own.note("rows", "m", "ab" * 32)
    assert str(own) == "1 of at most 3 models evaluated on test cases"


def test_a_restart_forgets_nothing(tmp_path):
    Answers(tmp_path, LIMITS).note("scores", "round_000", "ab" * 32)
    again = Answers(tmp_path, LIMITS)
    assert again.count("scores") == 1
    again.note("scores", "round_001", "ab" * 32)
    with pytest.raises(AnswersUsedUp, match=r"asks for 3 global models .* answers 2"):
        Answers(tmp_path, LIMITS).note("scores", "round_002", "ab" * 32)
    assert json.loads((tmp_path / "answers.json").read_text())["format"] == answers.FORMAT


def test_a_model_is_on_the_disk_before_it_counts(tmp_path, monkeypatch):
    own = Answers(tmp_path, LIMITS)

    def full(path, value):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(answers.atomic, "write_json", full)
    with pytest.raises(OSError, match="No space"):
        own.note("rows", "m", "ab" * 32)
    assert own.count("rows") == 0


def test_a_whole_evaluation_is_refused_before_its_first_model(tmp_path):
    own = Answers(tmp_path, LIMITS)
    own.note("rows", "a", "ab" * 32)
    own.require("rows", ["a", "b", "c"])  # `a` is begun already
    with pytest.raises(AnswersUsedUp, match="asks for 4 models"):
        own.require("rows", ["b", "c", "d"])


def test_a_restart_never_reports_numbers_more_exactly(tmp_path):
    for digits in (0, 4, 4, 2):
        Answers(tmp_path, AnswerLimits(report_digits=digits))
    for digits in (0, 3):
        with pytest.raises(
            PolicyRefused, match=f"digits is {digits}, and was 2 .* --report_digits=2"
        ):
            Answers(tmp_path, AnswerLimits(report_digits=digits))
    Answers(tmp_path, AnswerLimits(report_digits=1)).note("rows", "m", "ab" * 32)
    with pytest.raises(PolicyRefused, match="and was 1 before"):
        Answers(tmp_path, AnswerLimits(report_digits=2))


def test_a_site_that_declined_to_lend_its_model_does_not_lend_it_after_a_restart(tmp_path):
    for lends in (True, False, False):
        Answers(tmp_path, AnswerLimits(lend_local=lends))
    with pytest.raises(PolicyRefused, match="start it with --nolend_local"):
        Answers(tmp_path, AnswerLimits())


def test_rows_of_an_earlier_release_count(tmp_path):
    assert Answers(tmp_path, LIMITS, earlier=("a", "b")).count("rows") == 2
    # Also after a restart in a run that went back, whose journal has forgotten them.
    assert Answers(tmp_path, LIMITS).count("rows") == 2


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        '{"format": 1, "scores": []}',
        '{"format": 1}',
        "x",
        '{"scores": [], "rows": [], "digits": "2"}',
        '{"scores": [], "rows": [], "digits": 9}',
        '{"scores": [], "rows": [], "lend_local": 0}',
    ],
)
def test_a_file_that_this_class_did_not_write_is_refused_by_name(tmp_path, content):
    (tmp_path / "answers.json").write_text(content)
    with pytest.raises(ValueError, match=r"answers\.json.*restore"):
        Answers(tmp_path, LIMITS)


def test_updates_of_an_earlier_release_were_not_counted(tmp_path):
    (tmp_path / "answers.json").write_text('{"format": 1, "scores": ["a"], "rows": []}')
    own = Answers(tmp_path, LIMITS.for_rounds(3))
    assert own.count("scores") == 1 and own.note("updates", "round_000", "ab" * 32) == 1


def test_a_run_of_more_rounds_than_updates_are_allowed_is_refused(tmp_path):
    own = Answers(tmp_path, AnswerLimits(max_updates=4, max_scored_models=9))
    own.require_rounds(4)
    with pytest.raises(AnswersUsedUp, match="asks for 5 updates"):
        own.require_rounds(5)


def test_a_file_of_a_newer_release_is_refused(tmp_path):
    (tmp_path / "answers.json").write_text('{"format": 99, "scores": [], "rows": []}')
    with pytest.raises(ValueError, match="format 99, which a newer release wrote"):
        Answers(tmp_path, LIMITS)


@pytest.mark.parametrize(
    ("rounds", "every", "scored"),
    [(60, 1, 61), (40, 10, 5), (5, 2, 4), (1, 1, 2), (0, 1, 1)],
)
def test_how_many_global_models_an_ordinary_run_scores(rounds, every, scored):
    by_hand = {n for n in range(rounds + 1) if n % every == 0} | {rounds}
    assert answers.usual_scores(rounds, every) == scored == len(by_hand)
    assert AnswerLimits().for_rounds(rounds, every).max_scored_models == 2 * scored
    assert AnswerLimits(max_scored_models=7).for_rounds(rounds).max_scored_models == 7
    assert AnswerLimits().for_rounds(rounds, every).max_updates == 2 * rounds
    assert AnswerLimits(max_updates=7).for_rounds(rounds).max_updates == 7


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("max_evaluated_models", 0),
        ("max_evaluated_models", 257),
        ("max_scored_models", -1),
        ("max_updates", -1),
    ],
)
def test_bounds_that_cannot_hold_are_refused(setting, value):
    with pytest.raises(ValueError, match=f"{setting} is {value}"):
        AnswerLimits(**{setting: value})


def test_numbers_are_rounded_to_decimals_up_to_one_and_to_digits_above():
    row = {"model": "m", "case": 12345, "dice": 0.8471, "hd95_mm": 73.26, "found": 3.0, "nsd": None}
    small = {"low": 0.0249, "voxels": 12345.0, "error": -7.26, "one": 1.0, "ten": 10.0, "zero": 0.0}
    assert answers.rounded(row | small, 2) == {
        "model": "m",
        "case": 12345,
        "dice": 0.85,
        "hd95_mm": 73.0,
        "found": 3.0,
        "nsd": None,
        "low": 0.02,
        "voxels": 12000.0,
        "error": -7.3,
        "one": 1.0,
        "ten": 10.0,
        "zero": 0.0,
    }
    assert answers.rounded(row, 0) == row


@pytest.mark.parametrize("digits", range(1, 9))
def test_rounding_keeps_the_order_and_whole_numbers_and_is_done_once(digits):
    rng = np.random.default_rng(digits)
    values = np.sort(np.concatenate([10 ** rng.uniform(-6, 9, 500), rng.integers(1, 10**6, 500)]))
    once = [answers.rounded({"v": float(v)}, digits)["v"] for v in values]
    assert np.all(np.diff(once) >= 0)
    assert [answers.rounded({"v": v}, digits)["v"] for v in once] == once
    for whole in rng.integers(1, 10**9, 200):
        assert answers.rounded({"v": float(whole)}, digits)["v"].is_integer()
