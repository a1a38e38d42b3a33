"""Whole runs with secure aggregation: over TLS with a dying site, and with dishonest servers."""

import json
import threading

import numpy as np
import pytest

from federated import errors, simulation
from federated.aggregation.fedavgm import FedAvgM
from federated.audit import verification
from federated.secure_aggregation import participant, ring
from federated.secure_aggregation.keys import Context
from federated.site import loop
from federated.site.grpc_transport import GrpcTransport
from federated.site.journal import Journal
from federated.site.sums.masking import Masking
from federated.site.sums.sum_terms import SumTerms
from federated.tensors import tensor_files
from federated.wire import chunk_encoding
from federated.wire.messages import SumPlace, SumSettings
from runkit import backoff, private
from runkit.events import EventLog
from tests.federated import masked_site, toy

NAMES = ("C1", "C2", "C3")
SETTINGS = {**masked_site.SETTINGS, "num_rounds": 2, "poll_s": 0.5}
BULK = 4000


class Killed(BaseException):
    """The site's process is gone."""


class Dying:
    """A transport whose site is killed when it asks for a phase of a round."""

    def __init__(self, transport, phase, went_on):
        self._transport, self._phase, self._went_on = transport, phase, went_on

    def __getattr__(self, name):
        return getattr(self._transport, name)

    def ask_sum(self, phase, place):
        if phase == self._phase and not self._went_on.is_set():
            raise Killed
        return self._transport.ask_sum(phase, place)


class Watching:
    """A transport that records when its site is asked to train a round."""

    def __init__(self, transport, number, seen):
        self._transport, self._number, self._seen = transport, number, seen

    def __getattr__(self, name):
        return getattr(self._transport, name)

    def next_task(self):
        task = self._transport.next_task()
        if task.round >= self._number or task.kind == "finished":
            self._seen.set()
        return task


@pytest.fixture
def sent(monkeypatch):
    """Every byte that a site hands to gRPC."""
    found, encode, ask = [], chunk_encoding.part_to_bytes, GrpcTransport._ask

    def part_to_bytes(part):
        found.append(encode(part))
        return found[-1]

    def _ask(self, method, request, reply, **named):
        found.append(request.SerializeToString())
        return ask(self, method, request, reply, **named)

    monkeypatch.setattr(chunk_encoding, "part_to_bytes", part_to_bytes)
    monkeypatch.setattr(GrpcTransport, "_ask", _ask)
    return found


def model(folder, number):
    return tensor_files.load(folder / "global" / f"round_{number:03d}.safetensors")[0]


def plain_bytes(before, site, number):
    """Yields the bytes of a site's update and of what it adds before its masks."""
    for array in before.values():
        step = np.float32(toy.STEP[site] * number)
        update = (array * np.float32(0.5) + step).astype("f4").ravel()
        yield update.tobytes()
        words = ring.Ring(64.0, 3).words(update, array.ravel(), toy.EXAMPLES[site], what="u")
        yield words.tobytes()


def test_over_tls_a_site_dies_after_the_keys_and_no_plain_update_is_sent(serving, tmp_path, sent):
    start = toy.write_initial(tmp_path / "bulk.safetensors", arrays=toy.initial(BULK))
    running = serving(start=start, heart_beat_timeout_s=3.0, **SETTINGS)
    went_on, failures, outcomes = threading.Event(), [], {}

    def take_part(site):
        trainer = toy.ToyTrainer(site, bulk=BULK)
        while True:
            transport = running.connect(site)
            if site == "C2":
                transport = Dying(transport, "mask", went_on)
            if site == "C1":
                transport = Watching(transport, 2, went_on)
            try:
                outcomes[site] = loop.run(
                    trainer,
                    transport,
                    tmp_path / site,
                    terms=SumTerms(require_secure_aggregation=True, min_sum_sites=2),
                    pauses=lambda: iter(lambda: 0.05, None),
                )
                return
            except Killed:
                assert went_on.wait(60)
            except BaseException as error:
                failures.append(error)
                return

    threads = [threading.Thread(target=take_part, args=(site,), daemon=True) for site in NAMES]
    for thread in threads:
        thread.start()
    running.join()
    for thread in threads:
        thread.join(60)
    assert failures == [] and all(outcome.finished for outcome in outcomes.values())

    folder = running.folder
    for number, counted in ((1, ("C1", "C3")), (2, NAMES)):
        before = model(folder, number - 1)
        masked_site.assert_model(
            model(folder, number), masked_site.expected(before, counted, number)
        )
    lines = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    about = [line["secure_aggregation"] for line in lines if line["event"] == "aggregated"]
    assert about == [
        {"threshold": 2, "exchange": 1, "dropped": ["C2"]},
        {"threshold": 2, "exchange": 1, "dropped": []},
    ]
    data = b"".join(sent)
    assert len(data) > 5 * 8 * BULK  # two masked updates and then three
    for number in (1, 2):
        for site in NAMES:
            for plain in plain_bytes(model(folder, number - 1), site, number):
                pieces = [plain[at : at + 32] for at in range(0, len(plain) - 31, 32)]
                assert not any(piece in data for piece in pieces)

    found = verification.verify(folder)
    assert (found.rounds, found.recomputed, found.summed) == ((1, 2), (), (1, 2))


