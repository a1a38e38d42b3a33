import dataclasses
import json
import math
import os

import numpy as np
import pytest
import tensorflow as tf

from c2fnas import gpus, named_weights
from experiments.configuration import ExperimentConfig
from experiments.models import builders, site_trainer
from experiments.results import model_names
from federated import errors
from federated.tensors.weights import canonical, specs_of
from runkit import private
from tests.experiments import study


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    return study.prepared_site(folder, folder / "cases")[1]


@pytest.fixture(scope="module")
def initial(config):
    return named_weights.read(builders.build_network(config))


def tiny(genotype):
    return ExperimentConfig(
        profile="tiny", seed=5, genotype=str(genotype), filters=4, vae="none", latent_size=4, classifier_bias="zero",
        class_prior=(0.9, 0.08, 0.02), spacing_mm=(3.0, 3.0, 3.0), window_hu=(-200.0, 250.0), patch_size=(16, 16, 8), patches_per_case=1,
        foreground_fraction=0.5, batch_size=2, learning_rate=0.01, final_learning_rate=0.001, kl="voxels", num_rounds=5, local_epochs=1,
        validation_every=2, inference_window=(16, 16, 8), inference_overlap=0.25, inference_blending="constant",
    )  # fmt: skip


def trainer(config, store, folder, **named):
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    return site_trainer.SegmentationTrainer(
        config, store, folder, label="C2_FL_local", strategy=strategy, **named
    )


def validated(folder):
    lines = map(json.loads, (folder / "history.jsonl").read_text().splitlines())
    return [(line["round"], line["dice"]) for line in lines if line["event"] == "validation"]


def test_the_own_model_is_validated_as_often_as_asked_and_in_the_last_round(
    config, store, initial, tmp_path
):
    site = trainer(config, store, tmp_path)
    rounds = dict(site.train_alone(initial))
    assert [number for number, _ in validated(tmp_path)] == [2, 4, 5]
    assert [number for number, metrics in rounds.items() if "validation_dice" in metrics] == [
        2,
        4,
        5,
    ]
    best = max(score for _, score in validated(tmp_path))
    first = next(number for number, score in validated(tmp_path) if score == best)
    assert site.best_score == {"dice": best, "round": first}


def test_each_process_that_trains_records_its_devices_once(
    config, store, initial, tmp_path, monkeypatch
):
    for rounds, card in ((1, "Card A"), (3, "Card B")):
        monkeypatch.setattr(gpus, "described", lambda card=card: [card])
        site = trainer(config, store, tmp_path)
        assert site.devices["devices"] == [card]
        for number, _ in site.train_alone(initial):
            if number == rounds:
                break
    lines = map(json.loads, (tmp_path / "history.jsonl").read_text().splitlines())
    told = [line for line in lines if line["event"] == "devices"]
    assert [(line["devices"], line["round"]) for line in told] == [(["Card A"], 1), (["Card B"], 2)]
    assert told[0]["same_bits"] is True and told[0]["tf32"] is None


def test_what_a_training_leaves_is_private_whatever_the_umask(config, store, initial, tmp_path):
    """Checkpoints, best model, predictions, and TensorBoard's files.

    TensorFlow writes the latter with the permissions of the umask.
    """
    folder = tmp_path / "federated"
    folder.mkdir()
    folder.chmod(0o755)  # an earlier release's
    before = os.umask(0)
    try:
        site = trainer(dataclasses.replace(config, num_rounds=2, keep_checkpoints=2), store, folder)
        dict(site.train_alone(initial))
        site.evaluate("C2_FL_local", site.best_model())
    finally:
        os.umask(before)
    names = {path.name for path in folder.rglob("*")}
    assert {"checkpoint.safetensors", "best.safetensors", "examples", "history.jsonl"} <= names
    assert any("tfevents" in name for name in names) and any(
        name.startswith("earlier_") for name in names
    )
    assert list(private.open_to_others(folder)) == [] == list(private.open_to_others(store.root))


def test_how_often_changes_no_weight(config, store, initial, tmp_path):
    ends = []
    for every in (1, 2):
        site = trainer(
            dataclasses.replace(config, validation_every=every), store, tmp_path / str(every)
        )
        weights = initial
        for number in (1, 2, 3):
            weights, _ = site.train(weights, number)
        ends.append(weights)
    for name, array in ends[0].items():
        np.testing.assert_array_equal(array, ends[1][name])


