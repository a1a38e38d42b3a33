import inspect

from experiments.models.site_trainer import SegmentationTrainer
from federated.site.trainer import SiteTrainer
from tests.federated import toy


def members(of):
    return {name for name in vars(of) if not name.startswith("_")}


def test_the_trainers_of_this_project_have_every_member_and_its_parameters():
    wanted = members(SiteTrainer)
    assert wanted == {
        *("plan", "num_examples", "specs", "vocabulary"),
        *("score", "train", "local_models", "evaluate"),
    }
    assert all(hasattr(toy.ToyTrainer("C1"), name) for name in wanted)
    for name in ("score", "train", "local_models", "evaluate"):
        declared = list(inspect.signature(getattr(SiteTrainer, name)).parameters)
        for trainer in (toy.ToyTrainer, SegmentationTrainer):
            assert list(inspect.signature(getattr(trainer, name)).parameters) == declared