def test_the_search_for_plain_updates_finds_one(serving, sent, take_part):
    running = serving(num_rounds=1, min_num_clients=1, max_num_clients=1)
    take_part({"C1": running.connect("C1")}, {"C1": toy.ToyTrainer("C1")})
    running.join()
    plain = next(plain_bytes({"k": toy.INITIAL["stem/kernel"]}, "C1", 1))
    assert plain in b"".join(sent)


def test_a_simulated_run_gives_the_plain_mean_within_the_bound(initial, tmp_path):
    trainers = {site: toy.ToyTrainer(site) for site in NAMES}
    settings = {**SETTINGS, "cross_site_evaluation": True, "transport": "deflate"}
    summary = simulation.run(trainers, initial, tmp_path / "run", **settings)
    assert (summary.finished, summary.rounds) == (True, 2)
    for number in (1, 2):
        before = model(tmp_path / "run" / "server", number - 1)
        masked_site.assert_model(
            model(tmp_path / "run" / "server", number),
            masked_site.expected(before, NAMES, number),
        )
    found = verification.verify(tmp_path / "run" / "server")
    assert found.summed == (1, 2) and found.rows == NAMES
    # Nothing is left of the secrets.
    for site in NAMES:
        state = json.loads((tmp_path / "run" / site / "masking.json").read_text())
        assert state["participant"] is None
        assert not (tmp_path / "run" / site / "masked.safetensors").exists()


def test_a_rule_that_keeps_a_state_gives_what_it_gives_without_masks(initial, tmp_path):
    found = {}
    for name, more in (
        ("masked", {}),
        ("plain", {"secure_aggregation": False, "max_change_ratio": 10.0}),
    ):
        trainers = {site: toy.ToyTrainer(site) for site in NAMES}
        settings = {**SETTINGS, **more}
        simulation.run(trainers, initial, tmp_path / name, rule=FedAvgM(momentum=0.5), **settings)
        found[name] = model(tmp_path / name / "server", 2)
    for name, array in found["plain"].items():
        np.testing.assert_allclose(found["masked"][name], array, rtol=1e-5, atol=1e-6)


def run_site(run, folder, **named):
    return loop.run(toy.ToyTrainer("C1"), run.transport("C1"), folder, **named)


def test_a_server_without_secure_aggregation_gets_nothing_from_a_site_that_requires_it(
    opened, tmp_path
):
    run = opened(min_num_clients=1, max_num_clients=1)
    with pytest.raises(errors.PrivacyRefused, match=r"masked updates only .* --secure_aggreg"):
        run_site(run, tmp_path / "C1", terms=SumTerms(require_secure_aggregation=True))
    assert not (tmp_path / "C1" / "update.safetensors").exists()
    assert run.store.participants() == frozenset() and run.store.scores() == {}


