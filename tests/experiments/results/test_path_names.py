"""Names of paths."""

import pytest

from experiments.results import path_names
from federated.rounds.tasks import MODEL_NAME


def test_a_name_says_its_path_and_is_a_model_name():
    gene = (2, 0, 1, 1, 2, 2, 1, 1, 0, 0, 2, 2)
    name = path_names.name_of(gene)
    assert name == "path_201122110022" and MODEL_NAME.fullmatch(name)
    assert path_names.gene_of(name) == gene
    assert MODEL_NAME.fullmatch(path_names.name_of((1,) * 59))


@pytest.mark.parametrize("gene", [(), (10,), (-1,), (1,) * 60])
def test_a_path_without_a_name_is_refused(gene):
    with pytest.raises(ValueError, match="has no name"):
        path_names.name_of(gene)


@pytest.mark.parametrize("name", ["FL_global", "path_", "path_12a", "xpath_12"])
def test_other_models_are_no_paths(name):
    with pytest.raises(ValueError, match="is not the name of a path"):
        path_names.gene_of(name)
