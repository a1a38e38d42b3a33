import numpy as np
import pytest

from federated import errors
from federated.site import transport
from federated.tensors import tensor_files
from federated.wire.messages import Receipt, SumPlace, SumPost
from tests.federated import toy
from tests.federated.manifests import manifest_of


class Recording(transport.Transport):
    """Keeps what it is given to send."""

    site = "C1"

    def __init__(self):
        self.sent = []

    def _send(self, file, offer):
        self.sent.append((file.path, offer))
        return Receipt(self.site, offer.model or f"round_{offer.round:03d}", offer.sha256)

    login = next_task = heart_beat = pull = report_scores = declare_models = None
    submit_rows = close = None


@pytest.fixture
def update(tmp_path):
    path = tmp_path / "update.safetensors"
    return path, tensor_files.save(path, toy.INITIAL)


def test_an_update_is_announced_with_its_manifest_and_everything_about_it(update):
    path, sha256 = update
    site = Recording()
    receipt = site.push(
        path, sha256, round_number=2, num_examples=30, metrics={"loss": 0.5}, discarded=1
    )
    assert receipt == Receipt("C1", "round_002", sha256)
    ((_, offer),) = site.sent
    assert offer.manifest == manifest_of(toy.INITIAL) and offer.sha256 == sha256
    assert (offer.round, offer.num_examples, offer.discarded) == (2, 30, 1)
    assert offer.metrics == {"loss": 0.5} and offer.model == ""


def test_a_lent_model_is_announced_by_its_name(update):
    site = Recording()
    assert site.publish(*update, model="C1_baseline").what == "C1_baseline"
    ((_, offer),) = site.sent
    assert (offer.model, offer.round, offer.num_examples) == ("C1_baseline", 0, 0)


@pytest.mark.parametrize("known", [True, False])
def test_a_file_is_read_again_unless_its_manifest_is_still_valid(update, known, monkeypatch):
    path, sha256 = update
    read, file_manifest = [], transport.file_manifest

    def reading(file):
        read.append(file)
        return file_manifest(file)

    monkeypatch.setattr(transport, "file_manifest", reading)
    valid = manifest_of(toy.INITIAL) if known else None
    with transport.offering(path, sha256, manifest=lambda: valid, round=1) as (_, offer):
        assert offer.manifest == manifest_of(toy.INITIAL)
    assert bool(read) != known


def test_a_model_that_was_changed_since_is_named_and_not_sent(update):
    path, sha256 = update
    tensor_files.save(path, {name: array + np.float32(1) for name, array in toy.INITIAL.items()})
    site = Recording()
    with pytest.raises(ValueError, match=r"update\.safetensors: was changed since it was written"):
        site.push(path, sha256, round_number=1, num_examples=30, metrics={})
    assert site.sent == []


@pytest.mark.parametrize("changed", [True, False])
def test_damage_on_this_sites_own_disk_is_not_taken_for_damage_on_the_way(update, changed):
    """A disk that corrupts a file changes no time stamp; sending it again would never help."""
    path, sha256 = update

    class Refusing(Recording):
        def _send(self, file, offer):
            raise errors.DamagedTransfer("checksum of chunk 0 does not match")

    if changed:
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    known = {"manifest": lambda: manifest_of(toy.INITIAL)}
    about = {"round_number": 1, "num_examples": 30, "metrics": {}}
    with pytest.raises(
        ValueError if changed else errors.DamagedTransfer,
        match=r"update\.safetensors: was changed" if changed else "checksum of chunk 0",
    ):
        Refusing().push(path, sha256, **about, **known)


def test_a_connection_without_secure_aggregation_says_so():
    """A connection of somebody else need not have these calls."""
    site, place = Recording(), SumPlace(0, 1, 1)
    for call in (
        lambda: site.ask_sum("mask", place),
        lambda: site.post_sum(SumPost("keys", place)),
        site.signer,
    ):
        with pytest.raises(errors.VersionDiffers, match="secure aggregation, which this site's"):
            call()
