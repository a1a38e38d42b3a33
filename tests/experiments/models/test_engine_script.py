"""The script on the page about engines trains the product's own network."""

import json
import re

from federated.tensors import tensor_files
from federated.tensors.weights import canonical, specs_of
from tests import forked
from tests.experiments.study import prepared_site

PAGE = (forked.ROOT / "docs" / "engines.md").read_text(encoding="utf-8")
ROUND = """
import json, sys
from federated.engines.round_work import take_round
from federated.tensors import tensor_files

arrays, metadata = tensor_files.load(sys.argv[1])
update = take_round(trainer("C2"), arrays, 1, plan=json.loads(metadata["plan"]))
tensor_files.save(sys.argv[2], update.arrays)
print(json.dumps([update.num_examples, sorted(update.metrics)]))
"""


def test_the_script_trains_a_round_of_the_plan_from_the_initial_model(shallow, tmp_path):
    made, _ = shallow
    prepared_site(tmp_path, tmp_path / "site" / "cases")
    (tmp_path / "study.flags").write_text(made.flag_file.read_text() + "--vae=none\n")
    (script,) = re.findall(r"```python\n(import os\n.*?)```", PAGE, re.DOTALL)
    assert script.count("/srv/fl/") == 2
    update = tmp_path / "update.safetensors"
    (tmp_path / "script.py").write_text(script.replace("/srv/fl/", f"{tmp_path}/") + ROUND)
    done = forked.run("script", made.initial, update, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    num_examples, metrics = json.loads(done.stdout.splitlines()[-1])
    assert num_examples == 2 and {"dice", "train_total"} <= set(metrics)
    before, after = (tensor_files.load(path)[0] for path in (made.initial, update))
    assert canonical(specs_of(after)) == canonical(specs_of(before))
    assert any((after[name] != before[name]).any() for name in before)
    assert (tmp_path / "site" / "engine" / "history.jsonl").exists()