def test_a_server_that_turns_secure_aggregation_off_in_a_run_gets_nothing(opened, tmp_path):
    run = opened(min_num_clients=1, max_num_clients=1)
    settings = SumSettings(2, 3, 64.0, ring.FRACTION_BITS)
    Masking(private.folder(tmp_path / "C1"), run.store.run_id, settings, lambda: None)
    with pytest.raises(errors.ServerMisbehaves, match="with which this run began"):
        run_site(run, tmp_path / "C1")


class TwoFaced:
    """A transport to a server that has another global model once a site has trained."""

    def __init__(self, transport):
        self._transport, self.pulls, self.posts = transport, 0, []

    def __getattr__(self, name):
        return getattr(self._transport, name)

    def pull(self, model, path, *, specs=None):
        self.pulls += 1
        if self.pulls == 1:
            return self._transport.pull(model, path, specs=specs)
        arrays = {name: array + 1 for name, array in toy.initial().items()}
        tensor_files.save(path, arrays)
        with tensor_files.TensorFile(path) as file:
            return tensor_files.file_manifest(file)

    def post_sum(self, post):
        self.posts.append(post)


def test_a_site_signs_the_model_that_it_trained_from_and_no_other(opened, tmp_path, clock):
    """Or a server could train sites from different models, and have all of them sign the same."""
    clock.now = masked_site.now()
    transport = TwoFaced(opened(**SETTINGS).transport("C1"))
    for _ in range(2):  # after a restart too, with the update on disk
        with pytest.raises(errors.ServerMisbehaves, match="another global model 0 now"):
            loop.run(toy.ToyTrainer("C1"), transport, tmp_path / "C1")
    assert transport.pulls == 3 and transport.posts == []
    assert (tmp_path / "C1" / "update.safetensors").exists()


@pytest.mark.parametrize("name", ["masking.json", "opened_sums.jsonl"])
def test_a_site_that_lost_what_it_knows_of_its_masks_and_sums_does_not_go_on(
    opened, tmp_path, clock, name
):
    """Or it could send an update without masks, or help to open a second sum of a round."""
    clock.now = masked_site.now()
    transport = TwoFaced(opened(**SETTINGS).transport("C1"))
    with pytest.raises(errors.ServerMisbehaves):
        loop.run(toy.ToyTrainer("C1"), transport, tmp_path / "C1")
    (tmp_path / "C1" / name).unlink()
    pulls = transport.pulls
    with pytest.raises(errors.PolicyRefused, match=f"{name}: is missing"):
        loop.run(toy.ToyTrainer("C1"), transport, tmp_path / "C1")
    assert transport.pulls == pulls and transport.posts == []


def test_a_site_that_is_done_forgets_its_secrets_without_a_server(initial, tmp_path, opened, clock):
    run = opened(**SETTINGS)
    journal = Journal(tmp_path / "C1")
    journal.enter(run.store.run_id)
    journal.finish()
    state = {
        "format": 1,
        "run": run.store.run_id,
        "settings": vars(run.config.sums),
        "min_sites": 3,
        "last": None,
        "model": None,
        "participant": participant.begin(
            run.transport("C1").signer(),
            Context(run.store.run_id, SumPlace(0, 1, 1), "ab" * 32, run.config.sums),
            "update",
        ).to_json(),
    }
    path = tmp_path / "C1" / "masking.json"
    path.write_text(json.dumps(state))
    transport = run.transport("C1")

    def unreachable(*given):
        raise errors.ServerUnreachable("no route")

    transport.login = unreachable
    assert loop.run(toy.ToyTrainer("C1"), transport, tmp_path / "C1").finished
    assert json.loads(path.read_text())["participant"] is None


def test_a_site_that_requires_masks_lends_no_model_as_it_is(opened, tmp_path, clock):
    run, journal = opened(min_num_clients=1, max_num_clients=1), tmp_path / "C1"
    site = loop._Loop(  # what it would lend, without a run that leads to it
        toy.ToyTrainer("C1"),
        run.transport("C1"),
        Journal(journal),
        EventLog(journal / "events.jsonl"),
        clock,
        lambda seconds: None,
        backoff.pauses,
        "",
        SumTerms(require_secure_aggregation=True),
    )
    with pytest.raises(errors.PrivacyRefused, match=r"would lend C1_baseline .*--nolend_local"):
        site._lent()
