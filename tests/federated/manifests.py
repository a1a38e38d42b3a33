"""The manifest and the digest of arrays in memory, to compare with those of files and transfers."""

from __future__ import annotations

from federated.tensors.weights import Digest, little_endian_bytes, specs_of


def manifest_of(arrays):
    specs = specs_of(arrays)
    result = Digest(specs)
    for spec in specs:
        result.update(little_endian_bytes(arrays[spec.name]))
    return result.manifest()


def digest(arrays):
    """Returns 64 hexadecimal digits."""
    return manifest_of(arrays).sha256
