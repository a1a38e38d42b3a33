"""The patch of a synthetic patient with which a profile is tried."""

import numpy as np

from experiments.run import trial_patch
from preprocessing.volume import Volume
from tests.experiments.models.test_prepared_cases import config


def test_the_patch_is_cut_around_the_organ_as_far_as_the_scan_reaches(monkeypatch):
    """On the profile's own grid, so that no voxel is resampled."""
    hu = np.random.default_rng(0).integers(-400, 400, (40, 30, 20)).astype(np.int16)
    label = np.zeros(hu.shape, np.uint8)
    label[20:31, 10:21, 0:5], label[25, 15, 2] = 1, 2
    volumes = [Volume(array, np.diag([4.0, 4.0, 4.0, 1.0])) for array in (hu, label)]
    monkeypatch.setattr(trial_patch.phantom, "render_case", lambda cohort, index: volumes)
    plan = config(patch_size=(16, 8, 8), spacing_mm=(4.0, 4.0, 4.0), window_hu=(-200.0, 300.0))
    (batch,) = trial_patch.phantom_patch(plan)
    # the organ's centre is (25, 15, 2); in z the patch would begin below the scan
    box = (slice(17, 33), slice(11, 19), slice(0, 8))
    expected = np.clip((hu[box] - 50) / 250, -1, 1)
    assert batch["image"].dtype == np.float16 and batch["image"].shape == (1, 16, 8, 8, 1)
    np.testing.assert_allclose(batch["image"][0, ..., 0], expected, atol=1e-3)
    np.testing.assert_array_equal(batch["label"][0], label[box])
    assert batch["sample_seed"].numpy().tolist() == [[plan.seed, 0]]
