"""Whole exchanges of pure values, for the tests: sites that follow the protocol, and drop out."""

from __future__ import annotations

import dataclasses
import datetime

import numpy as np

from federated.secure_aggregation import masks, opening, participant
from federated.secure_aggregation.keys import Context
from federated.secure_aggregation.ring import FRACTION_BITS, WORD
from federated.secure_aggregation.roster import Roster
from federated.wire.messages import SumPlace, SumSettings

NOW = datetime.datetime.now(datetime.timezone.utc)
MODEL = "ab" * 32


def context(sites, *, exchange=1, model=MODEL, threshold=None):
    settings = SumSettings(threshold or sites // 2 + 1, sites, 64.0, FRACTION_BITS)
    return Context("run", SumPlace(0, 1, exchange), model, settings)


@dataclasses.dataclass
class Exchange:
    """What the server holds after an exchange."""

    sites: dict  # name -> Participant, of those that lived to the end of the last phase
    sent: dict  # name -> masked update
    survivors: tuple
    dropped: tuple
    total: np.ndarray | None = None


_shared = {}


def shared_once(signers, about):
    """As `shared`, but computed only once, because signatures take long."""
    key = tuple(signers), about.digest
    if key not in _shared:
        _shared[key] = shared(signers, about)
    return _shared[key]


def shared(signers, about):
    """Returns the participants after the keys, of every signer."""
    begun = {site: participant.begin(signer, about, "update") for site, signer in signers.items()}
    keys = [me.keys for me in begun.values()]
    return {
        site: participant.share(me, keys, signers[site].authority, NOW)
        for site, me in begun.items()
    }


def received(sharing, sharers):
    """Returns the participants that shared, with the shares of all others that shared."""
    return {
        site: participant.receive(
            sharing[site], {by: sharing[by].shares[site] for by in sharers if by != site}
        )
        for site in sharers
    }


def run(signers, words, *, lost=("", ""), about=None):
    """Returns an exchange in which site lost[1] is gone from phase lost[0] on.

    Args:
      words: site -> what it adds, uint64 [n].
    """
    phase, gone = lost
    about = about or context(len(signers))
    if phase == "keys":
        signers = {site: signer for site, signer in signers.items() if site != gone}
    sharing = shared_once(signers, about)
    sharers = sorted(set(sharing) - ({gone} if phase == "share" else set()))
    ready = received(sharing, sharers)
    sent = {
        site: masks.add(words[site].copy(), participant.own_masks(me), 0)
        for site, me in ready.items()
        if not (phase == "mask" and site == gone)
    }
    survivors, dropped = tuple(sorted(sent)), tuple(sorted(ready.keys() - sent.keys()))
    alive = [site for site in survivors if not (phase == "consent" and site == gone)]
    agreed = {site: participant.consent(ready[site], survivors, dropped) for site in alive}
    consents = {
        site: participant.consent_post(me, signers[site]).consent for site, me in agreed.items()
    }
    revealed = {
        site: participant.reveal_post(me, consents)
        for site, me in agreed.items()
        if not (phase == "reveal" and site == gone)
    }
    left = opening.masks_of_sum(
        about,
        Roster({site: sharing[site].keys for site in sorted(sharing)}),
        survivors=survivors,
        dropped=dropped,
        commitments={site: participant.shares_post(sharing[site]).commitment for site in sharers},
        revealed=revealed,
    )
    total = np.zeros_like(next(iter(words.values())))
    for update in sent.values():
        total += update
    masks.add(total, [mask.opposite() for mask in left.masks], 0)
    return Exchange(agreed, sent, survivors, dropped, total)


def random_words(sites, count, seed=0):
    generator = np.random.default_rng(seed)
    return {
        site: generator.integers(0, 2**64, count, dtype=np.uint64).astype(WORD) for site in sites
    }
