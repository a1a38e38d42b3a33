"""Scores of paths at a site are those of the path's own network, on validation cases."""

import shutil

import numpy as np
import pytest
import tensorflow as tf

from c2fnas import inference, named_weights, network
from c2fnas.search import path_weights
from experiments.configuration import ExperimentConfig
from experiments.models import builders, path_evaluator
from experiments.models.path_evaluator import PathEvaluator
from experiments.search import candidate_training
from federated.errors import AnswersUsedUp, DifferentRun, ServerMisbehaves
from federated.site.answers import AnswerLimits, Answers
from federated.site.journal import Journal
from runkit import atomic
from tests.experiments.search.test_candidate_training import Store
from tests.experiments.study import SHALLOW


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("paths")
    atomic.write_json(folder / "genotype.json", SHALLOW)
    config = ExperimentConfig(
        genotype=str(folder / "genotype.json"),
        supernet=True,
        filters=4,
        num_rounds=0,
        patch_size=(8, 8, 8),
        inference_window=(16, 16, 16),
    )
    store = Store("C2")
    for case in store.cases.values():
        case.target_mm = (3.0, 3.0, 3.0)
    strategy = tf.distribute.get_strategy()
    return config, store, PathEvaluator(config, store, folder, strategy=strategy)


def test_a_path_scores_what_its_network_scores(site):
    config, store, evaluator = site
    supernet = evaluator._network
    weights = named_weights.initial(supernet, 7)
    rows = evaluator.evaluate("path_20", weights)
    space = builders.operation_space(config)
    alone = network.build(space.genotype((2, 0)), patch_size=(8, 8, 8), vae=None)
    named_weights.assign(alone, path_weights.extract(space, (2, 0), weights))
    case = store.cases["C2_3"]
    mask = inference.segment(
        np.asarray(case.image, np.float32),
        inference.logits_fn(alone),
        builders.window_config(config),
    )
    expected = candidate_training.row("C2", 3, mask, case.label)
    (row,) = rows  # of the validation case, not of the training cases
    assert (row["model"], row["site"], row["case"], row["grid"]) == (
        "path_20",
        "C2",
        3,
        "validation",
    )
    assert row["dice_pancreas"] == expected["dice_pancreas"]
    assert row["dice_tumour"] == expected["dice_tumour"]
    assert row["truth_ml_pancreas"] == pytest.approx(27 * 27 / 1000)  # 3^3 voxels of 3^3 mm


def test_what_is_no_path_of_this_supernet_is_refused(site):
    *_, evaluator = site
    for name in ("FL_global", "path_201", "path_39"):
        with pytest.raises(ServerMisbehaves, match=name):
            evaluator.evaluate(name, {})
    with pytest.raises(ServerMisbehaves, match="in a run without training"):
        evaluator.train({}, 1)
    with pytest.raises(ServerMisbehaves, match="in a run without training"):
        evaluator.score({})
    assert evaluator.local_models() == {} and evaluator.num_examples == 1
    assert "supernet" in evaluator.plan


def test_the_journal_of_a_finished_generation_gives_way_to_the_next_and_is_kept(tmp_path):
    limits = AnswerLimits(max_evaluated_models=2)

    def enter(run):
        path_evaluator.take_journal(tmp_path, run)
        journal = Journal(tmp_path / "journal")
        journal.enter(run)
        return journal, Answers(journal.folder, limits)

    journal, answers = enter("one")
    answers.note("rows", "path_00", "a")
    answers.note("rows", "path_01", "b")
    with pytest.raises(DifferentRun):  # an unfinished one stays
        enter("two")
    journal.finish()
    # The server leads the same run: what was answered in it still counts.
    _, answers = enter("one")
    with pytest.raises(AnswersUsedUp, match="asks for 3 models"):
        answers.note("rows", "path_02", "c")
    assert path_evaluator.answered_before(tmp_path) == ""
    journal, answers = enter("two")
    assert answers.count("rows") == 0
    assert "2 models in 1 earlier generations" in path_evaluator.answered_before(tmp_path)
    answers.note("rows", "path_00", "d")
    journal.finish()
    # The server goes back to the first run, and to the second.
    for run, count in (("one", 2), ("two", 1), ("three", 0)):
        journal, answers = enter(run)
        assert (journal.run, answers.count("rows")) == (run, count)
    assert "3 models in 2 earlier generations" in path_evaluator.answered_before(tmp_path)


def test_a_kill_between_the_two_moves_loses_no_count(tmp_path, monkeypatch):
    for run in ("one", "two"):
        path_evaluator.take_journal(tmp_path, run)
        journal = Journal(tmp_path / "journal")
        journal.enter(run)
        Answers(journal.folder, AnswerLimits()).note("rows", "path_00", run)
        journal.finish()
    moves = []

    def killed(source, target):
        if moves:
            raise KeyboardInterrupt
        moves.append(target)
        shutil.move(source, target)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(path_evaluator.os, "replace", killed)
        path_evaluator.take_journal(tmp_path, "one")
    path_evaluator.take_journal(tmp_path, "one")
    assert Journal(tmp_path / "journal").run == "one"
    assert Answers(tmp_path / "journal", AnswerLimits()).count("rows") == 1
