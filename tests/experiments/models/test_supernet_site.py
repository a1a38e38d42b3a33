"""A supernet at a site. How two sites train one is in `test_search_federated.py`."""

import dataclasses

import pytest

from c2fnas.genotype import Genotype
from c2fnas.search.operation_space import OperationSpace
from experiments.configuration import ExperimentConfig
from experiments.models import supernet_site
from experiments.models.site_trainer import SegmentationTrainer
from tests.experiments.study import GENOTYPE

BASE = Genotype.from_json(GENOTYPE)  # conv3d, p3d, conv2d


def test_global_supernets_are_compared_along_the_path_of_their_genotype():
    space = OperationSpace(BASE)
    path = supernet_site.reference_path(space)
    assert path == (1, 2, 0) and space.genotype(path).cells == BASE.cells
    fewer = OperationSpace(BASE, ("conv2d", "p3d"))
    assert supernet_site.reference_path(fewer) == (0, 1, 0)


def test_only_a_supernet_has_its_own_training():
    config = ExperimentConfig()
    assert supernet_site.trainer_class(config) is SegmentationTrainer
    chosen = supernet_site.trainer_class(dataclasses.replace(config, supernet=True))
    assert chosen is supernet_site.SupernetSite


@pytest.mark.parametrize(
    "changes",
    [{"missing_labels": "distil"}, {"missing_labels": "marginal", "absence_evidence": True}],
)
def test_losses_that_need_the_received_logits_are_refused(changes):
    with pytest.raises(ValueError, match="supernet is set"):
        ExperimentConfig(supernet=True, **changes)
