"""A site's part in secure aggregation: its state on disk, its masked update, and the calls.

The state is durable before anything derived from it is sent, and names the one update that its
masks are for. So a site that was killed in the middle sends the same bytes again, and the same
masks are never used for two different updates.
"""

from __future__ import annotations

import datetime
import json
import pathlib
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from federated import errors
from federated.rounds.tasks import Task
from federated.secure_aggregation import masks, participant, ring
from federated.secure_aggregation.keys import Context
from federated.secure_aggregation.participant import Participant
from federated.secure_aggregation.ring import Ring
from federated.secure_aggregation.roster import Signer
from federated.site.sums.opened_sums import OpenedSums
from federated.site.sums.sum_terms import SumTerms
from federated.tensors.tensor_files import (
    TensorFile,
    TensorFileWriter,
    TensorSelection,
    file_digest,
    selected,
)
from federated.tensors.weights import CHUNK_BYTES, dtype_runs, stretches
from federated.wire.messages import SumPlace, SumPost, SumSettings, SumState
from runkit import atomic, formats, printable

FORMAT = 1  # of masking.json
NAME, _MASKED = "masking.json", "masked.safetensors"
_REMEDY = "restore it, or give the run a new folder"


class Plain(NamedTuple):
    """An update as it was trained, and the model that it was trained from."""

    update: pathlib.Path
    sha256: str
    model: pathlib.Path
    model_sha256: str
    num_examples: int
    shared: Collection[str]  # names of the model's tensors that the update holds

    @property
    def identity(self) -> str:
        """Identifies what is masked: the update, and the number that weights it."""
        return f"{self.num_examples} x {self.sha256}"


