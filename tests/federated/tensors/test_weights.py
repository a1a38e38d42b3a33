import hashlib

import numpy as np
import pytest

from federated import errors
from federated.tensors import weights
from federated.tensors.weights import TensorSpec
from tests.federated import manifests

ARRAYS = {
    "b": np.array([1.0, 2.0], np.float32),
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "wide": np.array(3.0, np.float64),
}


def test_canonical_order_is_widest_first_then_by_name():
    assert [spec.name for spec in weights.specs_of(ARRAYS)] == ["wide", "a", "b"]


def test_the_digest_covers_the_specs_and_the_checksums_of_the_chunks(monkeypatch):
    monkeypatch.setattr(weights, "CHUNK_BYTES", 16)
    declaration = b'[["wide","F64",[]],["a","F32",[2,3]],["b","F32",[2]]]'
    content = (
        np.float64(3.0).tobytes()
        + np.arange(6, dtype="<f4").tobytes()
        + np.array([1, 2], "<f4").tobytes()
    )
    pieces = b"".join(
        hashlib.sha256(content[at : at + 16]).digest() for at in range(0, len(content), 16)
    )
    assert manifests.digest(ARRAYS) == hashlib.sha256(declaration + b"\n" + pieces).hexdigest()
    for step in (1, 7, 16, 100):
        digest = weights.Digest(weights.specs_of(ARRAYS))
        for at in range(0, len(content), step):
            digest.update(content[at : at + step])
        assert digest.manifest() == weights.TensorManifest(
            weights.Declaration(weights.specs_of(ARRAYS)), pieces
        )


def test_a_manifest_knows_its_chunks_and_has_a_checksum_for_each(monkeypatch):
    monkeypatch.setattr(weights, "CHUNK_BYTES", 16)
    manifest = manifests.manifest_of(ARRAYS)
    assert (manifest.nbytes, manifest.num_chunks, [manifest.size_of(i) for i in range(3)]) == (
        40,
        3,
        [16, 16, 8],
    )
    last = np.arange(6, dtype="<f4").tobytes()[-0:][24:] + np.array([1, 2], "<f4").tobytes()
    assert (
        manifest.is_chunk(2, last)
        and not manifest.is_chunk(1, last)
        and not manifest.is_chunk(3, b"")
        and not manifest.is_chunk(-1, last)
    )
    with pytest.raises(errors.DamagedTransfer, match="64 bytes of checksums for 3 chunks"):
        weights.TensorManifest(manifest.specs, manifest.addresses[:64])


def test_digest_does_not_depend_on_memory_layout_or_byte_order():
    turned = {name: np.array(array, order="F") for name, array in ARRAYS.items()}
    swapped = {name: array.astype(array.dtype.newbyteorder(">")) for name, array in ARRAYS.items()}
    assert manifests.digest(turned) == manifests.digest(swapped) == manifests.digest(ARRAYS)


def test_the_same_bytes_in_another_shape_have_another_digest():
    assert manifests.digest({"a": np.zeros((2, 3), np.float32)}) != manifests.digest(
        {"a": np.zeros((3, 2), np.float32)}
    )


def test_differences_name_what_is_missing_extra_and_changed():
    expected = [
        TensorSpec("a", "F32", (2, 3)),
        TensorSpec("b", "F32", (2,)),
        TensorSpec("c", "F32", ()),
    ]
    received = [
        TensorSpec("a", "F32", (3, 2)),
        TensorSpec("c", "F64", ()),
        TensorSpec("d", "F32", (1,)),
    ]
    assert [
        f"{reason.tensor}: {reason.text}" for reason in weights.differences(expected, received)
    ] == [
        "a: expected F32[2, 3], received F32[3, 2]",
        "b: missing, expected F32[2]",
        "c: expected F32[], received F64[]",
        "d: F32[1] is not part of the model",
    ]
    assert [reason.kind for reason in weights.differences(expected, received)] == [
        "differs",
        "missing",
        "differs",
        "not_part",
    ]
    with pytest.raises(
        errors.IncompatibleWeights,
        match=r"update of site 'C1' .* 4 tensors differ: a: expected .*genotype",
    ):
        weights.check_same(expected, received, what="update of site 'C1'")


def test_a_long_list_of_differences_is_cut_and_counted():
    expected = [TensorSpec(f"t{i:03d}", "F32", (1,)) for i in range(200)]
    with pytest.raises(errors.IncompatibleWeights, match=r"200 tensors differ.*and 170 more"):
        weights.check_same(expected, [], what="model")


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ([], "0 tensors declared"),
        (
            [TensorSpec("a", "F32", (2**40,))],
            f"{2**42} bytes declared, at most {weights.MAX_BYTES} ",
        ),
        ([TensorSpec("a", "F32", (2**40, 2**40, 0))] * 2, "declared twice"),
        ([TensorSpec("a", "I64", (2,))], "dtype 'I64'"),
        ([TensorSpec("a", "F32", (-1,))], "is not a shape"),
        ([TensorSpec("", "F32", (1,))], "tensor name ''"),
        ([TensorSpec("a\n", "F32", (1,))], "not printable"),
        ([TensorSpec("b", "F32", (1,)), TensorSpec("a", "F32", (1,))], "canonical order"),
    ],
)
def test_specs_are_checked_before_anything_is_allocated(specs, message):
    with pytest.raises(errors.IncompatibleWeights, match=message):
        weights.check_declaration(specs)


def test_integers_are_refused_as_weights():
    with pytest.raises(errors.IncompatibleWeights, match=r"step: dtype int64 cannot be averaged"):
        weights.specs_of({"step": np.zeros(2, np.int64)})


@pytest.mark.parametrize("count", [0, 1, 3])
def test_there_is_no_manifest_with_another_number_of_checksums_than_of_chunks(count):
    specs = (weights.TensorSpec("a", "F32", (2**18 + 1,)),)  # one value more than a chunk
    assert weights.TensorManifest(weights.Declaration(specs), bytes(64)).num_chunks == 2
    with pytest.raises(errors.DamagedTransfer, match="bytes of checksums for 2 chunks"):
        weights.TensorManifest(weights.Declaration(specs), bytes(32 * count))


@pytest.mark.parametrize("shapes", [{"b": (1,), "a": (1,)}, {"a": (-1,)}, {"": (1,)}, {}], ids=str)
def test_there_is_no_malformed_declaration(shapes):
    specs = tuple(weights.TensorSpec(name, "F32", shape) for name, shape in shapes.items())
    with pytest.raises(errors.IncompatibleWeights):
        weights.Declaration(specs)


def test_a_declaration_is_made_and_checked_once():
    declared = weights.Declaration(weights.specs_of(ARRAYS))
    assert weights.Declaration(declared) is declared == weights.specs_of(ARRAYS)
    assert declared.nbytes == sum(array.nbytes for array in ARRAYS.values())
