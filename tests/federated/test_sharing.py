"""Whole runs in which sites keep private arrays, and receive others without sending them."""

import dataclasses
import json
import shutil

import grpc
import numpy as np
import pytest

from federated import errors, simulation
from federated.aggregation import rules
from federated.audit import verification
from federated.audit.log import AuditLog
from federated.security.credentials import CredentialBook
from federated.server.config import ServerConfig
from federated.server.coordinator import Coordinator
from federated.storage.store import Store
from federated.tensors import tensor_files
from runkit.events import EventLog
from tests.federated import toy
from tests.federated.aggregation import reference

PLAN = {**toy.PLAN, "sharing": {"keep": ["head/*"], "receive": ["stem/*"]}}
KEPT, RECEIVED, SHARED = "head/bias", "stem/kernel", "scale"
SITES = ("C1", "C2")


def own(site, number):
    """The private array of a site after a round, with numbers that occur in no other array."""
    seed = [ord(site[-1]), number]
    return np.random.default_rng(seed).normal(size=2).astype(np.float32)


class Site(toy.ToyTrainer):
    """Records the arrays it is given; its private array depends on its name and the round."""

    def __init__(self, site, **named):
        super().__init__(site, plan=PLAN, **named)
        self.trained, self.scored, self.evaluated = {}, [], {}

    def train(self, weights, round_number):
        self.trained[round_number] = {name: array.copy() for name, array in weights.items()}
        arrays, metrics = super().train(weights, round_number)
        arrays[KEPT] = own(self.site, round_number)
        return arrays, metrics

    def score(self, weights):
        self.scored.append(weights[KEPT].copy())
        return super().score(weights)

    def local_models(self):
        (model,) = super().local_models().values()
        return {f"{self.site}_FL_local": {**model, KEPT: own(self.site, 99)}}

    def evaluate(self, model_name, weights):
        self.evaluated[model_name] = {name: array.copy() for name, array in weights.items()}
        return super().evaluate(model_name, weights)


@pytest.fixture
def initial(tmp_path):
    return toy.write_initial(tmp_path / "initial.safetensors", plan=PLAN)


@pytest.fixture
def trainers():
    return {site: Site(site) for site in SITES}


def globals_of(folder):
    return [tensor_files.load(path)[0] for path in sorted((folder / "global").iterdir())]


def test_only_shared_arrays_are_aggregated_and_every_model_is_whole(trainers, initial, tmp_path):
    simulation.run(trainers, initial, tmp_path / "run", num_rounds=3, keep_updates=3)
    server = tmp_path / "run" / "server"
    found, by_hand = globals_of(server), toy.expected_globals(SITES, 3)
    assert len(found) == 4
    for model, expected in zip(found, by_hand, strict=True):
        assert model[SHARED] == expected[SHARED]
        for name in (KEPT, RECEIVED):
            np.testing.assert_array_equal(model[name], toy.INITIAL[name])
    sent = [*(server / "kept").rglob("*.safetensors"), *(server / "models").iterdir()]
    assert len(sent) == 3 * 2 + 2
    assert all(tensor_files.load(path)[0].keys() == {SHARED} for path in sent)
    audited = verification.verify(server)
    assert audited.recomputed == (1, 2, 3) and audited.models == ("C1_FL_local", "C2_FL_local")
    (server / "global" / "round_000.safetensors").unlink()
    assert verification.verify(server).recomputed == (2, 3)  # every model holds the plan


def test_a_site_trains_scores_and_evaluates_with_its_own_arrays(trainers, initial, tmp_path):
    simulation.run(trainers, initial, tmp_path / "run", num_rounds=3)
    best = json.loads((tmp_path / "run" / "server" / "selection.json").read_text())["best_round"]
    for site, other in (SITES, SITES[::-1]):
        trainer = trainers[site]
        after = [toy.INITIAL[KEPT], *(own(site, number) for number in (1, 2, 3))]
        for number in (1, 2, 3):
            np.testing.assert_array_equal(trainer.trained[number][KEPT], after[number - 1])
            np.testing.assert_array_equal(trainer.trained[number][RECEIVED], toy.INITIAL[RECEIVED])
        np.testing.assert_array_equal(trainer.scored, after)
        evaluated = {name: arrays[KEPT] for name, arrays in trainer.evaluated.items()}
        np.testing.assert_array_equal(evaluated["FL_global"], after[3])
        np.testing.assert_array_equal(evaluated["FL_best_global"], after[best])
        np.testing.assert_array_equal(evaluated[f"{site}_FL_local"], own(site, 99))
        np.testing.assert_array_equal(evaluated[f"{other}_FL_local"], after[3])
        lent = trainer.evaluated[f"{other}_FL_local"]
        assert lent[SHARED] == toy.INITIAL[SHARED] + toy.EXAMPLES[other]
        np.testing.assert_array_equal(lent[RECEIVED], toy.INITIAL[RECEIVED])


