"""What a configuration becomes: losses, treatment of missing labels, window, names of weights."""

import dataclasses

import pytest
import tensorflow as tf

from c2fnas import named_weights
from experiments.models import builders
from tests.experiments.models.test_missing_labels import HEALTHY, UNDRAWN


@pytest.mark.parametrize(("share", "kl", "l2"), [(1.0, 0.2, 0.3), (0.5, 0.1, 0.15)])
def test_the_losses_of_the_branch_weigh_what_the_paper_gives_them_or_a_share_of_it(
    config, share, kl, l2
):
    changed = dataclasses.replace(config, vae="reduced", vae_weight=share)
    made = builders.build_trainer(changed, tf.distribute.MirroredStrategy(["CPU:0"]), total_steps=1)
    weights = made.config.loss
    assert (weights.kl, weights.reconstruction) == (kl, l2)
    assert (weights.dice, weights.cross_entropy) == (1.0, 1.0)


def test_the_treatment_follows_what_is_declared(config):
    class Store:
        declared = None

    config = dataclasses.replace(config, missing_labels="restricted", absence_evidence=True)
    for declared, classes, evidence in (
        (None, (), False),
        (HEALTHY, (2,), True),
        (UNDRAWN, (2,), False),
    ):
        Store.declared = declared
        found = builders.missing_labels(config, Store)
        assert (found.classes, found.treatment, found.evidence) == (classes, "restricted", evidence)


def test_names_and_shapes_are_those_of_the_weights(config):
    network = builders.build_network(config)
    weights = named_weights.read(network)
    specs = builders.tensor_specs(network)
    assert {spec.name: (spec.dtype, spec.shape) for spec in specs} == {
        name: ("F32", array.shape) for name, array in weights.items()
    }


def test_the_window_has_the_configured_size_and_pads_to_what_the_network_takes(config):
    window = builders.window_config(config)
    assert (window.size, window.overlap, window.blending) == ((16, 16, 8), 0.25, "constant")
    assert window.multiple > 1 and all(side % window.multiple == 0 for side in config.patch_size)
