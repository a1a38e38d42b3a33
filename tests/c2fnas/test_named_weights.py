import hashlib
import resource

import numpy as np
import pytest
import safetensors

from c2fnas import named_weights, network
from c2fnas.genotype import CellGene, Genotype
from tests.exhausted_descriptors import exhausted

SMALL = Genotype("small", (CellGene((0,), 1, "p3d"), CellGene((1,), 1, "conv2d")), filters=2)


@pytest.fixture(scope="module")
def built():
    return network.build(
        SMALL, patch_size=(4, 4, 4), latent_size=3, class_prior=(0.9, 0.06, 0.04), seed=5
    )


def test_read_and_assign_round_trip(built):
    before = named_weights.read(built)
    changed = {name: array + np.float32(0.5) for name, array in before.items()}
    named_weights.assign(built, changed)
    for name, array in named_weights.read(built).items():
        np.testing.assert_array_equal(array, changed[name])
    named_weights.assign(built, before)


def test_specs_are_the_shapes(built):
    found = named_weights.specs(built)
    assert found["stem/first/kernel"] == ((3, 3, 3, 1, 2), "float32")
    assert found["cell01/input0/op/through_plane/kernel"] == ((1, 1, 3, 4, 4), "float32")
    assert found["cell01/input0/op/through_plane/gamma"] == ((4,), "float32")
    assert found["end/classifier/bias"] == ((3,), "float32")
    assert found["vae/mean/bias"] == ((3,), "float32")
    assert list(found) == list(built.variables)


def test_refusals_list_the_names_and_change_nothing(built):
    before = named_weights.read(built)
    wrong = {name: array + 1 for name, array in before.items()}
    wrong["somewhere/kernel"] = wrong.pop("stem/first/gamma")
    wrong["cell02/last/kernel"] = wrong["cell02/last/kernel"][..., :1]
    with pytest.raises(
        ValueError,
        match=r"missing stem/first/gamma.*unexpected somewhere/kernel.*"
        r"cell02/last/kernel is .*expected",
    ) as caught:
        named_weights.assign(built, wrong)
    assert "'small' with 2 filters" in str(caught.value)
    for name, array in named_weights.read(built).items():
        np.testing.assert_array_equal(array, before[name])


def test_many_missing_names_are_shortened(built):
    with pytest.raises(ValueError, match=r"and [0-9]+ more"):
        named_weights.assign(built, {})


def test_start_values(built):
    arrays = named_weights.initial(built, seed=5)
    for name, array in arrays.items():
        assert array.dtype == np.float32
        if name.endswith("gamma"):
            assert (array == 1).all()
        elif name.endswith("kernel"):
            fan = np.prod(array.shape[:-2]) * (array.shape[-2] + array.shape[-1])
            assert np.abs(array).max() <= np.sqrt(6 / fan)
            if array.size > 500:
                assert array.std() == pytest.approx(
                    np.sqrt(2 / fan), rel=0.1
                )  # of a uniform distribution: limit / sqrt(3)
                assert abs(array.mean()) < 4 * array.std() / np.sqrt(array.size)
        elif name != "end/classifier/bias":
            assert (array == 0).all()
    np.testing.assert_allclose(arrays["end/classifier/bias"], np.log([0.9, 0.06, 0.04]), rtol=1e-6)


def test_build_sets_start_values_of_the_same_bits_on_both_stacks(built):
    arrays = named_weights.initial(built, seed=5)
    for name, array in named_weights.read(built).items():
        np.testing.assert_array_equal(array, arrays[name])
    # Recorded once: the same digest on every stack and version.
    kernels = b"".join(array.tobytes() for name, array in arrays.items() if name.endswith("kernel"))
    assert hashlib.sha256(kernels).hexdigest()[:16] == "5945f95051c0c4a9"


def test_seeds_and_names_differ(built):
    one, two = named_weights.initial(built, 1), named_weights.initial(built, 2)
    assert (one["stem/first/kernel"] != two["stem/first/kernel"]).mean() > 0.99
    assert (one["cell01/input0/first/kernel"] != one["cell01/last/kernel"]).mean() > 0.9
    assert (
        named_weights.initial(built, 1)["vae/mean/kernel"].tobytes()
        == one["vae/mean/kernel"].tobytes()
    )


def test_files_keep_arrays_and_metadata(built, tmp_path):
    arrays = named_weights.read(built)
    named_weights.save(tmp_path / "model.safetensors", arrays, {"round": "3"})
    found, metadata = named_weights.load(tmp_path / "model.safetensors")
    assert metadata == {"round": "3"}
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_transposed_arrays_are_written_as_they_look(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    named_weights.save(tmp_path / "a.safetensors", {"a": array})
    np.testing.assert_array_equal(named_weights.load(tmp_path / "a.safetensors")[0]["a"], array)


@pytest.mark.parametrize("content", [None, b"", b"\x08\x00\x00\x00\x00\x00\x00\x00{}"])
def test_unreadable_files_are_named(content, tmp_path):
    path = tmp_path / "broken.safetensors"
    if content is not None:
        path.write_bytes(content[:9])
    with pytest.raises(ValueError, match=r"broken\.safetensors"):
        named_weights.load(path)


def test_a_file_that_cannot_be_opened_gives_the_reason_of_the_system(tmp_path):
    path = tmp_path / "a.safetensors"
    named_weights.save(path, {"a": np.ones(2, np.float32)})
    with exhausted(), pytest.raises(OSError, match=r"Too many open files: .*a\.safetensors"):
        named_weights.load(path)


def test_a_file_that_can_be_opened_a_moment_later_is_read(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    named_weights.save(path, {"a": np.ones(2, np.float32)})
    real, failures = safetensors.safe_open, [FileNotFoundError(f"No such file: {path}")]

    def fails_once(*arguments, **options):
        if failures:
            raise failures.pop()
        return real(*arguments, **options)

    monkeypatch.setattr(safetensors, "safe_open", fails_once)
    np.testing.assert_array_equal(named_weights.load(path)[0]["a"], np.ones(2))
    assert not failures


def test_one_name_for_two_variables_is_refused():
    layers = named_weights.NamedLayers()

    class Layer:
        kernel = np.zeros(1)

    layers.add("a", Layer())
    layers.add("a", Layer())
    with pytest.raises(ValueError, match="a/kernel"):
        layers.variables()


def test_a_full_disk_is_reported_as_an_os_error(tmp_path):
    """A limit on the size of a file fails a write as a full disk does.

    safetensors raises its own error for it.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(OSError, match=r"File too large; it takes 8\.0 MB") as caught:
            named_weights.save(
                tmp_path / "best.safetensors", {"w": np.zeros(2_000_000, np.float32)}
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.filename == str(tmp_path / "best.safetensors") and not list(
        tmp_path.iterdir()
    )