def test_a_run_that_ends_before_the_first_validation_lends_the_model_it_has(
    config, store, initial, tmp_path
):
    site = trainer(config, store, tmp_path)
    weights, metrics = site.train(initial, 1)
    assert "validation_dice" not in metrics and validated(tmp_path) == []
    lent = trainer(config, store, tmp_path).local_models()[
        "C2_FL_local"
    ]  # a restart in between makes no difference
    assert set(lent) == set(weights) and all(
        np.array_equal(lent[name], array) for name, array in weights.items()
    )
    assert [number for number, _ in validated(tmp_path)] == [1]


def test_the_specs_are_those_of_the_weights_that_it_trains(config, store, initial, tmp_path):
    site = trainer(config, store, tmp_path)
    weights, _ = site.train(initial, 1)
    assert canonical(site.specs) == specs_of(weights)


def test_a_site_that_lends_no_model_of_its_own_keeps_it_and_lends_what_it_was_told_to(
    config, store, initial, tmp_path
):
    named_weights.save(tmp_path / "earlier.safetensors", initial)
    site = trainer(
        config,
        store,
        tmp_path,
        extra_models={"C2_baseline": tmp_path / "earlier.safetensors"},
        lend_local=False,
    )
    site.train(initial, 1)
    assert set(site.local_models()) == {"C2_baseline"}
    assert set(site.best_model()) == set(initial)  # there, for the site's own use


def test_a_name_that_is_a_path_names_no_picture(config, store, initial, tmp_path):
    site = trainer(config, store, tmp_path / "models" / "federated")
    for name in ("x/../../../escaped", "../escaped", "", "a\x00b", "x" * 65):
        with pytest.raises(errors.ServerMisbehaves, match="names a model"):
            site.evaluate(name, initial)
        assert not [
            path for path in tmp_path.rglob("*") if path.suffix == ".npy" or "escaped" in path.name
        ], name


# A round is `local_epochs` epochs with the learning rates of that round, whatever happened before
# it.


def steps_of(site):
    """Returns a list that grows with (step, learning rate) of every step that the site takes."""
    taken, write = [], site._board.training_step
    site._board.training_step = lambda step, values: (
        taken.append((step, values["learning_rate"])),
        write(step, values),
    )
    return taken


def of_round(number, config, steps_per_epoch):
    """The steps of a round, by hand: half a cosine from the first rate to the last over the run."""
    length = config.local_epochs * steps_per_epoch
    drop, total = config.learning_rate - config.final_learning_rate, length * config.num_rounds
    return [
        (
            step,
            pytest.approx(
                config.final_learning_rate
                + drop * (1 + math.cos(math.pi * (step - 1) / total)) / 2,
                rel=1e-5,
            ),
        )
        for step in range((number - 1) * length + 1, number * length + 1)
    ]


def test_a_round_is_its_own_epochs_at_a_site_that_is_late_comes_back_or_is_taken_back(
    config, store, initial, tmp_path
):
    config = dataclasses.replace(config, num_rounds=6, local_epochs=2, validation_every=6)
    site, weights = trainer(config, store, tmp_path), initial
    taken, epoch = steps_of(site), site._sampler.steps_per_epoch
    for number in (3, 5, 4, 5):  # it begins late, misses a round, and two rounds are discarded
        taken.clear()
        weights, _ = site.train(weights, number)
        assert taken == of_round(number, config, epoch)
    taken.clear()
    before, (first, _) = weights, site.train(weights, 6)
    assert taken == of_round(6, config, epoch)
    taken.clear()
    site.score(before)
    site.evaluate("FL_global", before)
    again, _ = site.train(
        before, 6
    )  # the server lost the update, or the run goes back when the evaluation has begun
    assert taken == [] and all(np.array_equal(again[name], array) for name, array in first.items())


