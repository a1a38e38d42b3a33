import types

import numpy as np
import pytest

from federated import errors
from federated.rounds.tasks import Task
from federated.secure_aggregation import ring
from federated.site.evaluation import SiteReports
from federated.site.journal import Journal
from federated.site.sums.sum_part import SumPart, masking_of
from federated.site.sums.sum_terms import SumTerms
from federated.tensors.weights import specs_of
from federated.wire.messages import Receipt, SumPlace, SumPost, SumSettings, SumState
from tests.federated import toy
from tests.federated.manifests import manifest_of

MODEL = {"w": np.arange(4, dtype=np.float32)}
SETTINGS = SumSettings(2, 3, 64.0, ring.FRACTION_BITS)


class Server:
    """Notes what it is asked and sent."""

    def __init__(self):
        self.calls = []

    def pull(self, model, path, *, specs):
        self.calls.append(("pull", model, specs))
        return manifest_of(MODEL)

    def ask_sum(self, phase, place):
        self.calls.append(("ask", phase, place))
        return SumState(survivors=("C1", "C2"))

    def post_sum(self, post):
        self.calls.append(("post", post))

    def push(self, path, sha256, **about):
        self.calls.append(("push", path.name, sha256, about))
        return Receipt("C1", "round_002", sha256)


class Masks:
    """Says what it is asked to mask."""

    def __init__(self, folder):
        self.masked_path, self.plain = folder / "masked.safetensors", None
        self.model, self.unreadable = "", ()
        self.masked_path.write_bytes(b"masked")

    def keys(self, task, plain):
        self.plain = plain
        return SumPost("keys", SumPlace(task.discarded, task.round, task.exchange))

    def note_model(self, task, sha256):
        self.model = sha256

    def model_of(self, task):
        return self.model

    def part(self, task, state):
        return SumPost(task.kind, SumPlace(task.discarded, task.round, task.exchange))

    def mask(self, task, state, plain):
        self.plain = plain
        return "ab" * 32


@pytest.fixture
def site(tmp_path):
    journal, server, noted = Journal(tmp_path / "journal"), Server(), []
    masks = Masks(tmp_path)
    part = SumPart(
        masks,
        server,
        journal,
        specs_of(MODEL),
        frozenset({"w"}),
        SiteReports("C1", toy.ToyTrainer("C1"), 2),
        lambda event, **fields: noted.append((event, fields)),
        lambda: 1.0,
    )
    part.note_model(task("train"), manifest_of(MODEL).sha256)
    # Of a process that did not round.
    pending = journal.keep_update(2, MODEL, 30, {"loss": 0.5123, "privacy_epsilon": 0.7241})
    journal.wait_until_durable()
    return types.SimpleNamespace(
        part=part, journal=journal, server=server, masks=masks, noted=noted, pending=pending
    )


def task(kind):
    return Task(kind, 2, discarded=1, exchange=3)


def test_keys_are_sent_for_the_update_and_the_model_it_was_trained_from(site):
    site.part.send_keys(task("train"), site.pending)
    assert site.server.calls[0] == ("pull", "round_001", specs_of(MODEL))
    assert site.server.calls[1] == ("post", SumPost("keys", SumPlace(1, 2, 3)))
    plain = site.masks.plain
    assert (plain.update, plain.sha256) == (site.journal.update_path, site.pending.sha256)
    assert plain.model_sha256 == manifest_of(MODEL).sha256 and plain.num_examples == 30
    assert site.noted == [("sum", {"phase": "keys", "round": 2, "exchange": 3})]


def test_a_server_that_has_another_model_than_the_one_it_gave_to_train_gets_no_signature(site):
    site.part.note_model(task("train"), "0" * 64)
    for call in (
        lambda: site.part.send_keys(task("train"), site.pending),
        lambda: site.part.take_part(task("mask")),
    ):
        with pytest.raises(errors.ServerMisbehaves, match="another global model 1 now"):
            call()
    assert all(call[0] in ("pull", "ask") for call in site.server.calls)
    assert site.masks.plain is None


def test_an_update_of_an_unknown_model_is_not_masked(site):
    site.part.note_model(task("train"), "")
    assert not site.part.knows_model(task("train"))
    with pytest.raises(errors.StaleUpdate, match="trained no update of round 2"):
        site.part.send_keys(task("train"), site.pending)
    assert site.server.calls == []


def test_shares_that_cannot_be_opened_are_named_to_the_sites_operator(site):
    site.masks.unreadable = ("C3",)
    site.part.take_part(task("mask"))
    assert site.noted[-1][1]["unreadable"] == ("C3",)


@pytest.mark.parametrize("kind", ["share", "consent", "reveal"])
def test_a_part_is_what_the_masks_say_to_what_the_server_said(site, kind):
    assert site.part.take_part(task(kind)) is False
    place = SumPlace(1, 2, 3)
    assert site.server.calls == [("ask", kind, place), ("post", SumPost(kind, place))]
    assert site.noted[0][1]["survivors"] == ("C1", "C2")


def test_the_masked_update_is_pushed_in_place_of_the_plain_one(site):
    assert site.part.take_part(task("mask")) is True
    metrics = {"loss": 0.51, "privacy_epsilon": 0.7241}  # an epsilon is never told too small
    about = {"round_number": 2, "num_examples": 30, "metrics": metrics, "discarded": 0}
    assert site.server.calls[-1] == ("push", "masked.safetensors", "ab" * 32, about)
    assert site.noted[0] == (
        "pushed",
        {"round": 2, "masked": True, "bytes": 6, "seconds": 0.0},
    )
    assert site.journal.update is not None  # another exchange may be needed


def test_without_the_update_of_the_round_the_site_sits_the_exchange_out(site):
    site.journal.drop_update()
    with pytest.raises(errors.StaleUpdate, match="no update of round 2"):
        site.part.take_part(task("share"))
    assert site.server.calls == []


def test_an_update_that_the_disk_corrupted_is_trained_again_for_the_next_exchange(site):
    def refuses(task, state, plain):
        raise errors.StaleUpdate("the file of this site's update was changed")

    site.masks.mask = refuses
    with pytest.raises(errors.StaleUpdate):
        site.part.take_part(task("mask"))
    assert site.journal.update == site.pending  # another cause
    content = bytearray(site.journal.update_path.read_bytes())
    content[-1] ^= 1
    site.journal.update_path.write_bytes(content)
    with pytest.raises(errors.StaleUpdate):
        site.part.take_part(task("mask"))
    assert site.journal.update is None


def test_what_a_session_means_for_a_site(tmp_path):
    journal = Journal(tmp_path / "journal")
    transport = types.SimpleNamespace(signer=lambda: None)
    plain = types.SimpleNamespace(run="run", sums=None)
    secure = types.SimpleNamespace(run="run", sums=SETTINGS)
    required = SumTerms(require_secure_aggregation=True)
    assert masking_of(plain, transport, journal, SumTerms()) is None
    with pytest.raises(errors.PrivacyRefused, match="--require_secure_aggregation"):
        masking_of(plain, transport, journal, required)
    assert masking_of(secure, transport, journal, required) is not None
    with pytest.raises(errors.ServerMisbehaves, match="with which this run began"):
        masking_of(plain, transport, journal, SumTerms())
    other = types.SimpleNamespace(run="other", sums=None)
    assert masking_of(other, transport, journal, SumTerms()) is None
