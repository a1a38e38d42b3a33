import pytest

from c2fnas.genotype import CellGene, Genotype
from c2fnas.search import path_weights
from c2fnas.search.operation_space import OperationSpace

SPACE = OperationSpace(
    Genotype("tiny", (CellGene((0,), 1, "conv3d"), CellGene((1, 0), 1, "conv3d")), filters=1)
)
OF_OPERATIONS = {
    f"{place}/op/{op}/{weight}": f"{place}/{op}/{weight}"
    for place in ("cell01/input0", "cell02/input0", "cell02/input1")
    for op, weights in {
        "conv2d": ("kernel", "gamma"),
        "conv3d": ("kernel", "gamma"),
        "p3d": ("in_plane/kernel", "through_plane/kernel", "through_plane/gamma"),
    }.items()
    for weight in weights
}
SHARED = {"stem/first/kernel": 1, "cell01/input0/first/kernel": 2, "cell02/last/gamma": 3}


def test_a_paths_weights_get_the_names_of_an_ordinary_network():
    found = path_weights.extract(SPACE, (0, 2), {**SHARED, **OF_OPERATIONS})
    assert found == {
        **SHARED,
        "cell01/input0/op/kernel": "cell01/input0/conv2d/kernel",
        "cell01/input0/op/gamma": "cell01/input0/conv2d/gamma",
        **{
            f"cell02/input{n}/op/{weight}": f"cell02/input{n}/p3d/{weight}"
            for n in (0, 1)
            for weight in ("in_plane/kernel", "through_plane/kernel", "through_plane/gamma")
        },
    }


def test_one_operation_for_the_sum_of_the_inputs():
    values = {"cell01/op/conv2d/kernel": 1, "cell01/op/p3d/kernel": 2, "cell02/op/p3d/kernel": 3}
    assert path_weights.extract(SPACE, (2, 2), values) == {
        "cell01/op/kernel": 2,
        "cell02/op/kernel": 3,
    }


def test_the_operation_of_a_name():
    assert path_weights.operation_of("cell12/input1/op/p3d/in_plane/kernel") == (12, "p3d")
    assert path_weights.operation_of("cell02/op/conv2d/gamma") == (2, "conv2d")
    for name in ("cell12/input1/first/kernel", "stem/first/kernel", "vae/level2/narrow/kernel"):
        assert path_weights.operation_of(name) is None


@pytest.mark.parametrize(
    ("gene", "values", "message"),
    [
        ((0, 3), OF_OPERATIONS, "choice 3 at place 1"),
        ((0, 0), {"cell01/input0/op/conv2d/kernel": 1}, "no weight of conv2d for cell 2"),
        ((0, 0), {**OF_OPERATIONS, "cell03/op/conv2d/kernel": 1}, "cell03/op/conv2d/kernel is not"),
        ((0, 0), {**OF_OPERATIONS, "cell02/op/wide/kernel": 1}, "cell02/op/wide/kernel is not"),
        ((0, 0), {"cell01/input0/first/kernel": 1}, "no weight of conv2d for cell 1"),
    ],
)
def test_weights_of_something_else_are_refused(gene, values, message):
    with pytest.raises(ValueError, match=message):
        path_weights.extract(SPACE, gene, values)
