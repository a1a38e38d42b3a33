import tracemalloc

import numpy as np
import pytest

from preprocessing import budget, nifti
from preprocessing.budget import CaseNeed, Speed
from preprocessing.case_list import Case, CaseManifest
from preprocessing.preparation import pipeline
from preprocessing.preparation.case_preparation import Prepared, prepare_case
from preprocessing.volume import Volume
from tests.preprocessing.preparation.test_pipeline import cohort, scan
from tests.preprocessing.test_geometry import stored_affine

GB = 10**9


def need(memory_gb=1.0, disk_gb=0.5, native_voxels=10**6):
    return CaseNeed(native_voxels, 2 * native_voxels, 10**6, int(memory_gb * GB), int(disk_gb * GB))


def write_scan(folder, image_type, label_type, affine):
    case = Case("big", folder / "ct.nii.gz", folder / "label.nii.gz")
    hu, label = scan(0, (160, 128, 90))
    nifti.write_volume(case.image, Volume(hu.astype(image_type), affine))
    nifti.write_volume(case.label, Volume(label.astype(label_type), affine))
    return case


def cohort_budget(needs, limit_gb, workers=1, speed=None):
    return budget.cohort_budget(
        needs,
        done=0,
        workers=workers,
        limit_bytes=int(limit_gb * GB),
        speed=speed or Speed(0.0, 0.0),
    )


@pytest.mark.parametrize("target_mm", [(1.0, 1.0, 1.0), (0.6, 0.6, 1.5)])
@pytest.mark.parametrize(("image_type", "label_type"), [("int16", "uint8"), ("float32", "float32")])
@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1)])
def test_a_case_needs_no_more_memory_than_predicted_from_its_headers(
    tmp_path, target_mm, image_type, label_type, axes
):
    case = write_scan(
        tmp_path,
        image_type,
        label_type,
        stored_affine(axes, (-1, 1, -1), spacing_mm=(0.9, 0.8, 2.0)),
    )
    foretold = budget.case_need(case, target_mm)
    settings = {"target_mm": list(target_mm), "window_hu": [-200.0, 250.0], "label_values": None}
    tracemalloc.start()
    outcome = prepare_case(case, tmp_path / "store", settings, threads=2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(outcome, Prepared), outcome
    assert peak <= foretold.memory_bytes
    # the constant part apart, the forecast is no more than twice what it came to
    assert foretold.memory_bytes - budget._SLABS_BYTES < 2 * peak
    on_disk = sum(f.stat().st_size for f in (tmp_path / "store/cases/big").iterdir())
    assert foretold.disk_bytes == pytest.approx(on_disk, rel=0.02)


def test_a_file_without_a_header_needs_nothing(tmp_path):
    case = write_scan(tmp_path, "int16", "uint8", np.eye(4))
    case.image.write_bytes(b"no scan")
    assert budget.case_need(case, (1.0, 1.0, 1.0)) is None


def test_the_memory_is_that_of_the_largest_cases_that_can_run_together():
    idle = budget.idle_bytes(2)
    found = cohort_budget([need(1.0), need(3.0), None, need(2.0)], limit_gb=100, workers=2)
    assert found.memory_bytes == pytest.approx(idle + 5 * GB, rel=0.05)
    assert (found.cases, found.unreadable, found.disk_bytes) == (4, 1, 1.5 * GB)


def test_the_memory_never_exceeds_the_limit():
    idle_gb = budget.idle_bytes(2) / GB
    found = cohort_budget([need(3.0), need(3.0)], limit_gb=idle_gb + 4, workers=2)
    assert found.memory_bytes == pytest.approx((idle_gb + 4) * GB, rel=0.01)


def test_a_case_larger_than_the_limit_is_refused_before_the_work():
    with pytest.raises(ValueError, match=r"limited to 2\.0 GB.*largest case.*fewer cases"):
        cohort_budget([need(3.0)], limit_gb=2.0)


def test_time_is_shared_among_the_workers(monkeypatch):
    monkeypatch.setattr(budget.processors, "available", lambda: 2)
    speed = Speed(per_native_voxel=2e-6, per_prepared_voxel=1e-6)
    one, two = (
        cohort_budget([need(0.1, disk_gb=0.0)] * 6, 100, workers, speed).seconds
        for workers in (1, 2)
    )
    assert one == pytest.approx(6 * (2 + 2)) and two == pytest.approx(one / 2 + 1.5)
    assert budget.choose_workers(5, 0) == 2 and budget.choose_workers(1, 4) == 1


def test_measured_speed_is_that_of_a_machine():
    speed = budget.measure_speed()
    assert 1e-11 < speed.per_native_voxel < 1e-5 and 1e-11 < speed.per_prepared_voxel < 1e-5


def test_a_plan_writes_nothing_and_knows_what_is_done(tmp_path):
    manifest, root = cohort(tmp_path, 4), tmp_path / "store"
    settings = {"target_mm": (2.0, 2.0, 2.0), "window_hu": (-200.0, 250.0)}
    found = pipeline.estimate(manifest, root, **settings)
    assert (found.cases, found.done, root.exists()) == (4, 0, False)
    pipeline.prepare(CaseManifest("C2", manifest.cases[:3]), root, split_seed=0, **settings)
    found = pipeline.estimate(manifest, root, **settings)
    assert (found.cases, found.done) == (1, 3)
    assert pipeline.estimate(manifest, root, target_mm=(3.0, 3.0, 3.0)).done == 0
    text = str(found)
    assert (
        "1 to prepare, 3 done before" in text
        and "memory: at most" in text
        and "disk:" in text
        and "time:" in text
    )
