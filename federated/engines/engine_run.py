"""A run under an engine, checked before its job or app is written."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import pathlib
import symtable
from collections.abc import Iterator

from federated.engines.plan_check import check_num_rounds, read_initial
from runkit import atomic


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineRun:
    """What NVFLARE's job and Flower's app have in common.

    The paths may be given as text.

    Attributes:
      folder: folder of the job or app, which must not exist; its name becomes that of the job or
        app.
      site_script: Python file that every site runs; see `nvflare.site` and `flower.site`.
      initial: safetensors file of global model 0, with the plan in its metadata.
      num_rounds: the plan's number, if it has one; the plan may derive a learning rate from it.
      num_sites: a round waits for all of them.
    Raises:
      ValueError: for any of them that does not fit, saying what to change; and as `read_initial`.
    """

    folder: pathlib.Path
    site_script: pathlib.Path
    initial: pathlib.Path
    num_rounds: int
    num_sites: int

    def __post_init__(self) -> None:
        for name in ("folder", "site_script", "initial"):
            object.__setattr__(self, name, pathlib.Path(getattr(self, name)))
        for name in ("num_rounds", "num_sites"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}; expected a whole number of at least 1")
        if os.path.lexists(self.folder):
            raise ValueError(
                f"folder is {self.folder}, which exists; remove it, or give the name of a new one"
            )
        if self.site_script.suffix != ".py" or not self.site_script.is_file():
            raise ValueError(
                f"site_script is {self.site_script}, which is not a Python file here; give the "
                "path of the script that every site runs, ending in .py"
            )
        self.script_names()  # raises for a script that Python cannot read
        if not self.initial.is_file():
            raise ValueError(
                f"initial is {self.initial}, which is not a file here; give the path of the "
                "initial model, as experiments.init_model writes it"
            )
        _, metadata = read_initial(self.initial)
        check_num_rounds(metadata, self.num_rounds, what=str(self.initial))

    def script_names(self) -> frozenset[str]:
        """Returns the names that the script assigns, defines or imports at its top level.

        Raises:
          ValueError: for a script that Python cannot read.
        """
        try:
            source = importlib.util.decode_source(self.site_script.read_bytes())
            table = symtable.symtable(source, str(self.site_script), "exec")
        except (SyntaxError, ValueError) as error:
            raise ValueError(
                f"site_script is {self.site_script}, which Python cannot read ({error}); every "
                "site would stop at it, so correct it first"
            ) from error
        return frozenset(
            symbol.get_name()
            for symbol in table.get_symbols()
            if symbol.is_assigned() or symbol.is_imported()
        )

    @contextlib.contextmanager
    def writing(self) -> Iterator[pathlib.Path]:
        """Yields a temporary folder, which becomes `folder` if the block succeeds."""
        with atomic.replacing_folder(self.folder) as temporary:
            yield temporary
