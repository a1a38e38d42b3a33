"""The folder of a server's store: the paths of its files, and the lock.

    <store>/state.sqlite                       run, sessions, rounds, updates, scores, models, rows
            global/round_000.safetensors       every global model; round_000 is the initial one
            rule_state/round_001.safetensors   what the aggregation rule keeps with a global model
            best.safetensors selection.json    the best global model so far and its scores
            models/<name>.safetensors          models that sites published for evaluation, or that
                                               the operator gave
            rows.jsonl                         per-case rows of every site
            events.jsonl address.json
            events/000001.jsonl.gz             full segments of the log
            spool/                             updates of the open round
            kept/round_003/                    updates of the newest closed rounds, for an audit
            incoming/                          transfers under way; a restart continues them
            discarded/                         files that are about to be removed

Which of them count is in the database; see `store`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pathlib
import shutil
from typing import TextIO

from federated.errors import StoreInUse
from federated.rounds import tasks
from federated.rounds.rounds import Update
from runkit import folder_lock, private


class StoreFolder:
    """The paths of a store's files. An instance touches nothing until a method is called."""

    def __init__(self, folder: str | os.PathLike):
        self.folder = pathlib.Path(folder)
        self._discarded = self.folder / "discarded"

    def make_folders(self) -> None:
        """Creates the folders that a store always has."""
        for name in ("global", "models", "spool", "incoming", "discarded"):
            private.make(self.folder / name)

    def kept_folder(self, number: int) -> pathlib.Path:
        return self.folder / "kept" / tasks.global_name(number)

    def global_path(self, number: int) -> pathlib.Path:
        return self.folder / "global" / f"{tasks.global_name(number)}.safetensors"

    def held_globals(self) -> set[int]:
        """Returns the numbers of the global models whose files are still there."""
        found = (tasks.global_number(path.stem) for path in (self.folder / "global").iterdir())
        return {number for number in found if number is not None}

    def rule_state_path(self, number: int) -> pathlib.Path:
        """Returns the file for the aggregation rule's state with a global model."""
        return self.folder / "rule_state" / f"{tasks.global_name(number)}.safetensors"

    def model_path(self, name: str) -> pathlib.Path:
        return self.folder / "models" / f"{name}.safetensors"

    def update_path(self, update: Update) -> pathlib.Path:
        # With the digest in the name, a new update never overwrites the file of the old one, which
        # counts until the database names the new one.
        return (
            self.folder
            / "spool"
            / f"{tasks.global_name(update.round)}.{update.site}.{update.sha256[:16]}.safetensors"
        )

    def incoming_path(self, site: str, sha256: str) -> pathlib.Path:
        """Returns the file in which a site's model arrives.

        The site's earlier unfinished transfer is removed: each site has at most one. The name has
        the whole digest: a site can find two models that share the first 16 digits, and while one
        transfer is checked, it could put the other model into a file of the same name.
        """
        path = self.folder / "incoming" / f"{site}.{sha256}.safetensors"
        for other in path.parent.glob(f"{site}.*.safetensors"):
            if other.name != path.name and other.name.count(".") == path.name.count("."):
                other.unlink(missing_ok=True)
        return path

    def drop_incoming(self, site: str) -> None:
        """Removes a model that a site has begun to send."""
        for path in (self.folder / "incoming").glob(f"{site}.*.safetensors"):
            path.unlink(missing_ok=True)

    def _discard(self, path: pathlib.Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.replace(path, self._discarded / path.name)

    def empty_discarded(self) -> None:
        """Removes the files in `discarded`; the only method that needs no lock.

        Removing a model takes as long as copying it, and the next round need not wait for that.
        """
        for path in self._discarded.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)  # another thread may do the same
            else:
                path.unlink(missing_ok=True)


def lock(folder: pathlib.Path) -> TextIO:
    """Creates a store's folder, readable by this account only, and locks it until the file closes.

    Raises:
      StoreInUse: if another process has it open.
      ValueError: if there is a link in the folder.
    """
    private.refuse_links(folder, recursive=True)
    private.tree(folder)  # it contains the updates of single sites
    held = open(folder / "lock", "w", opener=private.opener)  # noqa: SIM115
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        process = folder_lock.holder(held.fileno())
        held.close()
        if error.errno != errno.EWOULDBLOCK:
            raise StoreInUse(
                f"{folder}: cannot be locked ({error.strerror}); "
                "a store needs a disk of this machine itself"
            ) from error
        server = f"another server ({process})" if process else "another server"
        raise StoreInUse(
            f"{folder}: {server} works on this store; stop it or give this one its own folder"
        ) from None
    return held