class Masking:
    """One site's exchanges of one run.

    Args:
      folder: the site's journal, which only this account may enter.
      run: the run's id.
      settings: what the server said at login.
      signer: returns what signs for this site.
      terms: what this site demands of sums. Those that a restart may not weaken are kept on disk.
    Raises:
      ServerMisbehaves: for settings with which no sum is safe, or others than this run had before.
      PolicyRefused: for terms that the run cannot keep, or that are weaker than they were before.
      ValueError: for a file that this class did not write.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        run: str,
        settings: SumSettings,
        signer: Callable[[], Signer],
        *,
        terms: SumTerms = SumTerms(),  # noqa: B008 - a frozen value
    ):
        self._path, self.masked_path = folder / NAME, folder / _MASKED
        self._run, self._settings, self._signer = run, settings, signer
        try:
            ring.check_settings(settings)
        except ValueError as error:
            raise errors.ServerMisbehaves.because(
                f"asks for sums that are not safe: {error}"
            ) from (error)
        terms.check(settings)
        self._min_sites, self._required = terms.min_sum_sites, terms.require_secure_aggregation
        self._opened = OpenedSums(folder, run, repeats=terms.repeated_sums)
        self._last: SumPlace | None = None
        self._me: Participant | None = None
        self._model: _Model | None = None
        found = _read(self._path)
        if found is not None and found["run"] == run:
            if found["settings"] != vars(settings):
                raise errors.ServerMisbehaves.because(
                    "changes the threshold, the range or the number of sites of secure aggregation "
                    "in the middle of a run"
                )
            before = found["min_sites"]
            if self._min_sites < before:
                raise errors.PolicyRefused(
                    f"min_sum_sites is {self._min_sites}, and was {before} before in this run, in "
                    "which it can only be raised; start this site with "
                    f"--min_sum_sites={before} or more"
                )
            self._last = None if found["last"] is None else SumPlace(**found["last"])
            self._model = None if found["model"] is None else _Model(*found["model"])
            if found["participant"] is not None:
                self._me = Participant.from_json(found["participant"])
            if found["required"] and not self._required:
                raise errors.PolicyRefused(
                    "this site required secure aggregation before in this run, and without that "
                    "flag could lend models as they are; start it with "
                    "--require_secure_aggregation and --nolend_local"
                )
            if (self._min_sites, self._required) != (before, found["required"]):
                self._save(self._me)
        else:
            self._save(None)

    @staticmethod
    def began(folder: pathlib.Path, run: str) -> bool:
        """Returns whether a run has been under secure aggregation at this site."""
        found = _read(folder / NAME)
        return found is not None and found["run"] == run

    @staticmethod
    def forget(folder: pathlib.Path) -> None:
        """Deletes the secrets of a run that is over for this site, if it had any."""
        found = _read(folder / NAME)
        if found is not None and found["participant"] is not None:
            last = Participant.from_json(found["participant"]).place
            atomic.write_json(folder / NAME, {**found, "participant": None, "last": vars(last)})
        (folder / _MASKED).unlink(missing_ok=True)

    def _save(self, me: Participant | None) -> None:
        """Makes `me` durable; only then does it count."""
        last = self._last if me is None else me.place
        state = {
            "format": FORMAT,
            "run": self._run,
            "settings": vars(self._settings),
            "min_sites": self._min_sites,
            "required": self._required,
            "last": None if last is None else vars(last),
            "model": self._model,
            "participant": None if me is None else me.to_json(),
        }
        with atomic.replacing(self._path) as temporary:
            temporary.write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
        self._me, self._last = me, last

    def finish(self) -> None:
        """Deletes the secrets of the last exchange."""
        self._save(None)
        self.masked_path.unlink(missing_ok=True)

    def note_model(self, task: Task, sha256: str) -> None:
        """Records on disk the global model from which a round is about to be trained.

        This site will sign its digest, whatever the server states by then.

        Raises:
          ServerMisbehaves: if the round had another global model before.
        """
        known = self.model_of(task)
        if known not in ("", sha256):
            raise errors.ServerMisbehaves.because(
                f"gives another global model than before for round {task.round}"
            )
        if not known:
            self._model = _Model(task.discarded, task.round, sha256)
            self._save(self._me)

    def model_of(self, task: Task) -> str:
        """Returns the digest of the model from which a round was trained; "" if not recorded."""
        if self._model is None or self._model[:2] != (task.discarded, task.round):
            return ""
        return self._model.sha256

    @property
    def unreadable(self) -> tuple[str, ...]:
        """The sites whose shares could not be opened in this exchange."""
        return () if self._me is None else self._me.unreadable

    def keys(self, task: Task, plain: Plain) -> SumPost:
        """Returns the keys with which this site enters an exchange, the same each time.

        Raises:
          UpdateRefused: if a change in the update is too large for the sum.
          StaleUpdate: if this exchange began with another update; the site then sits it out.
          ServerMisbehaves: if the exchange is earlier than the last one, or for another global
            model.
        """
        place, me = SumPlace(task.discarded, task.round, task.exchange), self._me
        context = Context(self._run, place, plain.model_sha256, self._settings)
        if task.exchange < 1:
            raise errors.ServerMisbehaves.because(
                f"asks for training in round {task.round} without an exchange of secure aggregation"
            )
        if me is not None and me.place == place:
            if me.context != context:
                raise errors.ServerMisbehaves.because(
                    "gives another global model than before in one exchange"
                )
            if me.update != plain.identity:
                raise errors.StaleUpdate(
                    f"exchange {place.exchange} of round {place.round} began with another update "
                    "of this site, whose masks are used for no other; waiting for the next one"
                )
            return me.post("keys", keys=me.keys)
        if self._last is not None and place <= self._last:
            raise errors.ServerMisbehaves.because(
                f"goes back to exchange {place.exchange} of round {place.round}, after exchange "
                f"{self._last.exchange} of round {self._last.round}"
            )
        rule, what = Ring.of(self._settings), f"update of round {task.round}"
        rule.check_examples(self._signer().site, plain.num_examples)
        for _, values, model in _pieces(plain):
            rule.check(values, model, what=what)
        self.masked_path.unlink(missing_ok=True)
        me = participant.begin(self._signer(), context, plain.identity)
        self._save(me)
        return me.post("keys", keys=me.keys)

    def part(self, task: Task, state: SumState) -> SumPost:
        """Returns what the site sends in the phase "share", "consent" or "reveal".

        Raises:
          StaleUpdate: for an exchange that this site has not entered, or of too few sites.
          ServerMisbehaves: as the functions of `participant`.
          PolicyRefused, StaleUpdate: as `OpenedSums`.
        """
        me = self._entered(task)
        if task.kind == "share":
            self._check_count([each.site for each in state.keys])
            signer = self._signer()
            now = datetime.datetime.now(datetime.timezone.utc)
            me = participant.share(me, state.keys, signer.authority, now)
            self._save(me)
            return participant.shares_post(me)
        if task.kind == "reveal" and not me.survivors:
            raise errors.ServerMisbehaves.because(
                "asks to open a sum before this site has agreed to one"
            )
        me = participant.consent(me, state.survivors, state.dropped)
        self._check_count(me.survivors)
        self._opened.check(me.place, me.survivors)
        if task.kind == "reveal":
            post = participant.reveal_post(me, state.consents)
            self._opened.note(me.place, me.survivors)
            return post
        self._save(me)
        return participant.consent_post(me, self._signer())

    def mask(self, task: Task, state: SumState, plain: Plain) -> str:
        """Writes the masked update to `masked_path`, once; returns its digest.

        Raises:
          StaleUpdate: for another update or global model than the exchange began with, for too few
            sites, or if a masked update was sent and its file is no longer there as it was.
          ServerMisbehaves: as `participant.receive`.
        """
        me = participant.receive(self._entered(task), state.shares)
        if (me.update, me.context.model) != (plain.identity, plain.model_sha256):
            raise errors.StaleUpdate(
                "this exchange began with another update of this site, whose masks are used for no "
                "other; waiting for the next one"
            )
        self._check_count(me.received)
        self._save(me)  # the sites that are masked against each other, before any mask is used
        if me.masked and self._masked_digest() == me.masked:
            return me.masked
        sha256 = self._write(me, plain)
        if me.masked not in ("", sha256):
            raise errors.StaleUpdate(
                "the masked update cannot be made again as it was sent; waiting for the next "
                "exchange"
            )
        self._save(_with_masked(me, sha256))
        return sha256

    def _check_count(self, sites: Collection[str]) -> None:
        """Raises StaleUpdate if a sum would be of fewer sites than this site takes part in."""
        if len(sites) < self._min_sites:
            raise errors.StaleUpdate(
                f"the sum would be of {len(sites)} sites ({printable.text(', '.join(sites))}), and "
                f"this site takes part in sums of {self._min_sites} or more (--min_sum_sites); "
                "waiting for the next exchange"
            )

    def _entered(self, task: Task) -> Participant:
        place, me = SumPlace(task.discarded, task.round, task.exchange), self._me
        if me is None or me.place != place:
            raise errors.StaleUpdate(
                f"this site has not entered exchange {place.exchange} of round {place.round}; "
                "waiting for the next one"
            )
        return me

    def _masked_digest(self) -> str:
        try:
            with TensorFile(self.masked_path) as file:
                return file_digest(file)
        except (ValueError, FileNotFoundError):
            return ""

    def _write(self, me: Participant, plain: Plain) -> str:
        with TensorFile(plain.update) as file:
            if file_digest(file) != plain.sha256:
                raise errors.StaleUpdate(
                    "the file of this site's update was changed on its disk; it is trained again "
                    "for the next exchange"
                )
            specs = ring.masked_specs(sum(spec.size for spec in file.specs))
        rule, own = Ring.of(self._settings), participant.own_masks(me)
        what = f"update of round {me.place.round}"
        with (
            atomic.replacing(self.masked_path) as temporary,
            TensorFileWriter(temporary, specs, {"round": str(me.place.round)}) as writer,
        ):
            for first, values, model in _pieces(plain):
                words = rule.words(values, model, plain.num_examples, what=what)
                writer.write(masks.add(words, own, first).data.cast("B"))
            return writer.finish().sha256


def _pieces(plain: Plain) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yields (index of the first value, values of the update, values of the model) per chunk."""
    with TensorFile(plain.update) as update, TensorFile(plain.model) as whole:
        model: TensorFile | TensorSelection = selected(whole, plain.shared)
        runs, first = dtype_runs(update.specs), 0
        for start in range(0, update.nbytes, CHUNK_BYTES):
            stop = min(start + CHUNK_BYTES, update.nbytes)
            for dtype, begin, end in stretches(runs, start, stop):
                values, reference = (
                    np.frombuffer(source.read_range(begin, end - begin), dtype)
                    for source in (update, model)
                )
                yield first, values, reference
                first += values.size


