import pytest

from federated import simulation


@pytest.fixture(scope="session")
def signers(tmp_path_factory):
    """Eight sites of one federation."""
    sites = [f"C{number}" for number in range(1, 9)]
    return simulation.signers_in(tmp_path_factory.mktemp("signers"), sites)


@pytest.fixture(scope="session")
def strangers(tmp_path_factory):
    """Sites of the same names in another federation."""
    sites = [f"C{number}" for number in range(1, 4)]
    return simulation.signers_in(tmp_path_factory.mktemp("strangers"), sites)
