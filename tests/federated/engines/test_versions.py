import importlib.metadata

import pytest

from federated.engines import versions


@pytest.mark.parametrize("version", ["2.9.0", "2.9.1rc1", "2.10.3"])
def test_a_release_in_the_range_passes(monkeypatch, version):
    monkeypatch.setattr(importlib.metadata, "version", lambda package: version)
    versions.require_release("nvflare", (2, 9), (2, 10), extra="nvflare")


@pytest.mark.parametrize("version", ["2.8.3", "2.11.0", "3.0.0", "2", "dev", "", "2.x"])
def test_another_release_is_refused_with_the_remedy(monkeypatch, version):
    monkeypatch.setattr(importlib.metadata, "version", lambda package: version)
    with pytest.raises(ImportError, match=rf"nvflare {version} does not fit.*\[nvflare\]"):
        versions.require_release("nvflare", (2, 9), (2, 10), extra="nvflare")


def test_a_missing_engine_is_named():
    with pytest.raises(ImportError, match=r"no-such-engine is not installed.*1\.0 to 1\.2"):
        versions.require_release("no-such-engine", (1, 0), (1, 2), extra="flower")
