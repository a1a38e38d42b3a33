import itertools

import numpy as np
import pytest

from federated import errors
from federated.aggregation import weighted_mean
from federated.aggregation.weighted_mean import Contribution
from federated.tensors import tensor_files
from federated.tensors.tensor_files import TensorFile, TensorFileWriter


def test_weighted_mean_by_hand():
    mean = weighted_mean.weighted_mean(
        [
            Contribution("site_a", {"w": np.array([1.0, 5.0])}, 30),
            Contribution("site_b", {"w": np.array([5.0, 1.0])}, 10),
        ]
    )
    np.testing.assert_array_equal(mean["w"], [2.0, 4.0])  # (30*1 + 10*5)/40, (30*5 + 10*1)/40


def make(seed, site, examples):
    rng = np.random.default_rng(seed)
    arrays = {
        "kernel": rng.normal(size=(3, 50)).astype(np.float32),
        "half": rng.normal(size=9).astype(np.float16),
        "wide": rng.normal(size=4),
    }
    return Contribution(site, arrays, examples)


CONTRIBUTIONS = [make(1, "C1", 252), make(2, "C2", 286), make(3, "C3", 7), make(4, "C4", 91)]


def test_the_mean_agrees_with_numpys_average():
    mean = weighted_mean.weighted_mean(CONTRIBUTIONS)
    for name, tolerance in (("kernel", 1e-6), ("half", 1e-3), ("wide", 1e-14)):
        stacked = np.stack([c.arrays[name].astype(np.float64) for c in CONTRIBUTIONS])
        expected = np.average(stacked, axis=0, weights=[c.num_examples for c in CONTRIBUTIONS])
        assert mean[name].dtype == CONTRIBUTIONS[0].arrays[name].dtype
        np.testing.assert_allclose(mean[name], expected, rtol=tolerance, atol=tolerance)


def test_the_same_bits_for_every_order_of_arrival():
    results = {
        b"".join(array.tobytes() for array in weighted_mean.weighted_mean(order).values())
        for order in itertools.permutations(CONTRIBUTIONS)
    }
    assert len(results) == 1


def test_one_site_alone_is_its_own_mean_bit_for_bit():
    alone = make(9, "C1", 2**28 - 1)
    for name, array in weighted_mean.weighted_mean([alone]).items():
        np.testing.assert_array_equal(array, alone.arrays[name])


def test_accumulation_does_not_lose_a_small_site_beside_a_large_one():
    # In float32, 16777216 + 1 is 16777216.
    mean = weighted_mean.weighted_mean(
        [
            Contribution("a", {"w": np.float32([16777216.0])}, 1),
            Contribution("b", {"w": np.float32([2.0])}, 1),
        ]
    )
    assert mean["w"] == np.float32(8388609.0)


def _check_mean_of_files(folder, contributions):
    """The mean of spooled files has the bits of the mean in memory, in whatever order the files are
    named.
    """
    sources = {}
    for c in contributions:
        tensor_files.save(folder / c.site, c.arrays)
        sources[c.site] = (TensorFile(folder / c.site), c.num_examples)
    with TensorFileWriter(folder / "mean", next(iter(sources.values()))[0].specs, {}) as writer:
        weighted_mean.weighted_mean_of_sources(sources, writer)
        writer.finish()
    for source, _ in sources.values():
        source.close()
    arrays, _ = tensor_files.load(folder / "mean")
    for name, expected in weighted_mean.weighted_mean(contributions).items():
        np.testing.assert_array_equal(arrays[name], expected)


@pytest.mark.parametrize("order", [("C1", "C2", "C3", "C4"), ("C4", "C2", "C1", "C3")])
def test_spooled_updates_give_the_bits_of_the_mean_in_memory(tmp_path, monkeypatch, order):
    monkeypatch.setattr(
        weighted_mean, "SLAB_BYTES", 40
    )  # so that tensors take several slabs, the last one short
    by_site = {c.site: c for c in CONTRIBUTIONS}
    _check_mean_of_files(tmp_path, [by_site[site] for site in order])


def test_chunks_that_hold_several_dtypes_and_models_of_many_chunks_give_the_bits_of_the_mean_in_memory(
    tmp_path,
):
    def large(seed, site, examples):
        rng = np.random.default_rng(seed)  # 1.2, 2.4 and 0.6 MB: dtypes meet inside of chunks
        arrays = {
            "wide": rng.normal(size=150_001),
            "kernel": rng.normal(size=600_007).astype(np.float32),
        }
        return Contribution(
            site, {**arrays, "half": rng.normal(size=300_003).astype(np.float16)}, examples
        )

    contributions = [large(1, "C1", 252), large(2, "C2", 286), large(3, "C3", 7)]
    _check_mean_of_files(tmp_path, contributions)


def test_updates_that_do_not_fit_each_other_are_not_broadcast():
    with pytest.raises(
        errors.IncompatibleWeights, match=r"'b' .* w: expected F64\[2\], received F64\[1\]"
    ):
        weighted_mean.weighted_mean(
            [Contribution("a", {"w": np.zeros(2)}, 1), Contribution("b", {"w": np.zeros(1)}, 1)]
        )


@pytest.mark.parametrize(
    ("contributions", "message"),
    [([], "no update"), ([Contribution("a", {"w": np.zeros(1)}, 0)], "'a' has num_examples 0")],
)
def test_without_examples_there_is_no_mean(contributions, message):
    with pytest.raises(ValueError, match=message):
        weighted_mean.weighted_mean(contributions)
