"""A site's part in one exchange, as a value that advances phase by phase.

Each function takes what the server sent, checks it against what the site did and received before,
and returns the next value. The caller writes that value to disk before anything derived from it
leaves the site, so a site that was killed sends the same bytes again.

Source: Bonawitz et al. 2017, Practical Secure Aggregation for Privacy-Preserving Machine Learning
(CCS), the protocol against active adversaries (its figure 4).
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from cryptography import x509

from federated import errors
from federated.secure_aggregation import keys, masks, shamir
from federated.secure_aggregation.keys import Context
from federated.secure_aggregation.masks import Mask
from federated.secure_aggregation.roster import Roster, Signer, verify_keys
from federated.wire.messages import SumKeys, SumPlace, SumPost, SumSettings
from runkit import printable

_refused = errors.ServerMisbehaves.because


@dataclasses.dataclass(frozen=True)
class Participant:
    """What a site knows in an exchange; the private parts never leave the site.

    Attributes:
      update: names the update that the masks are for. They are used for no other.
      sealing, masking: the site's private keys; self_secret: the secret of its own mask.
      keys: its public keys, as it sent them.
      roster: the keys of all sites, once it has checked them.
      shares: site -> the sealed shares that this site sent to it.
      received: site -> (share of its self mask's secret, share of its masking key), for every site
        that sent shares, this one included. Both are empty if they could not be opened.
      survivors: the sites whose sum it has signed for.
      masked: digest of its masked update.
    """

    context: Context
    update: str
    sealing: bytes = dataclasses.field(repr=False)
    masking: bytes = dataclasses.field(repr=False)
    self_secret: bytes = dataclasses.field(repr=False)
    keys: SumKeys
    roster: tuple[SumKeys, ...] = ()
    shares: Mapping[str, bytes] = dataclasses.field(default_factory=dict, repr=False)
    own_share: tuple[bytes, bytes] = dataclasses.field(default=(b"", b""), repr=False)
    received: Mapping[str, tuple[bytes, bytes]] = dataclasses.field(
        default_factory=dict, repr=False
    )
    survivors: tuple[str, ...] = ()
    masked: str = ""

    @property
    def site(self) -> str:
        return self.keys.site

    @property
    def place(self) -> SumPlace:
        return self.context.place

    @property
    def unreadable(self) -> tuple[str, ...]:
        """The sites whose shares could not be opened."""
        return tuple(site for site, pair in self.received.items() if pair == (b"", b""))

    def _roster(self) -> Roster:
        return Roster({each.site: each for each in self.roster})

    def post(self, phase: str, **parts: Any) -> SumPost:
        return SumPost(phase, self.place, **parts)

    def to_json(self) -> dict[str, Any]:
        """Returns the value in a form that JSON can represent; `from_json` is the inverse."""
        return _plain(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Participant:
        """Raises ValueError, KeyError or TypeError for anything that `to_json` cannot return."""
        about = found["context"]
        context = Context(
            about["run"],
            SumPlace(**about["place"]),
            about["model"],
            SumSettings(**about["settings"]),
        )
        unhex = bytes.fromhex
        return cls(
            context,
            found["update"],
            unhex(found["sealing"]),
            unhex(found["masking"]),
            unhex(found["self_secret"]),
            _keys_from_json(found["keys"]),
            tuple(map(_keys_from_json, found["roster"])),
            {site: unhex(data) for site, data in found["shares"].items()},
            _pair(found["own_share"]),
            {site: _pair(pair) for site, pair in found["received"].items()},
            tuple(found["survivors"]),
            found["masked"],
        )


def begin(signer: Signer, context: Context, update: str) -> Participant:
    """Returns a site's new secrets and signed public keys.

    Args:
      update: names the update to be masked, its weight included.
    """
    sealing, masking = keys.new_secret(), keys.new_secret()
    public = signer.keys(context, keys.public_key(sealing), keys.public_key(masking))
    return Participant(context, update, sealing, masking, keys.new_secret(), public)


def share(
    me: Participant,
    roster: Sequence[SumKeys],
    authority: x509.Certificate,
    now: datetime.datetime,
) -> Participant:
    """Checks the keys of all sites and seals a share of each secret for every other site.

    Raises:
      ServerMisbehaves: if there are fewer than three sites, if the keys under this site's name are
        not those that it sent, if keys occur twice or were not signed by their site for this
        exchange, or if the keys differ from those that the server gave before.
    """
    found = {each.site: each for each in roster}
    if me.roster:
        if found != {each.site: each for each in me.roster} or len(roster) != len(me.roster):
            raise _refused("gives another list of sites and keys than before in one exchange")
        return me
    if found.get(me.site) != me.keys:
        raise _refused("does not give this site's own keys back as they were sent")
    try:
        checked = Roster.of(roster, me.context)
        for each in checked.keys.values():
            verify_keys(each, me.context, authority, now)
        sealed, own = _sealed_shares(me, checked)
    except ValueError as error:
        raise _refused(f"gives a list of sites for secure aggregation with {error}") from error
    return dataclasses.replace(
        me, roster=tuple(checked.keys.values()), shares=sealed, own_share=own
    )


def _sealed_shares(me: Participant, roster: Roster) -> tuple[dict[str, bytes], tuple[bytes, bytes]]:
    """Returns (site -> sealed shares, this site's own shares)."""
    count, threshold = len(roster.sites), me.context.settings.threshold
    of_mask, of_key = (
        shamir.split(secret, count=count, threshold=threshold)
        for secret in (me.self_secret, me.masking)
    )
    sealed, own = {}, (b"", b"")
    for site, theirs in roster.keys.items():
        pair = (of_mask[roster.place(site)], of_key[roster.place(site)])
        if site == me.site:
            own = pair
            continue
        key = keys.agreed(me.sealing, theirs.sealing_key, me.context, "share", me.site, site)
        sealed[site] = keys.seal(key, *pair)
    return sealed, own


def shares_post(me: Participant) -> SumPost:
    """Returns what the site sends after `share`."""
    fixed = keys.commitment(me.self_secret, me.context, me.site)
    return me.post("share", commitment=fixed, shares=me.shares)


def receive(me: Participant, sealed: Mapping[str, bytes]) -> Participant:
    """Opens the shares of the other sites, with which this site then has masks in common.

    Shares that cannot be opened are treated as missing: whether the server or the site that sealed
    them is at fault cannot be determined here, and a threshold of other sites may have theirs.

    Raises:
      ServerMisbehaves: if the shares come from too few sites, from unknown ones, or from other
        sites than before.
    """
    roster, settings = me._roster(), me.context.settings
    if me.received:
        if sealed.keys() != me.received.keys() - {me.site}:
            raise _refused("gives shares of other sites than before in one exchange")
        return me
    if not me.roster or not sealed.keys() <= roster.keys.keys() - {me.site}:
        raise _refused("gives shares of sites that are not on its list")
    if len(sealed) + 1 < settings.threshold:
        raise _refused(
            f"gives shares of {len(sealed)} other sites; a sum has {settings.threshold} at least"
        )
    received = {me.site: me.own_share}
    for site, data in sealed.items():
        key = keys.agreed(
            me.sealing, roster.keys[site].sealing_key, me.context, "share", site, me.site
        )
        try:
            received[site] = keys.unseal(key, data)
        except ValueError:
            received[site] = (b"", b"")
    return dataclasses.replace(me, received=dict(sorted(received.items())))


def own_masks(me: Participant) -> list[Mask]:
    """Returns the masks that the site adds: its own, and one per other site that sent shares."""
    roster = me._roster()
    found = [Mask(keys.self_seed(me.self_secret, me.context, me.site))]
    for site in me.received.keys() - {me.site}:
        theirs = roster.keys[site].masking_key
        seed = keys.pair_seed(me.masking, theirs, me.context, me.site, site)
        found.append(masks.pair_mask(me.site, site, seed))
    return found


def consent(me: Participant, survivors: Collection[str], dropped: Collection[str]) -> Participant:
    """Records the sites whose sum this site will help to open. It does so for one sum only.

    Raises:
      ServerMisbehaves: if sites are both in the sum and dropped, if sites did not send shares or
        are missing, if there are too few sites or this site is not among them, or if this is
        another sum than before.
    """
    settings, listed = me.context.settings, [*survivors, *dropped]
    if set(survivors) & set(dropped):
        both = _named(set(survivors) & set(dropped))
        raise _refused(
            f"asks for the self mask and for the masking key of {both}, which together open a "
            "single update"
        )
    if len(listed) != len(set(listed)) or set(listed) != set(me.received):
        raise _refused(
            f"asks to open a sum of {_named(survivors)} without {_named(dropped)}; those that "
            f"masked their updates are {_named(me.received)}"
        )
    if me.site not in survivors or len(survivors) < settings.threshold:
        raise _refused(
            f"asks to open a sum of {_named(survivors)}; expected {settings.threshold} sites or "
            "more, this one among them"
        )
    if me.survivors and set(me.survivors) != set(survivors):
        raise _refused(
            f"asks to open the sum of {_named(survivors)} after that of {_named(me.survivors)}: "
            "their difference would open the updates of single sites"
        )
    return dataclasses.replace(me, survivors=tuple(sorted(survivors)))


def consent_post(me: Participant, signer: Signer) -> SumPost:
    """Returns what the site sends after `consent`."""
    return me.post("consent", consent=signer.consent(me.context, me._roster(), me.survivors))


def reveal_post(me: Participant, consents: Mapping[str, bytes]) -> SumPost:
    """Returns the shares that open the sum for which this site has signed.

    These are the self-mask share of each site in the sum, and the masking-key share of each site
    that dropped out: never both of one site, and neither if its shares could not be opened.

    Raises:
      ServerMisbehaves: unless a threshold of sites signed for the same sum.
    """
    roster, settings = me._roster(), me.context.settings
    known = {site: data for site, data in consents.items() if site in me.survivors}
    for site, signature in known.items():
        try:
            roster.verify_consent(site, signature, me.context, me.survivors)
        except ValueError as error:
            raise _refused(f"gives a consent that does not hold: {error}") from error
    if not me.survivors or len(known) < settings.threshold or len(known) != len(consents):
        raise _refused(
            f"asks to open a sum to which {len(known)} of its sites agreed; "
            f"expected {settings.threshold} or more"
        )
    held = {site: pair for site, pair in me.received.items() if site not in me.unreadable}
    return me.post(
        "reveal",
        self_masks={site: held[site][0] for site in me.survivors if site in held},
        mask_keys={site: pair[1] for site, pair in held.items() if site not in me.survivors},
    )


def _named(sites: Collection[str]) -> str:
    return printable.text(", ".join(sorted(sites))) or "none"


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def _keys_from_json(found: Mapping[str, str]) -> SumKeys:
    parts = {name: bytes.fromhex(value) for name, value in found.items() if name != "site"}
    return SumKeys(site=found["site"], **parts)


def _pair(found: Sequence[str]) -> tuple[bytes, bytes]:
    first, second = map(bytes.fromhex, found)
    return first, second
