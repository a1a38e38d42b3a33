import dataclasses

import numpy as np
import pytest
from scipy import stats

from federated.secure_aggregation import masks, opening, participant
from federated.secure_aggregation.ring import Ring
from federated.secure_aggregation.roster import Roster
from federated.tensors.weights import little_endian_bytes, specs_of
from tests.federated.secure_aggregation import exchanges

LOST = [("", ""), *((phase, "C2") for phase in ("keys", "share", "mask", "consent", "reveal"))]


@pytest.mark.parametrize("lost", LOST, ids=lambda lost: lost[0] or "none")
@pytest.mark.parametrize("sites", [3, 5, 8])
def test_integers_add_up_exactly_whoever_drops_out_and_when(signers, sites, lost):
    names = list(signers)[: sites + (lost[0] == "keys" and sites == 3)]
    words = exchanges.random_words(names, 1001, seed=sites)
    found = exchanges.run(
        {name: signers[name] for name in names},
        words,
        lost=lost,
        about=exchanges.context(len(names), threshold=len(names) // 2 + 1),
    )
    in_sum = [name for name in names if name != "C2" or lost[0] in ("", "consent", "reveal")]
    assert list(found.survivors) == in_sum
    assert found.dropped == (("C2",) if lost[0] == "mask" else ())
    expected = [sum(int(words[name][place]) for name in in_sum) % 2**64 for place in range(1001)]
    np.testing.assert_array_equal(found.total, np.array(expected, np.uint64))


def chi_squared(data):
    counts = np.bincount(np.frombuffer(data, np.uint8), minlength=256)
    return ((counts - len(data) / 256) ** 2 / (len(data) / 256)).sum()


def test_what_the_server_receives_is_uniform_and_what_it_adds_up_is_not(signers):
    three = {site: signers[site] for site in ("C1", "C2", "C3")}
    # Updates that differ from a uniform distribution as much as they can.
    words = {site: np.full(50_000, number, np.uint64) for number, site in enumerate(three)}
    found = exchanges.run(three, words)
    limit = stats.chi2.isf(1e-9, 255)
    for site, update in found.sent.items():
        assert chi_squared(update.tobytes()) < limit, site
        for other in found.sent:  # nor is the difference of two of them
            if other != site:
                assert chi_squared((update - found.sent[other]).tobytes()) < limit
    two = found.sent["C1"] + found.sent["C2"]
    assert chi_squared(two.tobytes()) < limit
    assert chi_squared(found.total.tobytes()) > 1000 * limit
    assert chi_squared(words["C1"].tobytes()) > 1000 * limit


def test_a_late_upload_of_a_dropped_site_stays_masked(signers):
    three = {site: signers[site] for site in ("C1", "C2", "C3")}
    about = exchanges.context(3)
    ready = exchanges.received(exchanges.shared(three, about), tuple(three))
    plain = np.full(50_000, 7, np.uint64)
    late = masks.add(plain.copy(), participant.own_masks(ready["C2"]), 0)
    # The others reveal the masking key of C2, so the server can make all its pair masks.
    pair_masks = participant.own_masks(ready["C2"])[1:]
    stripped = masks.add(late, [mask.opposite() for mask in pair_masks], 0)
    assert chi_squared(stripped.tobytes()) < stats.chi2.isf(1e-9, 255)
    own = participant.own_masks(ready["C2"])[:1]
    np.testing.assert_array_equal(masks.add(stripped, [own[0].opposite()], 0), plain)


def revealed(signers):
    """Returns the parts with which the server opens a sum from which C2 dropped out."""
    three = {site: signers[site] for site in ("C1", "C2", "C3")}
    about = exchanges.context(3)
    sharing = exchanges.shared(three, about)
    ready = exchanges.received(sharing, tuple(three))
    agreed = {
        site: participant.consent(ready[site], ("C1", "C3"), ("C2",)) for site in ("C1", "C3")
    }
    signed = {s: participant.consent_post(me, three[s]).consent for s, me in agreed.items()}
    return about, {
        "roster": Roster({site: me.keys for site, me in sharing.items()}),
        "survivors": ("C1", "C3"),
        "dropped": ("C2",),
        "commitments": {s: participant.shares_post(me).commitment for s, me in sharing.items()},
        "revealed": {s: participant.reveal_post(me, signed) for s, me in agreed.items()},
    }


def test_shares_that_do_not_fit_are_found_before_the_sum_is_used(signers):
    about, parts = revealed(signers)
    found = opening.masks_of_sum(about, **parts)
    assert (len(found.masks), found.liars) == (4, ())
    posts = parts["revealed"]
    for field, site, message in (
        ("self_masks", "C3", "'C3' that C1, C3 revealed do not fit"),
        ("mask_keys", "C2", "'C2' that C1, C3 revealed do not fit"),
    ):
        share = getattr(posts["C1"], field)[site]
        wrong = share[:-1] + bytes([share[-1] ^ 1])
        bad = dataclasses.replace(
            posts["C1"], **{field: {**getattr(posts["C1"], field), site: wrong}}
        )
        with pytest.raises(opening.CannotOpen, match=message):
            opening.masks_of_sum(about, **{**parts, "revealed": {**posts, "C1": bad}})
    with pytest.raises(opening.CannotOpen, match="1 shares of site 'C1'; expected 2"):
        opening.masks_of_sum(about, **{**parts, "revealed": {"C1": posts["C1"]}})
    with pytest.raises(opening.CannotOpen, match=r"site 'C1' that .* do not fit"):
        opening.masks_of_sum(
            about, **{**parts, "commitments": {**parts["commitments"], "C1": bytes(32)}}
        )


@pytest.mark.parametrize("liars", [("C1",), ("C5",), ("C2", "C4"), ("C1", "C2")])
def test_right_shares_open_the_sum_beside_wrong_ones_and_tell_them_apart(signers, liars):
    five = {f"C{number}": signers[f"C{number}"] for number in range(1, 6)}
    about = exchanges.context(5)
    sharing = exchanges.shared(five, about)
    ready = exchanges.received(sharing, tuple(five))
    agreed = {site: participant.consent(me, tuple(five), ()) for site, me in ready.items()}
    signed = {s: participant.consent_post(me, five[s]).consent for s, me in agreed.items()}
    posts = {site: participant.reveal_post(me, signed) for site, me in agreed.items()}
    for liar in liars:
        wrong = {**posts[liar].self_masks, "C3": posts[liar].self_masks["C4"]}
        posts[liar] = dataclasses.replace(posts[liar], self_masks=wrong)
    parts = {
        "roster": Roster({site: me.keys for site, me in sharing.items()}),
        "survivors": tuple(five),
        "dropped": (),
        "commitments": {s: participant.shares_post(me).commitment for s, me in sharing.items()},
    }
    found = opening.masks_of_sum(about, **parts, revealed=posts)
    assert found.masks == [participant.own_masks(me)[0] for _, me in sorted(ready.items())]
    # A wrong share is found only where it was in the way.
    assert set(found.liars) <= set(liars) and (found.liars == liars or liars == ("C5",))
    few = {site: posts[site] for site in list(dict.fromkeys([*liars, *sorted(posts)]))[:3]}
    with pytest.raises(opening.CannotOpen, match=r"site 'C3'"):
        opening.masks_of_sum(about, **parts, revealed=few)


class Bytes:
    """A model, or a masked update, in memory."""

    def __init__(self, arrays=None, words=None):
        self.specs = () if arrays is None else specs_of(arrays)
        self._data = (
            words.tobytes()
            if arrays is None
            else b"".join(bytes(little_endian_bytes(arrays[spec.name])) for spec in self.specs)
        )

        self.largest = 0

    def read_range(self, start, size):
        self.largest = max(self.largest, size)
        return self._data[start : start + size]


def test_the_mean_is_read_in_any_pieces_in_the_models_own_dtypes():
    generator = np.random.default_rng(3)
    model = {
        "a": generator.normal(size=5),
        "b": generator.normal(size=(3, 2)).astype("f4"),
        "c": generator.normal(size=3).astype("f2"),
        "d": np.empty((0, 2), "f4"),
    }
    base, rule = Bytes(model), Ring(64.0, 3)
    order = [spec.name for spec in base.specs]
    examples = {"C1": 30, "C2": 10}
    updates = {
        site: {name: (array * 0.5 + n).astype(array.dtype) for name, array in model.items()}
        for site, n in (("C1", 1), ("C2", -2))
    }
    left = [masks.Mask(bytes([number]) * 32, number == 1) for number in range(3)]
    words = {
        site: np.concatenate(
            [
                rule.words(u[name].ravel(), model[name].ravel(), examples[site], what="u")
                for name in order
            ]
        )
        for site, u in updates.items()
    }
    masks.add(words["C1"], left, 0)
    mean = opening.OpenedMean([Bytes(words=w) for w in words.values()], left, base, rule, 40)
    whole = mean.read_range(0, 5 * 8 + 6 * 4 + 3 * 2)
    at = 0
    for name in order:
        array = model[name]
        expected = (
            30 * updates["C1"][name].astype("f8") + 10 * updates["C2"][name].astype("f8")
        ) / 40
        found = np.frombuffer(whole, array.dtype, array.size, at).reshape(array.shape)
        tolerance = {2: 1e-3, 4: 1e-6, 8: 1e-10}[array.dtype.itemsize]
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)
        at += array.nbytes
    assert mean.specs == base.specs and at == len(whole)
    masked = [Bytes(words=w) for w in words.values()]
    mean = opening.OpenedMean(masked, left, base, rule, 40)
    pieces = [mean.read_range(start, 8) for start in range(0, 64, 8)]
    assert b"".join(pieces) == whole[:64]
    # Of each update no more is read, and held, at a time than the piece needs: two float32 values.
    assert [each.largest for each in masked] == [2 * 8, 2 * 8]
