"""Which files a prediction takes for its own, and so may replace."""

import nibabel
import numpy as np
import pytest

from experiments.models import own_masks
from preprocessing import nifti
from preprocessing.volume import Volume


def mask(value=1):
    array = np.zeros((6, 5, 4), np.uint8, order="F")
    array[2:4, 1:3, 1] = value
    return array


def written(path, array, description):
    nifti.write_volume(path, Volume(array, np.eye(4)), description=description)
    return path


def corrected(path):
    """Changes one voxel as an editor that keeps the header would."""
    image = nibabel.load(path)
    voxels = np.array(image.dataobj)
    voxels[0, 0, 0] = 2
    nibabel.save(nibabel.Nifti1Image(voxels, image.affine, image.header), path)


def saved_again(path):
    """Saves the same voxels without the text of the header, as many editors do."""
    image = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(np.array(image.dataobj), image.affine), path)


def test_a_mask_is_its_own_in_any_order_of_its_array_and_any_file_form(tmp_path):
    array = mask()
    text = own_masks.description(array)
    assert len(text) <= 79
    assert own_masks.description(np.ascontiguousarray(array)) == text
    assert own_masks.description(mask(2)) != text
    for name in ("a.nii.gz", "b.nii"):
        assert own_masks.is_own(written(tmp_path / name, array, text))


@pytest.mark.parametrize("change", [corrected, saved_again])
def test_a_mask_that_somebody_saved_is_not(tmp_path, change):
    path = written(tmp_path / "a.nii.gz", mask(), own_masks.description(mask()))
    change(path)
    assert not own_masks.is_own(path)


def test_a_drawing_and_other_files_are_not(tmp_path):
    written(tmp_path / "drawn.nii.gz", mask(), "")
    written(tmp_path / "copied.nii.gz", mask(2), own_masks.description(mask()))
    (tmp_path / "text.nii.gz").write_text("no mask")
    for name in ("drawn", "copied", "text"):
        assert not own_masks.is_own(tmp_path / f"{name}.nii.gz"), name


def test_what_cannot_be_read_is_reported_with_the_reason(tmp_path):
    (tmp_path / "folder.nii.gz").mkdir()
    (tmp_path / "link.nii.gz").symlink_to("nowhere")
    with pytest.raises(ValueError, match=r"folder\.nii\.gz: cannot be read \(Is a directory\)"):
        own_masks.require_replaceable(tmp_path / "folder.nii.gz", [])
    with pytest.raises(ValueError, match=r"link\.nii\.gz: is a link to nowhere"):
        own_masks.require_replaceable(tmp_path / "link.nii.gz", [])


def test_only_files_that_a_prediction_wrote_are_in_its_way(tmp_path):
    path, picture = tmp_path / "a.nii.gz", tmp_path / "a.png"
    own_masks.require_replaceable(path, [picture])
    picture.mkdir()
    own_masks.require_replaceable(path, [picture])  # the picture will fail, the mask will not
    picture.rmdir()
    picture.write_bytes(b"a photo")
    with pytest.raises(ValueError, match=r"a\.png: is there without a mask"):
        own_masks.require_replaceable(path, [picture])
    written(path, mask(), own_masks.description(mask()))
    own_masks.require_replaceable(path, [picture])
    corrected(path)
    with pytest.raises(ValueError, match=r"a\.nii\.gz: .*was changed since.*--skip_existing"):
        own_masks.require_replaceable(path, [])
