import json
import subprocess
import sys

import pytest

from c2fnas import genotype
from c2fnas.genotype import CellGene, Genotype
from tests import wrong_values

_SMALL = {
    "name": "small",
    "filters": 2,
    "classes": 3,
    "end_relu": False,
    "cells": [
        {"inputs": [0], "level": 1, "op": "conv3d"},
        {"inputs": [1, 0], "level": 1, "op": "p3d", "merge": "before_op"},
    ],
}


def test_default_cells_are_the_published_table():
    cells = genotype.load("c2fnas").cells
    assert [cell.level for cell in cells] == [1, 1, 2, 2, 3, 4, 3, 3, 2, 1, 1, 1]
    assert [cell.inputs for cell in cells] == [
        (0,),
        (1, 0),
        (2,),
        (3,),
        (4,),
        (5,),
        (6, 5),
        (7,),
        (8, 4),
        (9, 2),
        (10,),
        (11, 10),
    ]
    assert (
        " ".join(cell.op for cell in cells)
        == "conv2d p3d conv3d conv3d conv3d conv3d conv2d conv3d p3d conv3d conv2d conv3d"
    )


def test_weights_and_macs_of_both_ports():
    default, summed = genotype.load("c2fnas"), genotype.load("c2fnas_sum")
    assert (default.conv_weights(), default.macs((96, 96, 96))) == (19_559_360, 189_772_333_056)
    assert (summed.conv_weights(), summed.macs((96, 96, 96))) == (15_307_712, 157_553_786_880)


def test_counts_by_hand():
    tiny = Genotype(
        "tiny",
        (CellGene((0,), 1, "p3d"), CellGene((1, 0), 1, "conv2d", merge="before_op")),
        filters=1,
        classes=2,
    )
    cell_1 = 4 + (9 + 3) * 4 + 4  # 1x1x1, pseudo-3D, 1x1x1 of 2 channels
    cell_2 = 2 * 4 + 9 * 4 + 4  # two 1x1x1, one operation on their sum, 1x1x1
    half, full = 27 * 2 + cell_1 + cell_2 + 27 * 4 * 2, 27 * 1 + 27 * 2 * 1 + 2
    assert tiny.conv_weights() == half + full
    assert tiny.macs((4, 2, 2)) == half * 2 + full * 16


def test_the_end_brings_a_cell_of_level_2_up():
    """The topologies of the search whose last step goes up."""
    tiny = Genotype("tiny", (CellGene((0,), 2, "conv2d"), CellGene((1,), 1, "conv2d")), filters=1)
    names = [convolution.name for convolution in tiny.convolutions()]
    assert names[-4:] == [
        "end/up/kernel",
        "end/first/kernel",
        "end/second/kernel",
        "end/classifier/kernel",
    ]
    (up,) = (c for c in tiny.convolutions() if c.name == "end/up/kernel")
    assert (up.kernel, up.channels_in, up.channels_out, up.level) == ((1, 1, 1), 4, 2, 1)
    assert not genotype.load("c2fnas").end_doubles
    assert Genotype.from_json(tiny.to_json()) == tiny


def test_second_port_differs_as_documented():
    default, summed = genotype.load("c2fnas"), genotype.load("c2fnas_sum")
    changed = {
        i: b.op
        for i, (a, b) in enumerate(zip(default.cells, summed.cells, strict=True), start=1)
        if a.op != b.op
    }
    assert changed == {6: "conv2d", 7: "conv3d"}
    assert {(cell.merge, cell.outer, cell.down) for cell in summed.cells} == {
        ("before_op", "conv", "before_first")
    }
    assert {(cell.merge, cell.outer, cell.down) for cell in default.cells} == {
        ("after_op", "block", "replaces_first")
    }


@pytest.mark.parametrize("name", genotype.NAMES)
def test_json_round_trip_through_a_file(name, tmp_path):
    original = genotype.load(name).with_size(filters=8, classes=2)
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(original.to_json()))
    assert genotype.load(path) == original
    assert genotype.load(path).fingerprint() == original.fingerprint()


