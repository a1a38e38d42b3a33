import numpy as np
import pytest

from c2fnas import named_weights
from experiments.models import builders
from experiments.models.membership import losses
from experiments.models.membership.losses import MembershipLosses
from preprocessing.foreground import LabelBox

PATCHES = 3


class Scan:
    """A scan in memory, which is all that `losses` needs of a case."""

    case_id = "case"

    def __init__(self, seed, shape=(20, 18, 10)):
        rng = np.random.default_rng(seed)
        self.image = rng.uniform(-1, 1, shape).astype(np.float16)
        self.label = np.zeros(shape, np.uint8)
        self.label[6:11, 5:9, 3:7] = 1
        self.label[9:11, 7:9, 4:6] = 2
        self.runs = LabelBox.of(self.label).runs()


@pytest.fixture(scope="module")
def own(config):
    return MembershipLosses(config, patches=PATCHES)


@pytest.fixture(scope="module")
def weights(config):
    return named_weights.read(builders.build_network(config))


def with_even_logits(weights, bias):
    """Weights whose classifier ignores the scan: the logits are its bias at every voxel."""
    (head,) = [name for name in weights if weights[name].shape == (3,)]
    kernel = head.replace("bias", "kernel")
    return {**weights, kernel: np.zeros_like(weights[kernel]), head: np.array(bias, np.float32)}


def padded(volume, fill, size):
    return np.pad(volume.astype(np.float64), [(n, n) for n in size], constant_values=fill)


def test_the_loss_of_a_model_that_ignores_the_scan_is_the_closed_form(config, own, weights):
    scan, bias, size = Scan(1), np.array([1.0, 0.5, -0.5]), config.patch_size
    found = own.of_scans(with_even_logits(weights, bias), [scan], what="test")
    share = np.exp(bias) / np.exp(bias).sum()
    label, by_hand = padded(scan.label, 0, size), []
    for centre in losses.centres(scan, PATCHES):
        box = tuple(
            slice(c + n - n // 2, c + n - n // 2 + n) for c, n in zip(centre, size, strict=True)
        )
        counts = np.array([(label[box] == k).sum() for k in range(3)])
        voxels = np.prod(size)
        dice = (2 * share * counts + 1e-5) / (share * voxels + counts + 1e-5)
        by_hand.append(1 - dice.mean() - (counts * np.log(share)).sum() / voxels)
    np.testing.assert_allclose(found, [np.mean(by_hand)], rtol=1e-5)


def test_centres_are_foreground_voxels_evenly_spaced_in_their_order():
    scan = Scan(2)
    flat = np.flatnonzero(scan.label.ravel())
    expected = [flat[place] for place in (13, 40, 66)]  # of 80 voxels: 1/6, 3/6, 5/6
    found = losses.centres(scan, PATCHES)
    assert [np.ravel_multi_index(c, scan.label.shape) for c in found] == expected
    assert all(scan.label[c] > 0 for c in found)


def test_a_scan_without_foreground_is_refused_by_name():
    scan = Scan(3)
    scan.label[:] = 0
    scan.runs = LabelBox.of(scan.label).runs()
    with pytest.raises(ValueError, match="case case: its label is empty"):
        losses.centres(scan, PATCHES)


def test_losses_do_not_depend_on_the_other_scans(own, weights):
    scans = [Scan(seed) for seed in range(4)]
    together = own.of_scans(weights, scans, what="test")
    alone = own.of_scans(weights, scans[2:3], what="test")
    assert together[2] == alone[0] and len(set(together)) == 4


def test_weights_of_a_vae_branch_are_left_out(own, weights):
    extra = {**weights, f"{named_weights.VAE_PREFIX}kernel": np.ones(3, np.float32)}
    scan = [Scan(5)]
    assert own.of_scans(extra, scan, what="test") == own.of_scans(weights, scan, what="test")


def test_a_step_down_the_gradient_of_a_scan_is_aligned_with_it(own, weights):
    """The gradient by differences of the loss in one direction, and the cosine of a step along it."""
    scan, rng = Scan(6), np.random.default_rng(7)
    steps = {name: rng.normal(size=a.shape) for name, a in weights.items()}
    length = np.sqrt(sum((a**2).sum() for a in steps.values()))

    def moved(by):
        return {n: (weights[n] + by * steps[n] / length).astype(np.float32) for n in weights}

    slope = (
        own.of_scans(moved(0.02), [scan], what="t")[0]
        - own.of_scans(moved(-0.02), [scan], what="t")[0]
    ) / 0.04
    images, labels = own._cut(scan)
    named_weights.assign(own._network, weights)
    gradient = [part.numpy() for part in own._gradient(images, labels)]
    size = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in gradient))
    cosine = own.alignment(weights, moved(0.5), [scan], what="t")[0]
    assert -cosine * size == pytest.approx(slope, rel=0.05, abs=2e-4)
    downhill = {
        name: (weights[name] - 0.1 * part).astype(np.float32)
        for name, part in zip(own._network.variables, gradient, strict=True)
    }
    assert own.alignment(weights, downhill, [scan], what="t")[0] == pytest.approx(1, abs=1e-4)
    assert own.alignment(weights, weights, [scan], what="t")[0] == 0.0
