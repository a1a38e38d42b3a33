import json

import pytest

from tests.experiments import study


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """The settings of a network of a few weights."""
    from tests.experiments.models.test_site_trainer import tiny

    genotype = tmp_path_factory.mktemp("genotype") / "genotype.json"
    genotype.write_text(json.dumps(study.SHALLOW))
    return tiny(genotype)
