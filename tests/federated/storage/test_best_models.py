import json

import numpy as np
import pytest

from federated.storage.best_models import BestModels
from federated.tensors import tensor_files
from runkit import atomic
from tests.federated import toy


@pytest.fixture
def path_of(tmp_path):
    """Three global models, each with its round in its metadata."""

    def path(number):
        return tmp_path / f"round_{number}.safetensors"

    for number in range(3):
        arrays = {name: array + np.float32(number) for name, array in toy.INITIAL.items()}
        tensor_files.save(path(number), arrays, {"round": str(number)})
    return path


def test_each_selection_replaces_both_models_and_the_record(tmp_path, path_of):
    models = BestModels(tmp_path)
    assert models.best_round() is None and models.rounds() == {0}
    for best, worst_site in ((1, 0), (2, 1), (0, 0)):
        models.keep(best, worst_site, {"score": "dice"}, path_of=path_of)
        for name, number in (("best", best), ("best_worst_site", worst_site)):
            held = (tmp_path / f"{name}.safetensors").read_bytes()
            assert held == path_of(number).read_bytes()
        assert json.loads((tmp_path / "selection.json").read_text()) == {
            "best_round": best,
            "best_worst_site_round": worst_site,
            "score": "dice",
        }
        assert models.best_round() == best and models.rounds() == {best, worst_site}


def test_a_model_that_the_record_does_not_name_is_replaced(tmp_path, path_of):
    models = BestModels(tmp_path)
    models.keep(0, 0, {}, path_of=path_of)
    # A kill came after the model was replaced and before its number was.
    (tmp_path / "best.safetensors").unlink()
    (tmp_path / "best.safetensors").write_bytes(path_of(1).read_bytes())
    models.keep(0, 0, {}, path_of=path_of)
    assert (tmp_path / "best.safetensors").read_bytes() == path_of(0).read_bytes()


@pytest.mark.parametrize(("best", "worst_site"), [(1, 2), (2, 1)])
def test_the_record_is_forgotten_if_it_names_a_discarded_round(tmp_path, path_of, best, worst_site):
    models = BestModels(tmp_path)
    models.forget(1)  # nothing was selected yet
    models.keep(best, worst_site, {}, path_of=path_of)
    models.forget(3)
    assert models.best_round() == best
    models.forget(2)
    assert models.best_round() is None


def test_the_record_has_a_line_for_each_scored_model_and_is_read_once(
    tmp_path, path_of, monkeypatch
):
    models = BestModels(tmp_path)
    rows = [{"round": number, "mean": None, "sites": {"C1": {"dice": 0.5}}} for number in range(3)]
    table = {"mean": 0.25, "on_sites": ["C1"], "models": rows, "empty": []}
    models.keep(1, 2, table, path_of=path_of)
    text = (tmp_path / "selection.json").read_text()
    assert json.loads(text) == {"best_round": 1, "best_worst_site_round": 2, **table}
    assert sum('"round":' in line for line in text.splitlines()) == 3
    with pytest.raises(ValueError):
        models.keep(1, 2, {"mean": float("nan")}, path_of=path_of)
    assert models.rounds() == {1, 2} and (tmp_path / "selection.json").read_text() == text

    reopened, read = BestModels(tmp_path), []
    original = atomic.read_object
    monkeypatch.setattr(atomic, "read_object", lambda path: read.append(path) or original(path))
    for _ in range(3):
        assert reopened.best_round() == 1 and reopened.rounds() == {1, 2}
    assert read == [tmp_path / "selection.json"]
