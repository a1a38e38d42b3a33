import json

import numpy as np
import pytest

from federated.engines import plan_check
from federated.tensors import tensor_files
from tests.federated import toy

KEEPS = {**toy.PLAN, "sharing": {"keep": ["head/*"]}}
RECEIVES = {**toy.PLAN, "sharing": {"receive": ["stem/*"]}}


@pytest.mark.parametrize("plan", [KEEPS, RECEIVES], ids=["keep", "receive"])
def test_rules_of_sharing_are_refused_with_reason_and_remedy(plan, tmp_path):
    remedy = "would move every array .* own server, or make .* without --keep_at_site"
    with pytest.raises(ValueError, match=rf"this site's plan has rules of sharing.*{remedy}"):
        plan_check.check_plan(plan, what="this site's plan")
    path = toy.write_initial(tmp_path / "initial.safetensors", plan=plan)
    with pytest.raises(ValueError, match=rf"initial\.safetensors: the plan has rules.*{remedy}"):
        plan_check.read_initial(path)


def test_another_plan_passes(tmp_path):
    path = toy.write_initial(tmp_path / "initial.safetensors")
    arrays, metadata = plan_check.read_initial(path)
    assert json.loads(metadata["plan"]) == toy.PLAN
    assert all(np.array_equal(arrays[name], toy.INITIAL[name]) for name in toy.INITIAL)


def test_a_model_without_a_plan_is_refused(tmp_path):
    tensor_files.save(tmp_path / "initial.safetensors", toy.INITIAL)
    with pytest.raises(ValueError, match=r"initial\.safetensors: carries no plan.* write the plan"):
        plan_check.read_initial(tmp_path / "initial.safetensors")


def test_the_number_of_rounds_is_that_of_the_plan():
    plans = [toy.PLAN, {"schedule": {"local_epochs": 2}}, {"schedule": "daily"}, {}]
    for plan in plans:
        plan_check.check_num_rounds({"plan": json.dumps(plan)}, 3, what="m")
    with pytest.raises(
        ValueError, match=r"num_rounds is 20, but 3 in the plan of m.*learning rate"
    ):
        plan_check.check_num_rounds({"plan": json.dumps(toy.PLAN)}, 20, what="m")


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_plan_that_is_none_is_named(text, tmp_path):
    tensor_files.save(tmp_path / "initial.safetensors", toy.INITIAL, {"plan": text})
    with pytest.raises(ValueError, match=r"initial\.safetensors: its plan is not"):
        plan_check.read_initial(tmp_path / "initial.safetensors")
