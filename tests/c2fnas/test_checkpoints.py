import dataclasses
import functools
import json
import os
import resource

import numpy as np
import pytest
import tensorflow as tf

from c2fnas import checkpoints, named_weights, training
from c2fnas.genotype import CellGene
from c2fnas.losses import LossConfig
from c2fnas.missing_labels import MissingLabels
from tests.c2fnas import tiny
from tests.exhausted_descriptors import exhausted


@pytest.fixture(scope="module")
def trainer():
    """A trainer that never takes a step; tests set a state with non-zero moments."""
    return tiny.trainer()


@pytest.fixture
def filled(trainer):
    random = np.random.default_rng(4)
    state = {
        name: random.uniform(0, 1, array.shape).astype(array.dtype)
        for name, array in trainer.state().items()
    }
    state["step"], state["optimizer/iterations"] = np.array(5), np.array(7)
    trainer.restore(state)
    return state


_built = functools.cache(tiny.build)


def _other(genotype=tiny.GENOTYPE, config=None, **changes):
    """Another trainer than the fixture's, of another network; these share theirs."""
    network = _built(genotype, **changes)
    return training.Trainer(network, config or tiny.config(), tf.distribute.get_strategy())


def test_what_was_saved_comes_back(trainer, filled, tmp_path):
    extra = {"best": {"dice": 0.1 + 0.2, "step": 4}, "configuration": {"profile": "demo"}}
    path = checkpoints.save(tmp_path / "run", trainer, extra)
    assert sorted(p.name for p in path.parent.iterdir()) == ["checkpoint.safetensors"]
    other = _other()
    assert checkpoints.load(tmp_path / "run", other) == extra
    assert other.step == 5
    restored = other.state()
    assert restored.keys() == filled.keys()
    for name, array in filled.items():
        np.testing.assert_array_equal(restored[name], array, err_msg=name)


def test_loading_without_a_checkpoint_returns_none(trainer, tmp_path):
    assert checkpoints.load(tmp_path / "nothing", trainer) is None


def test_without_missing_classes_a_checkpoint_describes_the_loss_as_before(
    trainer, filled, tmp_path
):
    """Checkpoints of an earlier release name five settings of the loss; they must go on."""
    _, metadata = named_weights.load(checkpoints.save(tmp_path, trainer, {}))
    training = json.loads(metadata["training"])
    assert not training.keys() & {"vae_rate", "proximal_weight", "private"}
    loss = training["loss"]
    assert set(loss) == {
        "dice",
        "cross_entropy",
        "kl",
        "reconstruction",
        "kl_kind",
        "include_background",
    }


def test_a_training_with_every_federated_setting_resumes_from_its_checkpoint(tmp_path):
    config = tiny.config(
        loss=LossConfig(missing=MissingLabels(classes=(2,), treatment="restricted")),
        proximal_weight=0.1,
        private=frozenset({"end/classifier/kernel", "end/classifier/bias"}),
    )
    checkpoints.save(tmp_path, _other(config=config), {"round": 3})
    assert checkpoints.load(tmp_path, _other(config=config)) == {"round": 3}