@pytest.mark.parametrize(("dices", "kept"), [((0.2, 0.9, 0.5), None), ((0.9, 0.2, 0.5), 1)])
def test_no_model_of_a_discarded_round_stays_the_best_or_is_lent(
    config, store, initial, tmp_path, monkeypatch, dices, kept
):
    config = dataclasses.replace(config, validation_every=1, num_rounds=3)
    found = iter([*dices, 0.4])

    def opened():
        site = trainer(config, store, tmp_path)
        site._candidate_rounds = [1, 3]  # as at a site whose labels lack a class
        monkeypatch.setattr(site, "validate", lambda what: {"dice": next(found)})
        return site

    site = opened()
    trained = [site.train(initial, number)[0] for number in (1, 2, 3)]
    # The operator discards round 2 and all later ones, and the site is killed while it trains.
    other = {name: array + np.float32(0.01) for name, array in initial.items()}
    monkeypatch.setattr(site, "_run_round", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        site.train(other, 2)
    site = opened()
    assert site.best_score == (None if kept is None else {"dice": 0.9, "round": 1})
    again, _ = site.train(other, 2)
    assert site.best_score == {"dice": 0.9 if kept else 0.4, "round": kept or 2}
    expected, lent = trained[0] if kept else again, site.local_models()
    assert set(lent) == {"C2_FL_local", model_names.candidate_name("C2_FL_local", 1)}
    for name, array in lent["C2_FL_local"].items():
        np.testing.assert_array_equal(array, expected[name])


def test_a_site_killed_in_the_middle_of_a_round_keeps_its_anchor_and_the_rules_of_the_plan(
    config, store, initial, tmp_path, monkeypatch
):
    config = dataclasses.replace(
        config,
        local_epochs=2,
        validation_every=5,
        proximal_weight=0.5,
        keep_at_site=("norms",),
        only_receive=("stem/first/kernel",),
    )
    whole, metrics = trainer(config, store, tmp_path / "whole", federated=True).train(initial, 1)
    assert metrics["proximal"] > 0
    killed = trainer(config, store, tmp_path / "killed", federated=True)
    save = killed._save
    monkeypatch.setattr(killed, "_save", lambda: (save(), 1 / 0))  # after the first epoch
    with pytest.raises(ZeroDivisionError):
        killed.train(initial, 1)
    # The anchor is the received model again, not the weights of the checkpoint.
    resumed = trainer(config, store, tmp_path / "killed", federated=True)
    again, repeated = resumed.train(initial, 1)
    assert repeated["proximal"] == metrics["proximal"]
    for name, array in whole.items():
        np.testing.assert_array_equal(again[name], array)
        moved = bool((array != initial[name]).any())
        assert moved == (name != "stem/first/kernel"), name  # what is only received is not trained


def test_rules_that_match_no_weight_are_refused_at_the_start(config, store, tmp_path):
    config = dataclasses.replace(config, keep_at_site=("nroms",))
    with pytest.raises(ValueError, match="keep has the pattern 'nroms', which matches none"):
        trainer(config, store, tmp_path, federated=True)


def test_a_baselines_trainer_takes_no_round_of_a_federation_with_such_settings(
    config, store, initial, tmp_path
):
    site = trainer(dataclasses.replace(config, proximal_weight=0.1), store, tmp_path)
    with pytest.raises(ValueError, match="make it with federated=True"):
        site.train(initial, 1)


def test_a_round_is_its_own_epochs_at_a_site_that_was_killed_also_by_an_earlier_release(
    config, store, initial, tmp_path, monkeypatch
):
    """An earlier release also trained the rounds that a late site had missed.

    Its checkpoint is from the first of six epochs.
    """
    config = dataclasses.replace(config, num_rounds=4, local_epochs=2, validation_every=4)
    earlier, weights = trainer(config, store, tmp_path), initial
    epoch = earlier._sampler.steps_per_epoch
    earlier._trainer.set_weights(weights)
    earlier._open_round(3, site_trainer._fingerprint(weights))
    earlier._train_until(epoch, "the first epoch")
    earlier._save()
    killed = trainer(config, store, tmp_path)
    save, taken = killed._save, steps_of(killed)
    monkeypatch.setattr(
        killed, "_save", lambda: (save(), 1 / 0)
    )  # after the first epoch of its own
    with pytest.raises(ZeroDivisionError):
        killed.train(weights, 3)
    resumed = trainer(config, store, tmp_path)
    rest = steps_of(resumed)
    resumed.train(weights, 3)
    assert len(taken) == len(rest) == epoch and taken + rest == of_round(3, config, epoch)