class _Model(NamedTuple):
    """The global model from which a round was trained."""

    discarded: int
    round: int
    sha256: str


def _with_masked(me: Participant, sha256: str) -> Participant:
    return Participant(**{**vars(me), "masked": sha256})


def _read(path: pathlib.Path) -> dict[str, Any] | None:
    """Returns the content of `masking.json`; None if there is no such file.

    Raises ValueError if this class did not write it.
    """
    if not path.exists():
        return None
    found = formats.read_json(path, FORMAT, remedy=_REMEDY)
    if isinstance(found, dict):
        found.setdefault("required", False)  # not in the first files of this format
    keys = {"format", "run", "settings", "min_sites", "required", "last", "model", "participant"}
    try:
        if not isinstance(found, dict) or found.keys() != keys:
            raise ValueError("other keys")
        SumSettings(**found["settings"])
        if type(found["min_sites"]) is not int or found["min_sites"] < 2:
            raise ValueError("no number of sites")
        if not isinstance(found["required"], bool):
            raise ValueError("no term")
        last, model = found["last"], found["model"]
        if last is not None and _kinds(vars(SumPlace(**last)).values()) != [int, int, int]:
            raise ValueError("no exchange")
        if model is not None and _kinds(_Model(*model)) != [int, int, str]:
            raise ValueError("no model")
        if found["participant"] is not None:
            Participant.from_json(found["participant"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not what this program writes there; {_REMEDY}") from error
    return found


def _kinds(values: Iterable[object]) -> list[type]:
    return [type(value) for value in values]
