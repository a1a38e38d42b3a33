import numpy as np
import pytest
import tensorflow as tf

from c2fnas import fine_tuning, genotype, named_weights, training
from tests.c2fnas import tiny


def test_the_encoder_of_c2fnas_is_stem_and_six_cells():
    prefixes = fine_tuning.encoder_prefixes(genotype.load("c2fnas"))
    assert prefixes == ("stem/", "cell01/", "cell02/", "cell03/", "cell04/", "cell05/", "cell06/")


def test_a_frozen_encoder_stays_and_the_rest_learns_under_clipped_gradients():
    """Clipping shows in Adam's moments, m = g / 10, after one step.

    The step itself has the size of the learning rate whatever the length of the gradient.
    """
    frozen = fine_tuning.encoder_prefixes(tiny.GENOTYPE)
    assert frozen == ("stem/", "cell01/")
    trainer = training.Trainer(
        tiny.build(), tiny.config(frozen=frozen, clip_norm=0.5), tf.distribute.get_strategy()
    )
    before, seen = trainer.weights(), []
    trainer.train(
        tiny.datasets, 1, on_step=lambda step, values: seen.append(values["gradient_norm"])
    )
    for name, array in trainer.weights().items():
        assert np.array_equal(array, before[name]) == name.startswith(frozen), name
    moments = [
        array
        for name, array in trainer.state().items()
        if name.startswith("optimizer/") and name.endswith("/m")
    ]
    length = 10.0 * np.sqrt(sum(np.square(array.astype(np.float64)).sum() for array in moments))
    assert seen[0] > 0.6  # above the limit, so that it was clipped
    assert length == pytest.approx(0.5, rel=1e-4)


def test_freezing_everything_is_refused():
    with pytest.raises(ValueError, match="leaves no weight to train"):
        training.Trainer(tiny.build(), tiny.config(frozen=("",)), tf.distribute.get_strategy())


def test_a_model_may_come_with_or_without_its_branch():
    with_branch, without = tiny.build(), tiny.build(vae=None)
    given = {name: array + 1 for name, array in named_weights.read(without).items()}
    completed = fine_tuning.complete(with_branch, given, seed=5)
    initial = named_weights.initial(with_branch, 5)
    for name, array in completed.items():
        np.testing.assert_array_equal(
            array, initial[name] if name.startswith("vae/") else given[name]
        )
    assert fine_tuning.complete(without, completed, seed=5).keys() == given.keys()
    with pytest.raises(ValueError, match="missing stem/first/kernel"):
        fine_tuning.complete(
            without,
            {name: array for name, array in given.items() if name != "stem/first/kernel"},
            seed=5,
        )