def test_a_checkpoint_is_readable_weights_with_its_genotype(trainer, filled, tmp_path):
    arrays, metadata = named_weights.load(checkpoints.save(tmp_path, trainer, {}))
    np.testing.assert_array_equal(
        arrays["weights/stem/first/kernel"], filled["weights/stem/first/kernel"]
    )
    assert '"name": "tiny"' in metadata["genotype"] and "tensorflow" in metadata["stack"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: _other(tiny.GENOTYPE.with_size(classes=2)),
            "genotype.classes is 3 in the checkpoint, 2 here",
        ),
        (
            lambda: _other(
                dataclasses.replace(
                    tiny.GENOTYPE, cells=(*tiny.GENOTYPE.cells[:2], CellGene((2,), 1, "conv3d"))
                ),
                config=tiny.config(total_steps=8, loss=LossConfig(kl=0.5)),
            ),
            r"genotype.cells\[3\].op is 'conv2d' in the checkpoint, 'conv3d' here; "
            r"training.loss.kl is 0.2 .*, 0.5 here; "
            r"training.total_steps is 6 .*, 8 here",
        ),
        (
            lambda: _other(
                config=tiny.config(
                    loss=LossConfig(missing=MissingLabels(classes=(2,), treatment="restricted"))
                )
            ),
            "training.loss.missing is 'absent' in the checkpoint, .*'restricted'",
        ),
        (lambda: _other(vae=None), "network.vae is 'reduced' in the checkpoint, None here"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused_difference_by_difference(
    trainer, filled, tmp_path, make, message
):
    path = checkpoints.save(tmp_path, trainer, {})
    other = make()
    before = other.weights()
    with pytest.raises(ValueError, match=message) as caught:
        checkpoints.load(tmp_path, other)
    assert str(path) in str(caught.value)
    assert other.step == 0
    for name, array in other.weights().items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("keep", [0, 5, 1000, -1])
def test_a_truncated_checkpoint_is_one_error_that_names_it(trainer, filled, tmp_path, keep):
    path = checkpoints.save(tmp_path, trainer, {})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(
        ValueError,
        match=r"checkpoint\.safetensors: the checkpoint cannot be read \(.+\); remove it",
    ):
        checkpoints.load(tmp_path, trainer)


def test_weights_alone_are_not_a_checkpoint(trainer, tmp_path):
    named_weights.save(tmp_path / checkpoints.FILE_NAME, trainer.weights())
    with pytest.raises(ValueError, match="not a checkpoint of a training"):
        checkpoints.load(tmp_path, trainer)


def test_a_failed_save_leaves_the_old_checkpoint(trainer, filled, tmp_path):
    path = checkpoints.save(tmp_path, trainer, {"kept": True})
    content = path.read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        checkpoints.save(tmp_path, trainer, {"dice": float("nan")})
    assert path.read_bytes() == content and len(list(tmp_path.iterdir())) == 1


def test_earlier_checkpoints_are_kept_and_replace_an_unreadable_one(trainer, filled, tmp_path):
    for step in (3, 5, 8, 9):
        trainer.step = step
        checkpoints.save(tmp_path, trainer, {"step": step}, keep=3)
    names = [
        "checkpoint.safetensors",
        "earlier_00000005.safetensors",
        "earlier_00000008.safetensors",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    newest = tmp_path / checkpoints.FILE_NAME
    newest.write_bytes(newest.read_bytes()[:1000])
    assert checkpoints.load(tmp_path, trainer) == {"step": 8}
    assert trainer.step == 8


def test_after_a_return_to_an_earlier_step_the_checkpoints_written_last_are_kept(
    trainer, filled, tmp_path
):
    newest = tmp_path / checkpoints.FILE_NAME
    for second, step in enumerate((6, 7, 4, 5, 6)):  # rounds were discarded after step 7
        trainer.step = step
        checkpoints.save(tmp_path, trainer, {"written": second}, keep=3)
        os.utime(newest, (second, second))
    newest.write_bytes(b"")
    for expected in (3, 2):
        assert checkpoints.load(tmp_path, trainer) == {"written": expected}
        (tmp_path / f"earlier_{trainer.step:08d}.safetensors").unlink()
    assert [path.name for path in tmp_path.iterdir()] == [checkpoints.FILE_NAME]


def test_a_system_error_does_not_make_an_earlier_checkpoint_replace_the_newest(
    trainer, filled, tmp_path
):
    for step in (3, 5):
        trainer.step = step
        checkpoints.save(tmp_path, trainer, {"step": step}, keep=2)

    with exhausted(), pytest.raises(OSError, match="Too many open files"):
        checkpoints.load(tmp_path, trainer)
    assert checkpoints.load(tmp_path, trainer) == {"step": 5}


def test_a_full_disk_is_one_error_and_keeps_earlier_checkpoints(trainer, filled, tmp_path):
    """A limit on the size of a file fails a write as a full disk does."""
    path = checkpoints.save(tmp_path, trainer, {"kept": True}, keep=2)
    content = path.read_bytes()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(content) // 2, before[1]))
    try:
        with pytest.raises(
            OSError,
            match=r"checkpoint of step 5 could not be written .* it needs .* MB, and .* MB are free",
        ) as caught:
            checkpoints.save(tmp_path, trainer, {}, keep=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.filename == str(path)
    assert path.read_bytes() == content
    assert not list(tmp_path.glob(".partial*"))
    assert checkpoints.load(tmp_path, trainer) == {"kept": True}
