"""Every kind of store has what `case_source` requires; the type checker checks the signatures."""

import inspect

import numpy as np
import pytest

from experiments.models.pooled_store import PooledStore
from preprocessing.case_source import CaseSource, PreparedCase, required_ids
from preprocessing.case_store import CaseStore
from preprocessing.patches import PatchConfig, PatchSampler
from tests.preprocessing.test_case_store import store_of


def members(protocol):
    return {name for name, _ in inspect.getmembers(protocol) if not name.startswith("_")}


@pytest.fixture
def stores(tmp_path):
    return [store_of(tmp_path / site, site=site) for site in ("C1", "C2")]


@pytest.mark.parametrize("kind", [CaseStore, PooledStore])
def test_a_store_has_what_readers_of_cases_use(stores, kind):
    store = stores[0] if kind is CaseStore else PooledStore(stores)
    assert isinstance(store, kind)
    assert not members(CaseSource) - set(dir(store))
    everyone = store.case_ids()
    assert len(everyone) == sum(len(store.case_ids(split)) for split in stores[0].splits)
    case = store.open(everyone[-1])
    assert not members(PreparedCase) - set(dir(case))
    assert required_ids(store, "test") == store.case_ids("test") != ()
    assert case.native_label().shape == case.native.shape and case.image.shape == case.label.shape
    with pytest.raises(ValueError, match="no case"):
        store.open("nobody")
    sampler = PatchSampler([case], PatchConfig(size=(4, 4, 4), batch_size=2, seed=0))
    assert set(np.unique(sampler.batch(0)["label"])) <= {0, 1, 2}


def test_a_split_without_cases_is_refused_where_it_is_needed(tmp_path):
    store = store_of(tmp_path)
    store.splits["validation"] = ()
    with pytest.raises(ValueError, match="site C2 has no validation case; prepare its cases"):
        required_ids(store, "validation")
