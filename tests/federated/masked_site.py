"""A site with secure aggregation that a test drives by hand, call by call, without threads."""

from __future__ import annotations

import datetime

import numpy as np

from federated.site.sums.masking import Masking, Plain
from federated.site.sums.sum_terms import SumTerms
from federated.tensors import tensor_files
from federated.tensors.weights import specs_of
from federated.wire.messages import SumPlace
from runkit import private
from tests.federated import toy

SETTINGS = {
    "secure_aggregation": True,
    "min_num_clients": 3,
    "max_num_clients": 3,
    "max_change_ratio": 0.0,
    "keep_updates": 0,
    "wait_after_min_clients_s": 0.0,
    "cross_site_evaluation": False,
    "poll_s": 0.05,
}


class MaskedSite:
    """Trains like `toy.ToyTrainer`, and does its part of each task."""

    def __init__(self, name, transport, folder, *, min_sum_sites=2):
        self.name, self.transport = name, transport
        self.terms = SumTerms(min_sum_sites=min_sum_sites)
        self.trainer = toy.ToyTrainer(name)
        self.folder = private.folder(folder / name)
        self.asked = []
        self.login()

    def login(self):
        self.session = self.transport.login(toy.PLAN, self.trainer.num_examples)
        self.restart()

    def restart(self):
        """Forgets everything that is not on disk."""
        signer = self.transport.signer
        about = self.folder, self.session.run, self.session.sums, signer
        self.masking = Masking(*about, terms=self.terms)

    def plain(self, number, *, examples=None):
        """Trains round `number`, from the model that the server has."""
        model = self.folder / "incoming.safetensors"
        manifest = self.transport.pull(f"round_{number - 1:03d}", model)
        arrays, _ = tensor_files.load(model)
        trained, _ = self.trainer.train(arrays, number)
        path = self.folder / "update.safetensors"
        sha256 = tensor_files.save(path, trained)
        return Plain(
            path,
            sha256,
            model,
            manifest.sha256,
            examples or self.trainer.num_examples,
            frozenset(trained),
        )

    def task(self):
        return self.transport.next_task()

    def push(self, task, plain, sha256=None):
        return self.transport.push(
            self.masking.masked_path,
            sha256 or tensor_files.file_digest(tensor_files.TensorFile(self.masking.masked_path)),
            round_number=task.round,
            num_examples=plain.num_examples,
            metrics={"loss": 1.0},
            discarded=task.discarded,
        )

    def do(self, *, only=None):
        """Does the next task, unless its kind is not `only`; returns its kind."""
        task = self.task()
        if only is not None and task.kind != only:
            return task.kind
        self.asked.append(task)
        if task.kind == "train":
            self.transport.post_sum(self.masking.keys(task, self.plain(task.round)))
        elif task.kind in ("share", "mask", "consent", "reveal"):
            place = SumPlace(task.discarded, task.round, task.exchange)
            state = self.transport.ask_sum(task.kind, place)
            if task.kind == "mask":
                plain = self.plain(task.round)
                self.push(task, plain, self.masking.mask(task, state, plain))
            else:
                self.transport.post_sum(self.masking.part(task, state))
        return task.kind


def in_phase(run, sites, phase):
    """Takes the sites up to a phase in which none of them has done its part."""
    for kind in ("train", "share", "mask", "consent", "reveal"):
        if kind == phase:
            return
        for site in sites:
            assert site.do(only=kind) == kind
        run.lead.advance()


def expected(models, examples, number):
    """Returns the weighted mean of the toy sites' updates of a round, in float64."""
    total = sum(toy.EXAMPLES[site] for site in examples)
    return {
        name: sum(
            toy.EXAMPLES[site]
            * (array * np.float32(0.5) + np.float32(toy.STEP[site] * number)).astype("f8")
            for site in examples
        )
        / total
        for name, array in models.items()
    }


def assert_model(found, wanted):
    """Compares a float32 model with float64 values, up to the fixed point and one rounding."""
    assert {spec.name for spec in specs_of(found)} == wanted.keys()
    for name, array in wanted.items():
        slack = 2.0**-32 + np.spacing(np.abs(array).astype("f4")) / 2
        assert (np.abs(found[name] - array) <= slack).all(), name


def now():
    return datetime.datetime.now(datetime.timezone.utc).timestamp()
