"""The searched network as data: which cell reads what, at which scale, with which operation.

This module does not import TensorFlow.

It holds two public ports of C2FNAS (Yu et al., CVPR 2020, arXiv 1912.09628) by name. `c2fnas`, the
default, is the one that the first author of the federated pancreas study later published.
`c2fnas_sum` differs in two operations and in how a cell merges its inputs. Neither could be checked
against the figure of the original paper, so users can also give their own genotype as JSON.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

from runkit import atomic, printable
from runkit.classes import CLASSES

Kernel = tuple[int, int, int]  # x, y, z in voxels
Merge = Literal["after_op", "before_op"]
Outer = Literal["block", "conv"]
Down = Literal["replaces_first", "before_first"]

# The operations that a cell can apply. Each is a block of consecutive convolutions: the canonical
# name of each convolution's weight, below the operation's own name, and its kernel. x and y lie in
# the plane of a slice, z is perpendicular to it.
OPERATIONS: dict[str, Mapping[str, Kernel]] = {
    "conv2d": {"kernel": (3, 3, 1)},
    "conv3d": {"kernel": (3, 3, 3)},
    "p3d": {"in_plane/kernel": (3, 3, 1), "through_plane/kernel": (1, 1, 3)},
}


@dataclasses.dataclass(frozen=True)
class CellGene:
    """One cell: its inputs, its scale, its operation, and how it merges its inputs.

    Attributes:
      inputs: the one or two cells that it reads, numbered from 1; 0 is the stem.
      level: log2 of the downsampling; 1 is half resolution, where the stem ends.
      op: one of `OPERATIONS`.
      merge: "after_op" applies an operation to each input and adds up the results; "before_op"
        adds up the inputs and applies one operation to the sum.
      outer: the form of the first and the last 1x1x1: a "block" of ReLU, convolution and norm, or
        the "conv" alone.
      down: whether a stride-2 block replaces the first 1x1x1 or precedes it.
    Raises:
      ValueError: for any other value; the message names the field and the value.
    """

    inputs: tuple[int, ...]
    level: int
    op: str
    merge: Merge = "after_op"
    outer: Outer = "block"
    down: Down = "replaces_first"

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", tuple(self.inputs))
        choices = {"op": tuple(OPERATIONS), "merge": Merge, "outer": Outer, "down": Down}
        for field, kind in choices.items():
            known = kind if isinstance(kind, tuple) else get_args(kind)
            if getattr(self, field) not in known:
                raise ValueError(
                    f"{field} of a cell is {_shown(getattr(self, field))}; "
                    f"expected one of {', '.join(known)}"
                )
        if len(self.inputs) not in (1, 2):
            raise ValueError(
                f"a cell reads {_shown(list(self.inputs))}; expected one or two earlier cells"
            )


@dataclasses.dataclass(frozen=True)
class Convolution:
    """One convolution of the network: the canonical name of its weight, and its shape.

    `level` is the level of its output.
    """

    name: str
    kernel: Kernel
    channels_in: int
    channels_out: int
    level: int

    @property
    def weights(self) -> int:
        """The number of its weights, without a bias."""
        return math.prod(self.kernel) * self.channels_in * self.channels_out


@dataclasses.dataclass(frozen=True)
class Genotype:
    """A whole network: stem, cells, end. The end joins the last two cells at full resolution.

    If the last cell but one is on level 2, a block of doubling and 1x1x1, like the one with which a
    cell reads a deeper cell, first brings it to level 1.

    Attributes:
      filters: number of filters at full resolution; level l has filters * 2**l.
      classes: number of classes, including the background.
      end_relu: whether there is a ReLU between the end's first norm and the upsampling.
    Raises:
      ValueError: if a cell reads a later cell or one more than a level away, if a cell is not read
        by any later cell, if the last cell is not on level 1, or if the one before it is on a level
        deeper than 2; the message names the cell.
    """

    name: str
    cells: tuple[CellGene, ...]
    filters: int = 32
    classes: int = len(CLASSES)
    end_relu: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "cells", tuple(self.cells))
        if self.filters < 1 or self.classes < 2:
            raise ValueError(
                f"genotype {_shown(self.name)} has {self.filters} filters and {self.classes} "
                "classes; expected at least 1 and 2"
            )
        if len(self.cells) < 2:
            raise ValueError(
                f"genotype {_shown(self.name)} has {len(self.cells)} cells; "
                "the end joins the last two, so give at least 2"
            )
        for number, cell in enumerate(self.cells, start=1):
            if cell.level < 1:
                raise ValueError(
                    f"cell {number} is on level {cell.level}; "
                    "the stem ends on level 1, so a cell's level is at least 1"
                )
            for source in cell.inputs:
                if not 0 <= source < number:
                    raise ValueError(
                        f"cell {number} reads cell {source}; "
                        f"it can read 0 (the stem) to {number - 1}"
                    )
                if abs(self.level_of(source) - cell.level) > 1:
                    raise ValueError(
                        f"cell {number} on level {cell.level} reads cell {source} "
                        f"on level {self.level_of(source)}; "
                        "levels of a cell and its input differ by at most 1"
                    )
        read = {source for cell in self.cells for source in cell.inputs} | {
            len(self.cells),
            len(self.cells) - 1,
        }
        unread = [number for number in range(len(self.cells) + 1) if number not in read]
        if unread:
            raise ValueError(
                f"cell {unread[0]} is read by no later cell; remove it or let a later cell read it"
            )
        for number, deepest in ((len(self.cells) - 1, 2), (len(self.cells), 1)):
            if self.level_of(number) > deepest:
                raise ValueError(
                    f"cell {number} ends on level {self.level_of(number)}; the last cell must be "
                    "on level 1, and the one before it on level 1 or 2"
                )

    @property
    def depth(self) -> int:
        """The deepest level."""
        return max(cell.level for cell in self.cells)

    @property
    def size_multiple(self) -> int:
        """The number of which every spatial size, in voxels, must be a multiple."""
        return 2**self.depth

    @property
    def encoder_end(self) -> int:
        """The number of the last cell on the deepest level, where the VAE branch begins."""
        return max(
            number for number, cell in enumerate(self.cells, start=1) if cell.level == self.depth
        )

    def level_of(self, number: int) -> int:
        """Returns the level of a cell by its number; 0 is the stem, on level 1."""
        return 1 if number == 0 else self.cells[number - 1].level

    @property
    def end_doubles(self) -> bool:
        """Whether the end first brings the last cell but one from level 2 to level 1."""
        return self.level_of(len(self.cells) - 1) == 2

    def filters_at(self, level: int) -> int:
        return self.filters * 2**level

    def with_size(self, *, filters: int | None = None, classes: int | None = None) -> Genotype:
        """Returns the genotype with another number of filters or classes; None keeps the number."""
        return dataclasses.replace(
            self,
            filters=self.filters if filters is None else filters,
            classes=self.classes if classes is None else classes,
        )

    def convolutions(self) -> Iterator[Convolution]:
        """Yields every convolution of the segmentation network in the order of its forward pass."""
        full, half = self.filters_at(0), self.filters_at(1)
        yield Convolution("stem/first/kernel", (3, 3, 3), 1, full, 0)
        yield Convolution("stem/second/kernel", (3, 3, 3), full, half, 1)
        for number, cell in enumerate(self.cells, start=1):
            yield from self._cell_convolutions(f"cell{number:02d}", cell)
        if self.end_doubles:
            yield Convolution("end/up/kernel", (1, 1, 1), self.filters_at(2), half, 1)
        yield Convolution("end/first/kernel", (3, 3, 3), 2 * half, half, 1)
        yield Convolution("end/second/kernel", (3, 3, 3), half, full, 0)
        yield Convolution("end/classifier/kernel", (1, 1, 1), full, self.classes, 0)

    def _cell_convolutions(self, prefix: str, cell: CellGene) -> Iterator[Convolution]:
        width, level = self.filters_at(cell.level), cell.level
        for index, source in enumerate(cell.inputs):
            branch = f"{prefix}/input{index}"
            source_level = self.level_of(source)
            source_width = self.filters_at(source_level)
            if source_level < level:
                yield Convolution(f"{branch}/down/kernel", (3, 3, 3), source_width, width, level)
                if cell.down == "before_first":
                    yield Convolution(f"{branch}/first/kernel", (1, 1, 1), width, width, level)
            elif source_level > level:
                yield Convolution(f"{branch}/up/kernel", (1, 1, 1), source_width, width, level)
            else:
                yield Convolution(f"{branch}/first/kernel", (1, 1, 1), width, width, level)
            if cell.merge == "after_op":
                yield from _operation(f"{branch}/op", cell.op, width, level)
        if cell.merge == "before_op":
            yield from _operation(f"{prefix}/op", cell.op, width, level)
        yield Convolution(f"{prefix}/last/kernel", (1, 1, 1), width, width, level)

    def conv_weights(self) -> int:
        """Returns the number of convolution weights, without biases, norms and VAE branch."""
        return sum(convolution.weights for convolution in self.convolutions())

    def macs(self, patch_size: Sequence[int]) -> int:
        """Returns the multiply-accumulates of all convolutions for one patch.

        Voxels at the border count with a full kernel.

        Args:
          patch_size: x, y, z in voxels.
        Raises:
          ValueError: as `check_size`.
        """
        self.check_size(patch_size)
        voxels = patch_size[0] * patch_size[1] * patch_size[2]
        return sum(
            convolution.weights * (voxels // 8**convolution.level)
            for convolution in self.convolutions()
        )

    def check_size(self, size: Sequence[int]) -> None:
        """Raises ValueError unless `size` is three multiples of `size_multiple`."""
        step = self.size_multiple
        if len(size) != 3 or any(n < step or n % step for n in size):
            raise ValueError(
                f"size {tuple(size)} voxels does not fit genotype {_shown(self.name)}; "
                f"expected three multiples of {step}"
            )

    def to_json(self) -> dict[str, Any]:
        """Returns JSON values from which `from_json` makes the same genotype."""
        cells = [{**dataclasses.asdict(cell), "inputs": list(cell.inputs)} for cell in self.cells]
        return {
            "name": self.name,
            "filters": self.filters,
            "classes": self.classes,
            "end_relu": self.end_relu,
            "cells": [{"cell": number, **cell} for number, cell in enumerate(cells, start=1)],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Genotype:
        """Returns the genotype that `to_json` or a user has written.

        Raises:
          ValueError: for a missing, unknown or out-of-order entry; the message names it.
        """
        if (
            not isinstance(value, dict)
            or "name" not in value
            or not isinstance(value.get("cells"), list)
        ):
            raise ValueError("a genotype is a JSON object with `name` and a list of `cells`")
        _only_known(value, {"name", "filters", "classes", "end_relu", "cells"}, "the genotype")
        _require_kind(value, "name", str, "a name")
        _require_kind(value, "filters", int, "a whole number")
        _require_kind(value, "classes", int, "a whole number")
        _require_kind(value, "end_relu", bool, "true or false")
        cells = []
        for number, entry in enumerate(value["cells"], start=1):
            try:
                cells.append(_cell(number, entry))
            except ValueError as error:
                raise ValueError(f"cell {number}: {error}") from error
        return cls(**{**value, "cells": tuple(cells)})

    def fingerprint(self) -> str:
        """Returns the SHA-256 of the JSON form as 64 hex digits.

        It differs between genotypes with different cells, widths or names.
        """
        text = json.dumps(self.to_json(), sort_keys=True)
        return hashlib.sha256(text.encode("utf-8")).hexdigest()


def as_size(voxels: Sequence[int]) -> tuple[int, int, int]:
    """Returns three numbers of voxels along x, y and z as a tuple.

    Raises:
      ValueError: if there are not three.
    """
    if len(voxels) != 3:
        raise ValueError(f"size {tuple(voxels)} has {len(voxels)} axes; expected x, y and z")
    x, y, z = (int(n) for n in voxels)
    return x, y, z


def _operation(prefix: str, op: str, width: int, level: int) -> Iterator[Convolution]:
    for name, kernel in OPERATIONS[op].items():
        yield Convolution(f"{prefix}/{name}", kernel, width, width, level)


def _cell(number: int, entry: Any) -> CellGene:
    """Returns the cell that a JSON entry describes; raises ValueError, which names no cell."""
    if not isinstance(entry, dict):
        raise ValueError(f"is {_shown(entry)}; expected an object with inputs, level and op")
    gene = dict(entry)
    place = gene.pop("cell", number)
    if place != number:
        raise ValueError(f"has the number {_shown(place)}; list the cells in order, from 1")
    _only_known(gene, {field.name for field in dataclasses.fields(CellGene)}, "it")
    missing = {"inputs", "level", "op"} - gene.keys()
    if missing:
        raise ValueError(
            f"has no {', '.join(sorted(missing))}; every cell needs inputs, level and op"
        )
    _require_kind(gene, "level", int, "a whole number")
    inputs = gene["inputs"]
    if not isinstance(inputs, list) or any(type(source) is not int for source in inputs):
        raise ValueError(
            f"inputs is {_shown(inputs)}; expected a list of numbers of earlier cells, e.g. [1, 0]"
        )
    return CellGene(**gene)


def _require_kind(value: Mapping[str, Any], name: str, kind: type, expected: str) -> None:
    # In JSON 1, 1.0 and true are different values, which Python calls equal.
    if name in value and type(value[name]) is not kind:
        raise ValueError(f"{name} is {_shown(value[name])}; expected {expected}")


def _shown(value: object) -> str:
    """Returns a value of a file as an error shows it: on one line, and cut if it is long."""
    return printable.text(repr(value))


def _only_known(value: dict[str, Any], known: set[str], what: str) -> None:
    unknown = value.keys() - known
    if unknown:
        raise ValueError(
            f"{what} has unknown entries {printable.text(', '.join(sorted(unknown)))}; "
            f"known are {', '.join(sorted(known))}"
        )


# Source of both tables: the code of the two public ports. The tests check their numbers of weights
# and MACs.
_C2FNAS = Genotype(
    name="c2fnas",
    cells=(
        CellGene((0,), 1, "conv2d"),
        CellGene((1, 0), 1, "p3d"),
        CellGene((2,), 2, "conv3d"),
        CellGene((3,), 2, "conv3d"),
        CellGene((4,), 3, "conv3d"),
        CellGene((5,), 4, "conv3d"),
        CellGene((6, 5), 3, "conv2d"),
        CellGene((7,), 3, "conv3d"),
        CellGene((8, 4), 2, "p3d"),
        CellGene((9, 2), 1, "conv3d"),
        CellGene((10,), 1, "conv2d"),
        CellGene((11, 10), 1, "conv3d"),
    ),
)
_OTHER_OPERATIONS = {6: "conv2d", 7: "conv3d"}
_C2FNAS_SUM = Genotype(
    name="c2fnas_sum",
    cells=tuple(
        dataclasses.replace(
            cell,
            op=_OTHER_OPERATIONS.get(number, cell.op),
            merge="before_op",
            outer="conv",
            down="before_first",
        )
        for number, cell in enumerate(_C2FNAS.cells, start=1)
    ),
    end_relu=True,
)
_NAMED = {genotype.name: genotype for genotype in (_C2FNAS, _C2FNAS_SUM)}
NAMES: tuple[str, ...] = tuple(_NAMED)


def load(source: str | os.PathLike) -> Genotype:
    """Returns the genotype of a name in NAMES or of a JSON file.

    Raises:
      ValueError: if there is neither such a name nor such a file, or if the file is not a genotype;
        the message names it.
    """
    if str(source) in _NAMED:
        return _NAMED[str(source)]
    path = pathlib.Path(source)
    if not path.is_file():
        raise ValueError(
            f"genotype {str(source)!r} is neither a known name ({', '.join(NAMES)}) nor a JSON file"
        )
    value = atomic.read_json(path)
    try:
        return Genotype.from_json(value)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