@pytest.mark.parametrize("name", rules.RULES)
def test_every_rule_works_on_the_shared_arrays_alone(name, initial, tmp_path):
    trainers = {site: Site(site) for site in toy.EXAMPLES}
    rule = rules.parse(name)
    simulation.run(trainers, initial, tmp_path / "run", num_rounds=3, rule=rule, keep_updates=3)
    server = tmp_path / "run" / "server"
    models, memory = globals_of(server), {}
    for number in (1, 2, 3):
        before = np.float64(models[number - 1][SHARED]).reshape(1)
        updates = np.stack([before * 0.5 + toy.STEP[site] * number for site in trainers])
        examples = [toy.EXAMPLES[site] for site in trainers]
        expected = reference.REFERENCES[name](
            memory, before, updates, examples, **dataclasses.asdict(rule)
        )
        np.testing.assert_allclose(models[number][SHARED], expected[0], rtol=1e-6)
        np.testing.assert_array_equal(models[number][KEPT], toy.INITIAL[KEPT])
    assert verification.verify(server).recomputed == (1, 2, 3)


def test_private_arrays_survive_a_restart_in_the_middle_of_a_round(initial, tmp_path):
    def fail(number):
        if number == 2:
            raise RuntimeError("no memory")

    first = {site: Site(site, on_train=fail) for site in SITES}
    with pytest.raises(RuntimeError, match="no memory"):
        simulation.run(first, initial, tmp_path / "run", num_rounds=3)
    second = {site: Site(site) for site in SITES}
    assert simulation.run(second, initial, tmp_path / "run", num_rounds=3).finished
    for site in SITES:
        np.testing.assert_array_equal(second[site].trained[2][KEPT], own(site, 1))


@pytest.fixture
def interrupted(initial, tmp_path):
    """A run that stopped in round 3, before anything was trained."""

    def fail(number):
        if number == 3:
            raise RuntimeError("no memory")

    trainers = {site: Site(site, on_train=fail) for site in SITES}
    with pytest.raises(RuntimeError, match="no memory"):
        simulation.run(trainers, initial, tmp_path / "run", num_rounds=3)
    return tmp_path / "run"


def discard_from(folder, number):
    """Does what the order `discard_round` does."""
    store = Store(folder / "server")
    log = AuditLog(store.folder / "events.jsonl")
    lead = Coordinator(
        store, ServerConfig(num_rounds=3), CredentialBook({}), log, vocabulary=toy.VOCABULARY
    )
    lead.orders.discard_round(number)
    lead.close()


@pytest.mark.parametrize("lost", [("round_002",), ("round_001", "round_002")])
def test_a_site_that_lost_its_arrays_continues_after_the_order_that_it_names(
    interrupted, initial, lost
):
    for name in lost:
        next((interrupted / "C1" / "private").glob(f"{name}.*")).unlink()
    trainers = {site: Site(site) for site in SITES}
    message = f"discard the rounds from {lost[0]} on"
    with pytest.raises(ValueError, match=message):
        simulation.run(trainers, initial, interrupted, num_rounds=3)
    discard_from(interrupted, int(lost[0][-3:]))
    trainers = {site: Site(site) for site in SITES}
    assert simulation.run(trainers, initial, interrupted, num_rounds=3).finished
    before = len(SITES) - len(lost)  # rounds that still count
    for site in SITES:
        after = [toy.INITIAL[KEPT], *(own(site, number) for number in (1, 2, 3))]
        assert list(trainers[site].trained) == list(range(before + 1, 4))
        for number, given in trainers[site].trained.items():
            np.testing.assert_array_equal(given[KEPT], after[number - 1])
    assert verification.verify(interrupted / "server").recomputed


def test_a_site_that_lost_its_journal_starts_from_the_initial_arrays_and_says_so(
    interrupted, initial
):
    shutil.rmtree(interrupted / "C1")
    trainers = {site: Site(site) for site in SITES}
    assert simulation.run(trainers, initial, interrupted, num_rounds=3).finished
    np.testing.assert_array_equal(trainers["C1"].trained[3][KEPT], toy.INITIAL[KEPT])
    np.testing.assert_array_equal(trainers["C2"].trained[3][KEPT], own("C2", 2))
    said = {
        site: [
            record["of"]
            for record in EventLog(interrupted / site / "events.jsonl").read()
            if record["event"] == "private_arrays" and record["model"] == "round_002"
        ]
        for site in SITES
    }
    assert said["C1"] == ["the initial model"] and set(said["C2"]) == {"round_002"}


