import pytest

import federated


def test_the_public_names_are_there_and_listed():
    assert sorted(federated._PUBLIC) == federated.__all__
    for name in federated.__all__:
        assert callable(getattr(federated, name)), name


def test_another_name_is_no_attribute():
    with pytest.raises(AttributeError, match="'federated' has no attribute 'train'"):
        federated.train  # noqa: B018
