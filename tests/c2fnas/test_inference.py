import types

import numpy as np
import pytest

from c2fnas import inference
from c2fnas.sliding_window import WindowConfig
from tests.c2fnas import tiny

WINDOW = WindowConfig((6, 5, 4), 0.5)


def by_brightness(patches):
    """Returns logits (0.25, v, -v): class 0 around 0, class 1 if bright, class 2 if dark."""
    return np.concatenate([np.full_like(patches, 0.25), patches, -patches], axis=-1)


def test_segment_thresholds_with_a_network_that_does():
    image = np.random.default_rng(0).uniform(-1, 1, (14, 9, 7)).astype(np.float16)
    mask = inference.segment(image, by_brightness, WINDOW)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, np.select([image > 0.25, image < -0.25], [1, 2], 0))


def test_an_observer_sees_every_voxel_of_the_mask_once_with_its_logits():
    image, seen = np.random.default_rng(0).uniform(-1, 1, (14, 9, 7)).astype(np.float16), []
    mask = inference.segment(
        image,
        by_brightness,
        WINDOW,
        observe=lambda part, logits: seen.append((part.copy(), logits.copy())),
    )
    np.testing.assert_array_equal(np.concatenate([part for part, _ in seen]), mask)
    expected = by_brightness(image[..., np.newaxis].astype(np.float32))
    np.testing.assert_allclose(np.concatenate([logits for _, logits in seen]), expected, atol=1e-6)


def test_validate_scores_whole_volumes():
    image = np.zeros((8, 8, 8), np.float32)
    image[:2], image[4:5] = 0.9, -0.9
    label = np.zeros(image.shape, np.uint8)
    label[:1], label[4:6] = 1, 2
    other = types.SimpleNamespace(image=image, label=np.where(image > 0, 1, 0).astype(np.uint8))
    scores = inference.validate(
        iter([types.SimpleNamespace(image=image, label=label), other]), by_brightness, WINDOW
    )
    # First case: pancreas 2*1/(2+1), tumour 2*1/(1+2); second: pancreas 1, tumour predicted where
    # there is none.
    assert scores["dice_pancreas"] == pytest.approx((2 / 3 + 1) / 2)
    assert scores["dice_tumour"] == pytest.approx((2 / 3 + 0) / 2)
    assert scores["dice"] == pytest.approx((scores["dice_pancreas"] + scores["dice_tumour"]) / 2)
    assert scores["cases"] == 2


def test_the_compiled_network_is_the_network():
    network = tiny.build()
    logits = inference.logits_fn(network)
    image = tiny.batch(0)["image"].astype(np.float32)
    np.testing.assert_allclose(
        logits(image), np.asarray(network.segmenter(image)), rtol=1e-4, atol=1e-5
    )
    other = image[:1, :8, :12, :8]
    np.testing.assert_allclose(
        logits(other), np.asarray(network.segmenter(other)), rtol=1e-4, atol=1e-5
    )
    kernel = network.variables["end/classifier/bias"]
    kernel.assign(kernel + 1.0)
    np.testing.assert_allclose(
        logits(image), np.asarray(network.segmenter(image)), rtol=1e-4, atol=1e-5
    )
    with pytest.raises(ValueError, match="multiples of 4"):
        logits(image[:, :7])


def test_equal_logits_go_to_the_lower_class():
    logits = np.array(
        [[1, 1, 0, 1], [0, 2, 2, 1], [0, 0, 3, 3], [-5, -4, -6, -4]], np.float32
    ).reshape(1, 1, 4, 4)
    image = np.zeros((1, 1, 4), np.float32)
    mask = inference.segment(
        image, lambda patches: np.broadcast_to(logits, (1, 1, 1, 4, 4)), WindowConfig((1, 1, 4))
    )
    np.testing.assert_array_equal(mask.ravel(), [0, 1, 2, 1])


def test_flips_average_over_every_mirrored_view():
    def network(patches):  # depends on the place in the patch, so that mirroring shows
        place = np.arange(patches.shape[1], dtype=np.float32)[:, None, None] + 10 * np.arange(
            patches.shape[3]
        )
        return (patches[..., 0] + place)[..., None]

    image = np.random.default_rng(3).uniform(-1, 1, (2, 4, 3, 5, 1)).astype(np.float32)
    # place averaged over both directions is the middle, along x (1.5) and along z (20)
    np.testing.assert_allclose(
        inference.with_flips(network, (0, 2))(image), image + 1.5 + 20, atol=1e-5
    )
    np.testing.assert_allclose(
        inference.with_flips(network, (2,))(image),
        network(image * 0) - 10 * np.arange(5)[:, None] + 20 + image,
        atol=1e-5,
    )
    assert inference.with_flips(network, ()) is network
    for axes in ((3,), (0, 0)):
        with pytest.raises(ValueError, match="flips are"):
            inference.with_flips(network, axes)