@pytest.mark.parametrize("transport", ["raw", "half"])
def test_no_byte_of_a_kept_array_leaves_a_site(
    serving, take_part, trainers, initial, monkeypatch, transport
):
    sent = []

    class Recorded:
        """A channel that notes every message as it is handed to the network."""

        def __init__(self, channel):
            self._channel = channel

        def __getattr__(self, name):
            return getattr(self._channel, name)

        def _recording(self, kind, method, request_serializer, **named):
            def serialize(message):
                sent.append(bytes(request_serializer(message)))
                return sent[-1]

            make = getattr(self._channel, kind)
            return make(method, request_serializer=serialize, **named)

        def unary_unary(self, method, **named):
            return self._recording("unary_unary", method, **named)

        def unary_stream(self, method, **named):
            return self._recording("unary_stream", method, **named)

        def stream_unary(self, method, **named):
            return self._recording("stream_unary", method, **named)

    secure_channel = grpc.secure_channel
    monkeypatch.setattr(grpc, "secure_channel", lambda *a, **n: Recorded(secure_channel(*a, **n)))
    server = serving(transport=transport)
    take_part({site: server.connect(site) for site in SITES}, trainers)
    server.join()
    everything = b"\n".join(sent)
    update = toy.expected_globals(SITES, 3)[2][SHARED] * 0.5 + toy.STEP["C1"] * 3
    width = {"raw": np.float32, "half": np.float16}[transport]
    assert width(update).tobytes() in everything  # what is shared is there to be found
    assert SHARED.encode() in everything
    for site in SITES:
        for number in (1, 2, 3, 99):
            for value in own(site, number):
                for form in (np.float32(value), np.float16(value), np.float64(value)):
                    if form.nbytes > 2:  # two bytes are found anywhere
                        assert form.tobytes() not in everything
            assert own(site, number).astype(np.float16).tobytes() not in everything
    declared = [part for part in sent if KEPT.encode() in part or RECEIVED.encode() in part]
    assert declared == []


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ((SHARED, KEPT), "holds head/bias, which the plan keeps at the site"),
        ((SHARED, RECEIVED), "holds stem/kernel, which the plan only lets sites receive"),
        ((KEPT,), "holds head/bias"),
        ((), "lacks scale, which the plan shares"),
    ],
)
def test_the_server_refuses_what_the_plan_does_not_share(opened, tmp_path, arrays, message):
    run = opened(num_rounds=1, min_num_clients=1, max_num_clients=1)
    transport = run.transport("C1")
    transport.login(PLAN, toy.EXAMPLES["C1"])
    wrong, right = tmp_path / "wrong.safetensors", tmp_path / "right.safetensors"
    given = {name: toy.INITIAL[name] for name in arrays} or {"other": np.zeros(2, np.float32)}
    digest = tensor_files.save(wrong, given)
    update = {"round_number": 1, "num_examples": 30, "metrics": {}}
    with pytest.raises(errors.IncompatibleWeights, match=message):
        transport.push(wrong, digest, **update)
    right_digest = tensor_files.save(right, {SHARED: toy.INITIAL[SHARED]})
    transport.push(right, right_digest, **update)
    run.lead.advance()
    with pytest.raises(errors.IncompatibleWeights, match=message):
        transport.publish(wrong, digest, model="C1_FL_local")
    transport.publish(right, right_digest, model="C1_FL_local")
    assert list(run.store.models()) == ["C1_FL_local"]


def test_the_audit_names_a_kept_array_that_the_server_holds(trainers, initial, tmp_path):
    simulation.run(trainers, initial, tmp_path / "run", num_rounds=1, keep_updates=1)
    server = tmp_path / "run" / "server"
    path = next((server / "kept").rglob("*C1*.safetensors"))
    tensor_files.save(path, {SHARED: toy.INITIAL[SHARED], KEPT: own("C1", 1)})
    with pytest.raises(ValueError, match="holds head/bias, which the plan keeps at the site"):
        verification.verify(server)


@pytest.mark.parametrize(
    ("sharing", "message"),
    [
        ({"keep": ["tail/*"]}, "matches none of the model's arrays"),
        ({"keep": ["*"]}, "leave none of the model's 3 arrays to share"),
    ],
)
def test_rules_that_cannot_work_are_refused_before_a_store_or_journal_is_made(
    sharing, message, tmp_path
):
    plan = {**toy.PLAN, "sharing": sharing}
    start = toy.write_initial(tmp_path / "start.safetensors", plan=plan)
    with pytest.raises(ValueError, match=message):
        simulation.run(
            {"C1": toy.ToyTrainer("C1", plan=plan)}, start, tmp_path / "run", num_rounds=1
        )
    assert not list((tmp_path / "run" / "server" / "global").iterdir())


def test_a_site_with_other_rules_is_refused(opened):
    run = opened()
    with pytest.raises(errors.PlanDiffers, match=r"sharing.receive.*start it with the settings"):
        run.transport("C1").login({**toy.PLAN, "sharing": {"keep": ["head/*"]}}, 30)
