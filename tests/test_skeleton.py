"""Pictures to lines: what is read off a rendered bridge is what was drawn."""

import numpy as np
import pytest

from bridge_ebm import bridges, ink, raster, skeleton
from bridge_ebm.errors import InputError
from bridge_ebm.raster import Ink, Member
from bridge_ebm.recognise import recognise
from bridge_ebm.rejoin import rejoined

SIZES = ((48, 192), (128, 512))


def read(picture):
    """Deck, uprights and members of a picture."""
    drawn = ink.find_ink(*ink.canvas(picture))
    deck = ink.find_deck(drawn.mask)
    assert deck is not None
    uprights = ink.find_uprights(drawn.mask, deck)
    strokes = skeleton.find_strokes(drawn.mask, ink.find_skeleton(drawn.mask), deck, uprights)
    assert strokes is not None
    return deck, uprights, recognise(rejoined(strokes, drawn.mask), uprights, drawn, deck)


def kinds(members):
    return [m.kind for m in members]


@pytest.mark.parametrize("height, width", SIZES)
@pytest.mark.parametrize("subtype", bridges.SUBTYPES)
def test_deck_and_piers_lie_where_they_were_drawn(subtype, height, width):
    deck, uprights, _ = read(bridges.render(subtype, 8, height, width))
    assert deck.row + deck.slope * 255.5 == pytest.approx(63.5, abs=0.7)
    assert (deck.left, deck.right) == (pytest.approx(18, abs=3), pytest.approx(493, abs=3))
    assert deck.gap == 0 and deck.cover == 1
    if subtype != "v_pier_frame":
        pier = bridges.PAPER[subtype].pier * raster.PIXELS_PER_METRE
        found = sorted(bar.x for bar in uprights if not bar.tower)
        np.testing.assert_allclose(found, [255.5 - pier, 255.5 + pier], atol=2.0)


@pytest.mark.parametrize("height, width", SIZES)
def test_members_are_counted_and_named(height, width):
    expected = {
        "beam": {"pier": 2},
        "v_pier_frame": {"leg": 4},
        "through_arch": {"pier": 2, "arch": 3},
        "fan_cable_stayed": {"pier": 2, "tower": 2, "stay": 16},
        "harp_cable_stayed": {"pier": 2, "tower": 2, "stay": 16},
        "vertical_suspension": {"pier": 2, "tower": 2, "cable": 3},
    }
    for subtype, counts in expected.items():
        found = kinds(read(bridges.render(subtype, 5, height, width))[2])
        assert {kind: found.count(kind) for kind in counts} == counts, subtype


def test_confidence_is_a_share_and_thick_towers_are_surer():
    def towers(width_index):
        members = read(bridges.render("vertical_suspension", width_index, 128, 512))[2]
        assert all(0.5 <= m.confidence <= 1 for m in members)
        return [m.confidence for m in members if m.kind == "tower"]

    assert min(towers(15)) > max(towers(0))


def test_an_arch_bows_up_and_a_cable_sags():
    def bows(subtype, kind):
        return [m.bow * ink.METRES for m in read(bridges.render(subtype, 5, 128, 512))[2] if m.kind == kind]

    # A little less than drawn: the first pixels at deck and tower are theirs.
    assert 0.8 < max(bows("through_arch", "arch")) / bridges.PAPER["through_arch"].rise < 1.0
    sag = bridges.PAPER["vertical_suspension"]
    assert 0.8 < -min(bows("vertical_suspension", "cable")) / (sag.peak - sag.low) < 1.0


def test_a_straight_line_crossing_others_stays_one_stroke():
    members = [
        Member("deck", (-150.0, 0.0), (150.0, 0.0)),
        Member("line", (-80.0, 5.0), (60.0, 35.0)),
        *(Member("line", (x, 35.0), (x, 0.0)) for x in (-30.0, 0.0, 30.0)),
    ]
    picture = raster.draw(members, {"deck": Ink(2.0), "line": Ink(1.2)})
    drawn = ink.find_ink(*ink.canvas(picture))
    deck = ink.find_deck(drawn.mask)
    assert deck is not None
    strokes = skeleton.find_strokes(drawn.mask, ink.find_skeleton(drawn.mask), deck, [])
    assert strokes is not None
    lengths = [np.hypot(*(s.points[-1] - s.points[0])) * ink.METRES for s in strokes]
    assert max(lengths) == pytest.approx(np.hypot(140, 30), rel=0.03)


def test_uint8_and_both_float_ranges_give_the_same_canvas():
    picture = bridges.render("deck_arch", 3, 48, 192)
    unit = picture.astype(np.float32) / 255
    reference, enlarged = ink.canvas(picture)
    assert enlarged and reference.shape == (128, 512)
    for same in (unit, unit * 2 - 1, (unit * 2 - 1)[..., None]):
        np.testing.assert_allclose(ink.canvas(same)[0], reference, atol=2e-6)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((3, 48, 192), np.uint8),
        np.zeros((48, 192, 3), np.uint8),
        np.zeros((4, 4), np.uint8),
        np.zeros((48, 192), np.int64),
        np.full((48, 192), np.nan),
        np.full((48, 192), 200.0),
        np.zeros((0, 0), np.uint8),
    ],
)
def test_bad_pictures_are_refused_in_one_line(bad):
    with pytest.raises(InputError) as refusal:
        ink.canvas(bad)
    assert "\n" not in str(refusal.value)


def test_a_picture_full_of_ink_is_refused_before_the_graph():
    flooded = bridges.render("beam", 5, 128, 512)
    flooded[:, :320] = 255
    drawn = ink.find_ink(*ink.canvas(flooded))
    assert "ink" in (ink.trouble(drawn, ink.find_skeleton(drawn.mask)) or "")
    clean = ink.find_ink(*ink.canvas(bridges.render("fan_cable_stayed", 15, 128, 512)))
    assert ink.trouble(clean, ink.find_skeleton(clean.mask)) is None
