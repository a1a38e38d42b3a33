import types

import numpy as np
import pytest

from federated import errors
from federated.rounds.sharing import ShareRules
from federated.site.journal import Journal
from federated.site.private_arrays import PrivateArrays
from federated.site.received_models import ReceivedModels
from federated.tensors import tensor_files
from federated.tensors.weights import specs_of
from tests.federated import toy
from tests.federated.manifests import manifest_of
from tests.federated.run_steps import start_driving


class Server:
    """Has global models and a lent one, which has only the arrays of `shared`."""

    def __init__(self, shared):
        self.shared, self.asked, self.arrays = shared, [], toy.INITIAL

    def pull(self, model, path, *, specs):
        self.asked.append(model)
        arrays = self.arrays
        if model == "C1_FL_local":
            arrays = {name: array + 1 for name, array in arrays.items() if name in self.shared}
        assert {spec.name for spec in specs} == arrays.keys()
        tensor_files.save(path, arrays)
        return manifest_of(arrays)


@pytest.fixture
def site(tmp_path):
    """A site that keeps the bias of its head, and takes the stem without sending it."""
    specs, journal, noted = specs_of(toy.INITIAL), Journal(tmp_path / "journal"), []
    sharing = ShareRules(keep=("head/*",), receive=("stem/*",)).of(toy.INITIAL)
    own = PrivateArrays(journal, sharing, specs)
    server = Server(sharing.shared)
    note = lambda event, **fields: noted.append((event, fields))  # noqa: E731
    models = ReceivedModels(server, journal, own, specs, note, lambda: 0.0)
    return types.SimpleNamespace(models=models, server=server, own=own, noted=noted)


def test_the_same_model_is_downloaded_once_until_it_is_forgotten(site):
    first = site.models.pull("round_000", 0)
    assert site.models.pull("round_000", 0) is first
    assert site.models.sha256 == manifest_of(toy.INITIAL).sha256
    site.models.forget()
    site.models.pull("round_000", 0)
    assert site.server.asked == ["round_000", "round_000"]


def test_a_models_own_arrays_are_put_in_and_told(site):
    kept = {**toy.INITIAL, "head/bias": np.float32([7, 8])}
    site.own.keep("round_001", kept)
    found = site.models.pull("round_001", 1)
    np.testing.assert_array_equal(found["head/bias"], [7, 8])
    np.testing.assert_array_equal(found["scale"], toy.INITIAL["scale"])
    assert site.noted[-1] == ("private_arrays", {"model": "round_001", "of": "round_001"})


def test_a_lent_model_is_completed_with_what_sites_only_receive_which_is_downloaded_once(site):
    site.own.keep("round_001", {**toy.INITIAL, "head/bias": np.float32([7, 8])})
    for _ in range(2):
        found = site.models.pull("C1_FL_local")
        np.testing.assert_array_equal(found["head/bias"], [7, 8])
        np.testing.assert_array_equal(found["stem/kernel"], toy.INITIAL["stem/kernel"])
        np.testing.assert_array_equal(found["scale"], toy.INITIAL["scale"] + 1)
        site.models.forget()
    assert site.server.asked == ["FL_global", "C1_FL_local", "C1_FL_local"]


def test_a_site_without_arrays_of_its_own_takes_those_of_the_initial_model(site):
    found = site.models.pull("C1_FL_local")  # as after the loss of its journal
    np.testing.assert_array_equal(found["head/bias"], toy.INITIAL["head/bias"])


@pytest.mark.parametrize("changed", ["scale", "stem/kernel", "head/bias"])
def test_the_whole_digest_covers_every_array_that_an_answer_depends_on(site, changed):
    """A server chooses those that sites only receive; the site's own ones change with training."""

    def digest(own, sent):
        site.own.keep("round_001", {**toy.INITIAL, "head/bias": np.float32(own)})
        site.models._unsent = {}  # as after a restart of the site
        site.models.forget()
        site.server.arrays = sent
        site.models.pull("C1_FL_local")
        return site.models.whole_sha256

    before = digest([7, 8], toy.INITIAL)
    assert digest([7, 8], toy.INITIAL) == before
    other = {**toy.INITIAL, changed: toy.INITIAL[changed] + 1}
    assert digest([7, 9] if changed == "head/bias" else [7, 8], other) != before


def test_the_whole_digest_of_a_model_that_needs_no_other_arrays_is_its_own(site):
    site.models.pull("round_000", 0)
    assert site.models.whole_sha256 == site.models.sha256 == manifest_of(toy.INITIAL).sha256


def test_a_site_with_another_network_downloads_no_model(opened, take_part, tmp_path):
    class Other(toy.ToyTrainer):
        _bulk = 5

    run = opened(min_num_clients=1, max_num_clients=1)
    driver = start_driving(run.lead)
    with pytest.raises(errors.ServerMisbehaves, match="bulk: missing, expected F32"):
        take_part({"C1": run.transport("C1")}, {"C1": Other("C1", bulk=5)})
    assert not (tmp_path / "journal_C1" / "incoming.safetensors").exists()
    run.lead.stop()
    driver.join(30)
