import numpy as np
import pytest

from experiments.models.pooled_store import PooledStore
from preprocessing import nifti
from preprocessing.case_list import Case, CaseManifest
from preprocessing.preparation import pipeline
from tests.experiments import study


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sites")

    def prepare(site, count, target_mm=(5.0, 5.0, 5.0)):
        cases = []
        for number in range(count):
            image, label = (folder / site / f"{kind}{number}.nii" for kind in ("image", "label"))
            for path, volume in zip((image, label), study.scan(site, number), strict=True):
                nifti.write_volume(path, volume)
            cases.append(Case(f"case{number}", image, label))
        listed = CaseManifest(site, tuple(cases))
        return pipeline.prepare(
            listed,
            folder / f"{site} {target_mm[0]}",
            target_mm=target_mm,
            window_hu=(-200, 250),
            split_seed=1,
            split_counts=(count - 2, 1, 1),
        )

    return prepare


def test_every_case_keeps_its_sites_split_and_is_found_by_its_site(stores):
    one, two = stores("C1", 4), stores("C2", 5)
    pooled = PooledStore([one, two])
    for split in ("training", "validation", "test"):
        assert pooled.case_ids(split) == (
            *(f"C1/{i}" for i in one.case_ids(split)),
            *(f"C2/{i}" for i in two.case_ids(split)),
        )
    assert len(pooled.case_ids("training")) == 2 + 3
    (test,) = two.case_ids("test")  # both sites call their cases case0, case1, ...
    np.testing.assert_array_equal(pooled.open(f"C2/{test}").image, two.open(test).image)
    with pytest.raises(ValueError, match="no case 'C3/case0'; expected <site>/<case_id> of C1, C2"):
        pooled.open("C3/case0")


def test_stores_that_do_not_fit_are_refused(stores):
    one = stores("C1", 4)
    with pytest.raises(ValueError, match="at least two sites, each once; given C1, C1"):
        PooledStore([one, one])
    with pytest.raises(ValueError, match="prepare both with the same flag file"):
        PooledStore([one, stores("C2", 5, (6.0, 6.0, 6.0))])
