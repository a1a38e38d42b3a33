import subprocess
import sys

import numpy as np
import pytest

from c2fnas import model_folder, named_weights, saved_model
from tests.c2fnas import tiny

# A program without the product's packages and tensorflow-addons: both are blocked here.
PROGRAM = """
import sys
own = ("c2fnas", "runkit", "preprocessing", "experiments")
for name in (*own, "tensorflow_addons", "safetensors"):
    sys.modules[name] = None
import numpy as np
import tensorflow as tf

loaded = tf.saved_model.load(sys.argv[1])
image = np.load(sys.argv[2])
outputs = loaded.signatures["serving_default"](image=tf.constant(image))
np.save(sys.argv[3], outputs["logits"].numpy())
"""


@pytest.fixture(scope="module")
def model():
    network = tiny.build()
    return model_folder.Model(
        name="m", weights=named_weights.read(network), genotype=tiny.GENOTYPE, plan=tiny.PLAN
    )


def test_a_process_with_tensorflow_alone_gives_the_same_logits(model, tmp_path):
    saved_model.export(model, tmp_path / "exported")
    assert (tmp_path / "exported" / "assets.extra" / "plan.json").is_file()
    image = tiny.batch(0)["image"][:1].astype(np.float32)
    np.save(tmp_path / "image.npy", image)
    files = [str(tmp_path / name) for name in ("exported", "image.npy", "logits.npy")]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *files], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-3000:]
    logits = np.load(tmp_path / "logits.npy")
    np.testing.assert_allclose(
        logits,
        np.asarray(model_folder.build_segmenter(model).segmenter(image)),
        rtol=1e-4,
        atol=1e-5,
    )
    assert logits.shape == (1, 16, 16, 8, 3)
    saved_model.export(model, tmp_path / "exported")  # again: it replaces its own files
    for name in ("config.pbtxt", "assets.extra/tf_serving_warmup_requests"):
        mine = tmp_path / "exported" / name
        mine.write_text("a user's")
        with pytest.raises(ValueError, match=f"also holds {mine.name}"):
            saved_model.export(model, tmp_path / "exported")
        assert mine.read_text() == "a user's"
        mine.unlink()
    (tmp_path / "mine").mkdir()
    with pytest.raises(ValueError, match="is not a SavedModel"):
        saved_model.export(model, tmp_path / "mine")
    with pytest.raises(ValueError, match="multiples of 4"):
        saved_model.export(model, tmp_path / "other", window=(10, 8, 8))
