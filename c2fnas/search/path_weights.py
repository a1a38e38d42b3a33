"""Names of a supernet's weights, and the weights of one of its paths as those of a network.

A weight that all paths share has the same name as in an ordinary network. The names of an
operation's weights include the operation: `cell03/input0/op/p3d/in_plane/kernel` in the supernet is
`cell03/input0/op/in_plane/kernel` in a network whose third cell applies p3d.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

from c2fnas.search.gene_space import Gene
from c2fnas.search.operation_space import OperationSpace

Value = TypeVar("Value")

_OF_AN_OPERATION = re.compile(r"cell(\d+)/(?:input\d+/)?op/([^/]+)/")


def operation_name(name: str, op: str) -> str:
    """Returns the supernet's canonical name of an operation, given that of the cell's operation."""
    return f"{name}/{op}"


def operation_of(name: str) -> tuple[int, str] | None:
    """Returns the cell and the operation to which a supernet's weight belongs, from its name.

    Returns:
      The number of the cell, from 1, and the operation; None for a weight that all paths share.
    """
    found = _OF_AN_OPERATION.match(name)
    return None if found is None else (int(found[1]), found[2])


def extract(space: OperationSpace, gene: Gene, values: Mapping[str, Value]) -> dict[str, Value]:
    """Returns the values of one path, under the names of an ordinary network.

    Args:
      space: the paths of the supernet.
      gene: the path.
      values: the supernet's canonical name -> e.g. an array.
    Returns:
      canonical name in a network of `space.genotype(gene)` -> value, in the order of `values`.
    Raises:
      ValueError: for a gene outside the space, or names that are not those of its supernet.
    """
    chosen = [space.operations[choice] for choice in space.checked(gene)]
    found, cells = {}, set()
    for name, value in values.items():
        place = operation_of(name)
        if place is None:
            found[name] = value
            continue
        number, op = place
        if number > len(chosen) or op not in space.operations:
            raise ValueError(f"{name} is not a weight of the supernet of {space}")
        if op == chosen[number - 1]:
            found[name.replace(f"/op/{op}/", "/op/", 1)] = value
            cells.add(number)
    missing = sorted(set(range(1, len(chosen) + 1)) - cells)
    if missing:
        raise ValueError(
            f"there is no weight of {chosen[missing[0] - 1]} for cell {missing[0]}; "
            f"expected those of the supernet of {space}"
        )
    return found