def test_a_user_can_replace_the_genotype_by_json(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(
        json.dumps(
            {
                "name": "mine",
                "filters": 4,
                "cells": [
                    {"inputs": [0], "level": 2, "op": "conv3d"},
                    {"inputs": [1, 0], "level": 1, "op": "p3d"},
                    {"inputs": [2], "level": 1, "op": "conv2d", "merge": "before_op"},
                ],
            }
        )
    )
    mine = genotype.load(path)
    assert (mine.depth, mine.encoder_end, mine.classes) == (2, 1, 3)
    assert mine.cells[2] == CellGene((2,), 1, "conv2d", merge="before_op")


def test_fingerprints_of_different_genotypes_differ():
    default = genotype.load("c2fnas")
    others = [
        default.with_size(filters=8),
        default.with_size(classes=2),
        genotype.load("c2fnas_sum"),
    ]
    assert len({g.fingerprint() for g in [default, *others]}) == 4


def test_encoder_end_is_the_last_cell_of_the_deepest_level():
    assert (genotype.load("c2fnas").encoder_end, genotype.load("c2fnas").depth) == (6, 4)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (
            [CellGene((0,), 1, "conv3d"), CellGene((2,), 1, "conv3d")],
            "cell 2 reads cell 2.*0 .* to 1",
        ),
        (
            [CellGene((0,), 3, "conv3d"), CellGene((1,), 1, "conv3d")],
            "cell 1 on level 3 reads cell 0 on level 1",
        ),
        ([CellGene((0,), 1, "conv3d")] * 3, "cell 1 is read by no later cell"),
        ([CellGene((0,), 1, "conv3d"), CellGene((1,), 2, "conv3d")], "cell 2 ends on level 2"),
        (
            [
                CellGene((0,), 2, "conv3d"),
                CellGene((1,), 3, "conv3d"),
                CellGene((1,), 1, "conv3d"),
            ],
            "cell 2 ends on level 3",
        ),
        ([CellGene((0,), 0, "conv3d"), CellGene((1,), 1, "conv3d")], "cell 1 is on level 0"),
        ([CellGene((0,), 1, "conv3d")], "1 cells"),
    ],
)
def test_impossible_wirings_are_refused_by_name(cells, message):
    with pytest.raises(ValueError, match=message):
        Genotype("broken", tuple(cells))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"op": "conv4d"}, "cell 1: op of a cell is 'conv4d'.*conv2d, conv3d, p3d"),
        ({"merge": "never"}, "cell 1: merge of a cell is 'never'"),
        ({"inputs": [0, 0, 0]}, "cell 1: .*one or two earlier cells"),
        ({"kernel": 3}, "cell 1: it has unknown entries kernel"),
        ({"level": None}, "cell 1: has no level"),
        ({"cell": 7}, "cell 1: has the number 7"),
        ({"cell": "1"}, "cell 1: has the number '1'"),
    ],
)
def test_broken_json_names_file_and_entry(change, message, tmp_path):
    value = genotype.load("c2fnas").to_json()
    value["cells"][0].update(change)
    value["cells"][0] = {
        key: entry for key, entry in value["cells"][0].items() if entry is not None
    }
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(value))
    with pytest.raises(ValueError, match=message) as caught:
        genotype.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("place", wrong_values.places(_SMALL), ids=wrong_values.named)
def test_whatever_stands_in_a_file_the_error_is_one_short_line_with_its_name(place, tmp_path):
    path = tmp_path / "mine.json"
    refusals = 0
    for value in wrong_values.replaced(_SMALL, place):
        path.write_text(json.dumps(value))
        try:
            genotype.load(path)
        except ValueError as error:
            refusals += 1
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error), error
            assert len(str(error)) < len(str(path)) + 700, error
    assert refusals >= 10


@pytest.mark.parametrize("wrong", ["1", 1.5, 1.0, True, [1], {"a": 1}])
def test_a_number_of_another_json_type_is_named_with_its_cell(wrong, tmp_path):
    path = tmp_path / "mine.json"
    for entry, change in (
        ("level", {"level": wrong}),
        ("inputs", {"inputs": [wrong]}),
        ("inputs", {"inputs": wrong if wrong != [1] else 1}),
    ):
        value = genotype.load("c2fnas").to_json()
        value["cells"][1].update(change)
        path.write_text(json.dumps(value))
        with pytest.raises(ValueError, match=f"cell 2: {entry} is .*; expected") as caught:
            genotype.load(path)
        assert str(caught.value).startswith(f"{path}: cell 2: ")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"name": 5}, "name is 5; expected a name"),
        ({"filters": "8"}, "filters is '8'; expected a whole number"),
        ({"filters": 8.0}, "filters is 8.0; expected a whole number"),
        ({"classes": True}, "classes is True; expected a whole number"),
        ({"end_relu": "no"}, "end_relu is 'no'; expected true or false"),
    ],
)
def test_an_entry_of_another_json_type_is_named(change, expected, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(genotype.load("c2fnas").to_json() | change))
    with pytest.raises(ValueError) as caught:
        genotype.load(path)
    assert str(caught.value) == f"{path}: {expected}"


def test_a_file_that_is_no_json_is_named_once(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text("{'name': 'mine'}")
    with pytest.raises(ValueError, match="not valid JSON") as caught:
        genotype.load(path)
    assert str(caught.value).count(str(path)) == 1


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"'nas'.*c2fnas, c2fnas_sum"):
        genotype.load("nas")


def test_size_that_cannot_be_halved_often_enough():
    with pytest.raises(ValueError, match=r"\(96, 90, 96\).*multiples of 16"):
        genotype.load("c2fnas").macs((96, 90, 96))


def test_the_module_does_not_import_tensorflow():
    code = "import sys, c2fnas.genotype; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_file_that_is_not_json_is_named_once(tmp_path):
    path = tmp_path / "cut.json"
    path.write_text('{"name": "c2f')
    with pytest.raises(ValueError, match="not valid JSON") as error:
        genotype.load(path)
    assert str(error.value).count("cut.json") == 1
