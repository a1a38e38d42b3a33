import numpy as np
import pytest

from federated import codec, errors, tensor_files, weights
from federated.gate import UpdateGate, check_change
from federated.tensor_files import TensorFile

RNG = np.random.default_rng(2)
GLOBAL = {
    "kernel": RNG.normal(size=(400_000,)).astype(np.float32),  # reaches into the second chunk
    "bias": RNG.normal(size=(5,)).astype(np.float32),
    "half": np.array([0.5, -2.0, 3.0], np.float16),
    "wide": RNG.normal(size=(3,)),
}


@pytest.fixture
def look(tmp_path):
    """Returns the gate of an update after it has seen its pieces in an order."""

    def through(arrays, order=(0, 1)):
        tensor_files.save(tmp_path / "global.safetensors", GLOBAL)
        tensor_files.save(tmp_path / "update.safetensors", arrays)
        with TensorFile(tmp_path / "global.safetensors") as before, TensorFile(tmp_path / "update.safetensors") as after:
            gate = UpdateGate(weights.specs_of(arrays), before)
            for chunk in codec.chunks(after, order):
                gate.look(chunk.index, chunk.data)
        return gate

    return through


def test_the_norm_of_the_change_is_that_of_all_tensors_together(look):
    update = {name: (array + RNG.normal(size=array.shape)).astype(array.dtype) for name, array in GLOBAL.items()}
    expected = np.sqrt(sum(np.sum((update[name].astype(np.float64) - array) ** 2) for name, array in GLOBAL.items()))
    gate = look(update)
    gate.check("update")
    np.testing.assert_allclose(gate.change, expected, rtol=1e-5)
    assert look(update, order=(1, 0)).change == look(update, order=(1, 0, 1)).change == gate.change


def test_every_bad_tensor_is_named_with_the_number_of_its_bad_values(look):
    update = {name: array.copy() for name, array in GLOBAL.items()}
    update["kernel"][[0, 200_000, 399_999]] = np.nan, np.inf, -np.inf
    update["half"][1] = np.nan
    with pytest.raises(
        errors.UpdateRefused, match=r"update of C1: kernel holds a value that is not finite \(3 of 400000 values\); half"
    ) as caught:
        look(update, order=(1, 0)).check("update of C1")
    assert [(reason.tensor, reason.kind) for reason in caught.value.reasons] == [("kernel", "not_finite"), ("half", "not_finite")]


def test_a_change_beyond_float32_is_infinite_and_refused(look):
    update = {**GLOBAL, "bias": np.full(5, 3e38, np.float32)}
    with np.errstate(over="ignore"):
        gate = look(update)
    gate.check("update")  # each value is finite
    assert gate.change == np.inf
    with pytest.raises(errors.UpdateRefused, match="changes the model by inf"):
        check_change(gate.change, [1.0, 1.0], max_ratio=10.0, what="update")


def test_a_change_is_compared_with_the_median_of_others():
    check_change(99.0, [9.0, 10.0, 1000.0], max_ratio=10.0, what="u")
    with pytest.raises(
        errors.UpdateRefused, match=r"changes the model by 101 .* the median of others is 10, 10 times that is taken"
    ) as caught:
        check_change(101.0, [9.0, 10.0, 1000.0], max_ratio=10.0, what="u")
    assert [reason.kind for reason in caught.value.reasons] == ["norm"]


@pytest.mark.parametrize(("others", "ratio"), [([], 10.0), ([1.0], 10.0), ([0.0, 0.0], 10.0), ([1.0, 1.0], 0)])
def test_too_few_others_no_change_of_theirs_or_no_limit_decide_nothing(others, ratio):
    check_change(1e9, others, max_ratio=ratio, what="u")
