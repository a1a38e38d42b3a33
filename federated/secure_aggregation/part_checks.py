"""The server's checks of what a site sends in a phase.

A site with unusable keys or shares is refused here; otherwise every other site would have to refuse
them.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Collection, Mapping

from cryptography import x509

from federated import errors
from federated.secure_aggregation.keys import KEY_BYTES, SEALED_BYTES, Context
from federated.secure_aggregation.roster import (
    MAX_SIGNATURE,
    NotSigned,
    Roster,
    check_apart,
    verify_keys,
)
from federated.secure_aggregation.shamir import SHARE_BYTES
from federated.wire.messages import SumKeys, SumPost


@dataclasses.dataclass(frozen=True)
class Standing:
    """The progress of an exchange.

    Attributes:
      done: sites that have done their part in the phase.
      members: sites whose keys count, once they are fixed.
      survivors, dropped: as in `SumState`, once they are fixed.
    """

    done: frozenset[str]
    members: frozenset[str] = frozenset()
    survivors: frozenset[str] = frozenset()
    dropped: frozenset[str] = frozenset()


def check_part(
    site: str,
    post: SumPost,
    state: Standing,
    context: Context,
    known: Mapping[str, SumKeys],
    authority: x509.Certificate,
    now: datetime.datetime,
) -> None:
    """Checks that a part has what its phase needs, in the right sizes, and nothing else.

    Args:
      site: the sender.
      post: the part, which belongs to the open phase.
      known: site -> its keys, for all sites that have sent keys in this exchange.
      now: the time at which certificates must be valid.
    Raises:
      UpdateRefused: if other sites could not use the part.
      StaleUpdate: if the exchange already has the keys of all the sites that it can take.
    """
    fits = False
    if post.phase == "keys" and post.keys is not None and post.keys.site == site:
        _check_keys(site, post.keys, state, context, known, authority, now)
        fits = True
    elif post.phase == "share":
        others = state.members - {site}
        fits = len(post.commitment) == KEY_BYTES and _are(post.shares, others, SEALED_BYTES)
    elif post.phase == "consent":
        fits = _is_consent(site, post.consent, state, context, known)
    elif post.phase == "reveal":
        # A site that could not open what another site sealed for it has no share of that site.
        in_sum = state.survivors & post.self_masks.keys()
        out = state.dropped & post.mask_keys.keys()
        fits = _are(post.self_masks, in_sum, SHARE_BYTES)
        fits = fits and _are(post.mask_keys, out, SHARE_BYTES)
    if not fits or post != _of_its_phase(post):
        raise errors.UpdateRefused(
            f"what site {site!r} sends in the phase {post.phase!r} of secure aggregation is "
            "not what that phase needs; install the same release at both ends"
        )


def _of_its_phase(post: SumPost) -> SumPost:
    """Returns `post` without anything that belongs to another phase."""
    names = {
        "keys": ("keys",),
        "share": ("commitment", "shares"),
        "consent": ("consent",),
        "reveal": ("self_masks", "mask_keys"),
    }[post.phase]
    return SumPost(post.phase, post.place, **{name: getattr(post, name) for name in names})


def _check_keys(
    site: str,
    keys: SumKeys,
    state: Standing,
    context: Context,
    known: Mapping[str, SumKeys],
    authority: x509.Certificate,
    now: datetime.datetime,
) -> None:
    try:
        verify_keys(keys, context, authority, now)
    except NotSigned as error:
        raise errors.UpdateRefused(f"{error}; use the kit of one site, whole") from error
    most = context.settings.max_sites
    if site not in state.done and len(state.done) >= most:
        raise errors.StaleUpdate(
            f"exchange {context.place.exchange} has the keys of its {most} sites, site {site!r} is "
            "not among them; ask for the next task"
        )
    try:
        check_apart([*(other for by, other in known.items() if by != site), keys])
    except ValueError as error:
        raise errors.UpdateRefused(
            f"the keys of site {site!r} are also those of another site: {error}; each site needs a "
            "kit of its own"
        ) from error


def _is_consent(
    site: str, signature: bytes, state: Standing, context: Context, known: Mapping[str, SumKeys]
) -> bool:
    if len(signature) > MAX_SIGNATURE:
        return False
    roster = Roster({name: known[name] for name in sorted(state.members)})
    try:
        roster.verify_consent(site, signature, context, state.survivors)
    except NotSigned:
        return False
    return True


def _are(shares: Mapping[str, bytes], sites: Collection[str], size: int) -> bool:
    """Returns whether there is a share of that size for each of these sites and for no other."""
    return shares.keys() == set(sites) and all(len(share) == size for share in shares.values())
