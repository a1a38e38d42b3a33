import numpy as np
import pytest

from federated import errors
from federated.aggregation.update_checks import UpdateCheck, check_change, norm_of, usual_change
from federated.tensors import codec, tensor_files, weights
from federated.tensors.tensor_files import TensorFile

RNG = np.random.default_rng(2)
GLOBAL = {
    "kernel": RNG.normal(size=(400_000,)).astype(np.float32),  # reaches into the second chunk
    "bias": RNG.normal(size=(5,)).astype(np.float32),
    "half": np.array([0.5, -2.0, 3.0], np.float16),
    "wide": RNG.normal(size=(3,)),
}


@pytest.fixture
def checked(tmp_path):
    """Returns the check of an update after its chunks arrived in the given order."""

    def through(arrays, order=(0, 1)):
        tensor_files.save(tmp_path / "global.safetensors", GLOBAL)
        tensor_files.save(tmp_path / "update.safetensors", arrays)
        with (
            TensorFile(tmp_path / "global.safetensors") as before,
            TensorFile(tmp_path / "update.safetensors") as after,
        ):
            check = UpdateCheck(weights.specs_of(arrays), before)
            for chunk in codec.chunks(after, order):
                check.look(chunk.index, chunk.data)
        return check

    return through


def test_the_norm_of_the_change_is_that_of_all_tensors_together(checked):
    update = {
        name: (array + RNG.normal(size=array.shape)).astype(array.dtype)
        for name, array in GLOBAL.items()
    }
    expected = np.sqrt(
        sum(
            np.sum((update[name].astype(np.float64) - array) ** 2) for name, array in GLOBAL.items()
        )
    )
    gate = checked(update)
    gate.check("update")
    np.testing.assert_allclose(gate.change, expected, rtol=1e-5)
    assert (
        checked(update, order=(1, 0)).change
        == checked(update, order=(1, 0, 1)).change
        == gate.change
    )


def test_every_tensor_with_non_finite_values_is_named_with_their_number(checked):
    update = {name: array.copy() for name, array in GLOBAL.items()}
    update["kernel"][[0, 200_000, 399_999]] = np.nan, np.inf, -np.inf
    update["half"][1] = np.nan
    with pytest.raises(
        errors.UpdateRefused,
        match=r"update of C1: kernel holds a value that is not finite \(3 of 400000 values\); half",
    ) as caught:
        checked(update, order=(1, 0)).check("update of C1")
    assert [(reason.tensor, reason.kind) for reason in caught.value.reasons] == [
        ("kernel", "not_finite"),
        ("half", "not_finite"),
    ]


def test_a_change_beyond_float32_is_infinite_and_refused(checked):
    update = {**GLOBAL, "bias": np.full(5, 3e38, np.float32)}
    with np.errstate(over="ignore"):
        gate = checked(update)
    gate.check("update")  # each value is finite
    assert gate.change == np.inf
    with pytest.raises(errors.UpdateRefused, match="changes the model by inf"):
        check_change(gate.change, 1.0, max_ratio=10.0, what="update")


def test_a_sum_of_squares_beyond_float64_is_infinite_too(tmp_path):
    before = {"wide": np.zeros(2 * weights.CHUNK_BYTES // 8)}
    update = np.zeros_like(before["wide"])
    update[[0, -1]] = 1.2e154  # one in each chunk, whose own square is finite
    tensor_files.save(tmp_path / "global.safetensors", before)
    tensor_files.save(tmp_path / "update.safetensors", {"wide": update})
    with (
        TensorFile(tmp_path / "global.safetensors") as reference,
        TensorFile(tmp_path / "update.safetensors") as after,
    ):
        check = UpdateCheck(weights.specs_of(before), reference)
        for chunk in codec.chunks(after, (0, 1)):
            check.look(chunk.index, chunk.data)
    assert check.change == np.inf


def test_a_change_is_compared_with_the_usual_one():
    check_change(99.0, 10.0, max_ratio=10.0, what="u")
    with pytest.raises(
        errors.UpdateRefused,
        match=r"changes the model by 101 .*; 10 is usual, and at most 10 times that is accepted"
        r".*operator can raise --max_change_ratio",
    ) as caught:
        check_change(101.0, 10.0, max_ratio=10.0, what="u")
    assert [reason.kind for reason in caught.value.reasons] == ["norm"]
    check_change(1e9, 1.0, max_ratio=0, what="u")  # no limit


@pytest.mark.parametrize(
    ("others", "norm", "values", "expected"),
    [
        ([], 8.0, 100, 1.6),  # a fifth of the initial model's norm
        ([9.0, 10.0, 1000.0], 8.0, 100, 10.0),  # the median of others
        ([900.0, 1000.0], 8.0, 100, 16.0),  # but never more than twice the initial model's norm
        ([7.0], 8.0, 100, 7.0),  # one other site is enough
        ([1e-9, 1e-9], 8.0, 100, 1.6),  # tiny changes by a hostile site do not shut others out
        ([], 0.0, 10_000, 0.02),  # a model of zeros counts as one of values of 0.001
    ],
)
def test_the_usual_change_is_the_others_median_within_bounds_of_the_initial_norm(
    others, norm, values, expected
):
    assert usual_change(others, initial_norm=norm, num_values=values) == pytest.approx(expected)


def test_the_norm_of_a_model_is_that_of_all_its_values(tmp_path):
    tensor_files.save(tmp_path / "global.safetensors", GLOBAL)
    expected = np.sqrt(sum(np.sum(array.astype(np.float64) ** 2) for array in GLOBAL.values()))
    with TensorFile(tmp_path / "global.safetensors") as file:
        np.testing.assert_allclose(norm_of(file), expected, rtol=1e-12)
