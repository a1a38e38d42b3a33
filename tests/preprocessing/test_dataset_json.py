from __future__ import annotations

import json

import pytest

from preprocessing import manifest
from preprocessing.case_list import Case
from tests.preprocessing.test_declared_labels import BOTH
from tests.preprocessing.test_manifest import saved


def test_a_decathlon_dataset_as_it_is(tmp_path):
    path = saved(
        tmp_path,
        {
            "name": "PANCREAS",
            "labels": {"0": "background", "1": "pancreas", "2": "cancer"},
            "training": [
                {
                    "image": "./imagesTr/pancreas_290.nii.gz",
                    "label": "./labelsTr/pancreas_290.nii.gz",
                },
                {
                    "image": "./imagesTr/._pancreas_290.nii.gz",
                    "label": "./labelsTr/._pancreas_290.nii.gz",
                },
                {
                    "image": "./imagesTr/pancreas_421.nii.gz",
                    "label": "./labelsTr/pancreas_421.nii.gz",
                },
            ],
            "test": ["./imagesTs/pancreas_095.nii.gz", "./imagesTs/._pancreas_095.nii.gz"],
        },
        "dataset.json",
    )
    found = manifest.read(path, site="C2")
    assert found.site == "C2" and manifest.read(path).site == "PANCREAS"
    assert [case.case_id for case in found.cases] == [
        "pancreas_290",
        "pancreas_421",
        "pancreas_095",
    ]
    assert found.cases[1].label == tmp_path / "labelsTr/pancreas_421.nii.gz"
    assert found.cases[2].label is None


def nnunet(folder, **changes):
    for part, names in (
        ("imagesTr", ["p 1_0000", "p2_0000", "p2_0001"]),
        ("labelsTr", ["p 1", "p2"]),
        ("imagesTs", ["p3_0000"]),
    ):
        (folder / part).mkdir()
        for name in names:
            (folder / part / f"{name}.nii.gz").write_bytes(b"")
    labels = {"background": 0, "pancreas": 1, "tumour": 2}
    value = {
        "channel_names": {"0": "CT"},
        "labels": labels,
        "numTraining": 2,
        "file_ending": ".nii.gz",
        **changes,
    }
    return saved(
        folder, {key: one for key, one in value.items() if one is not None}, "dataset.json"
    )


def test_an_nnunet_dataset_as_it_is(tmp_path):
    folder = tmp_path / "Dataset007_Pancreas"
    folder.mkdir()
    found = manifest.read(nnunet(folder))
    assert (found.site, found.label_values) == ("Dataset007_Pancreas", None) and manifest.read(
        folder / "dataset.json", site="C2"
    ).site == "C2"
    assert found.cases == (
        Case("p_1", folder / "imagesTr/p 1_0000.nii.gz", folder / "labelsTr/p 1.nii.gz"),
        Case("p2", folder / "imagesTr/p2_0000.nii.gz", folder / "labelsTr/p2.nii.gz"),
        Case("p3", folder / "imagesTs/p3_0000.nii.gz", None),
    )


@pytest.mark.parametrize(
    ("labels", "values"),
    [
        ({"background": 0, "Pancreas": 1, "Pancreatic_Tumor": 2}, None),
        ({"background": 0, "pancreas": 1}, None),
        ({"background": 0, "liver": 1, "pancreas": 2, "cancer": 3}, {2: 1, 3: 2}),
        (
            {"background": 0, "pancreas": [1, 2], "tumour": [2]},
            None,
        ),  # regions: the tumour is part of the pancreas
        ({"background": 0, "tumour": 1, "pancreas": 2}, {2: 1, 1: 2}),
    ],
)
def test_nnunets_label_names_determine_the_classes_of_the_values(tmp_path, labels, values):
    assert manifest.read(nnunet(tmp_path, labels=labels)).label_values == values


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"labels": {"background": 0, "liver": 1}},
            "0 of the labels background, liver are named pancreas.*M05",
        ),
        (
            {"labels": {"background": 0, "pancreas": 1, "liver tumour": 2}},
            "unclear which class the label liver tumour is",
        ),
        ({"labels": {"background": 0, "pancreas": "1"}}, "has the value '1'"),
        ({"labels": None}, "`labels` is None"),
        ({"file_ending": ".nrrd"}, r"file_ending is '\.nrrd'"),
        ({"numTraining": 3}, "holds 2 files .*numTraining is 3"),
        ({"dataset": {"a": {"image": "x"}}}, "`dataset` is not case"),
    ],
)
def test_an_unclear_nnunet_dataset_is_refused(tmp_path, changes, words):
    path = nnunet(tmp_path, **changes)
    with pytest.raises(ValueError, match=words) as caught:
        manifest.read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "declared"),
    [
        ({"0": "background", "1": "pancreas", "2": "cancer"}, BOTH),
        ({"0": "background", "1": "pancreas"}, None),
        (None, None),
    ],
)
def test_the_decathlons_dataset_json_declares_its_labels(tmp_path, labels, declared):
    value = {
        "name": "Pancreas",
        "labels": labels,
        "training": [{"image": "i.nii.gz", "label": "l.nii.gz"}],
        "test": [],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(value))
    assert manifest.read(tmp_path / "dataset.json").declared == declared


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        ({"0": "background", "1": "pancreas", "2": "cancer"}, None),
        ({"0": "background", "1": "Pancreas", "2": "Pancreatic mass"}, None),
        ({"background": 0, "pancreas": 1, "PDAC": 2}, None),
        ({"1": "pancreas", "2": "cancer", "3": "duct"}, None),  # its voxels break rule L02
        ({"1": "liver", "2": "cancer"}, "label 1 is 'liver'"),
        ({"1": "pancreas", "2": "spleen"}, "label 2 is 'spleen' there, not tumour"),
        ({"1": "pancreatic cancer", "2": "pancreas"}, "label 1 is 'pancreatic cancer'"),
        ({"1": "pancreas parenchyma", "2": "pancreas duct"}, "label 2 is 'pancreas duct'"),
        ({"pancreas": 1, "spleen": 2}, "label 2 is 'spleen'"),
    ],
)
def test_the_decathlons_labels_1_and_2_are_pancreas_and_tumour_or_refused(
    tmp_path, labels, problem
):
    pair = {"image": "i.nii.gz", "label": "l.nii.gz"}
    path = saved(tmp_path, {"labels": labels, "training": [pair]}, "dataset.json")
    if problem is None:
        assert manifest.read(path).label_values is None
    else:
        with pytest.raises(ValueError, match=f"{problem}.*M05"):
            manifest.read(path)
