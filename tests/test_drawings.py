"""Bridges as people draw them: trusses, leaning towers, posts and struts; sound ones stand, spoilt ones do not."""

import numpy as np
import pytest
from drawings import DECK, bar, fan, picture, piers, suspended, truss
from scipy import ndimage

from bridge_ebm import ink, structure
from bridge_ebm.leaning import find_leaning
from bridge_ebm.raster import Member
from bridge_ebm.skeleton import _depth

SIZES = ((48, 192), (128, 512))
both_sizes = pytest.mark.parametrize("size", SIZES)


def judged(members, size):
    return structure.analyse(picture([DECK, *members], size))


def kinds(found):
    return {m.kind for m in found.members}


@both_sizes
@pytest.mark.parametrize("web, panels", [("warren", 28), ("pratt", 28), ("howe", 24), ("crossed", 20)])
@pytest.mark.parametrize("level", [11.5, -11.5])
def test_trusses_stand_over_and_under_the_deck(web, panels, level, size):
    found = judged([*truss(web, panels, level), *piers(-75, 75, top=min(level, 0))], size)
    assert found.verdict == "A", found.reasons
    assert {"chord", "brace"} <= kinds(found)
    for kind in ("chord", "brace"):  # over its piers a truss hogs, between them it sags
        force = [f.axial for f in found.forces if f.kind == kind]
        assert min(force) < -1e5 and max(force) > 1e5


def test_a_truss_takes_the_bending_off_a_long_span():
    found = judged([*truss("pratt", 10, 16, -83, 83), *piers(-83, 83)], SIZES[1])
    assert found.verdict == "A" and found.relief > 0.5
    broken = judged([*truss("pratt", 10, 16, -83, -15), *truss("pratt", 10, 16, 15, 83), *piers(-83, 83)], SIZES[1])
    assert broken.verdict != "A" and broken.relief < found.relief


@both_sizes
def test_a_missing_diagonal_is_named(size):
    found = judged([*truss("warren", 20, 15, without=(8,)), *piers(-75, 75)], size)
    assert found.verdict == "B" and any("lacks a diagonal" in r and "30 m" in r for r in found.reasons), found.reasons


@both_sizes
def test_a_truss_that_touches_nothing_holds_nothing(size):
    adrift = [
        m._replace(start=(m.start[0], m.start[1] + 6), end=(m.end[0], m.end[1] + 6)) for m in truss("warren", 28, 12)
    ]
    found = judged([*adrift, *piers(-75, 75)], size)
    assert found.verdict != "A"


@both_sizes
def test_towers_of_two_leaning_legs_stand(size):
    legs = [bar("thick", x, 33, x + s * 6, -30) for x in (-83, 83) for s in (-1, 1)]
    found = judged([*legs, *fan(-83), *fan(83)], size)
    assert found.verdict == "A", found.reasons
    assert [m.kind for m in found.members].count("tower") == 4
    assert found.relief > 0.5
    hung = [bar("thick", x, 33, x + s * 5.4, 6) for x in (-83, 83) for s in (-1, 1)]
    assert judged([*hung, *fan(-83), *fan(83), *piers(-50, 50)], size).verdict != "A"


def test_a_leaning_leg_is_measured_as_drawn():
    drawn = ink.find_ink(*ink.canvas(picture([DECK, bar("thick", -60, 33, -42, -30)], SIZES[1])))
    deck = ink.find_deck(drawn.mask)
    assert deck is not None
    pier, tower = find_leaning(drawn.mask, deck)
    assert pier.slope == tower.slope == pytest.approx(18 / 63, abs=0.02)
    assert tower.top == pytest.approx(63.5 - 33 / ink.METRES, abs=2.5) and tower.bottom == pytest.approx(63.5, abs=1)
    assert tower.at(63.5) == pytest.approx(255.5 - (60 - 18 * 33 / 63) / ink.METRES, abs=1.5)
    upright = ink.find_ink(*ink.canvas(picture([DECK, bar("thick", -60, 33, -60, -30)], SIZES[1])))
    assert find_leaning(upright.mask, deck) == []


@both_sizes
def test_a_tower_that_carries_nothing_is_idle(size):
    lone = [*piers(-70, 70), *(bar("thick", x, 34, x, 0) for x in (-70, 70))]
    found = judged(lone, size)
    assert found.verdict == "B" and sum("carries nothing" in r for r in found.reasons) == 2
    assert judged([*lone, *fan(-70), *fan(70)], size).verdict == "A"


@both_sizes
def test_towers_need_something_under_them(size):
    towers = [bar("thick", x, 32, x, 0) for x in (-83, 83)]
    assert judged([*suspended(), *towers, *piers(-83, 83)], size).verdict == "A"
    found = judged([*suspended(), *towers, *piers(-52, 52)], size)
    assert found.verdict == "B" and any("nothing under it" in r for r in found.reasons), found.reasons


@both_sizes
def test_posts_struts_and_forked_piers_stand(size):
    forked = [
        line
        for x in (-80, 80)
        for line in (bar("thick", x, -15, x, -30), *(bar("thick", x, -15, x + s * 15, 0) for s in (-1, 1)))
    ]
    queen = [bar("bar", -75, 0, -25, -18), bar("bar", -25, -18, 25, -18), bar("bar", 25, -18, 75, 0)]
    queen += [bar("bar", x, 0, x, -18) for x in (-25, 25)] + piers(-75, 75)
    raking = [bar("thick", s * 73, -30, s * 48, 0) for s in (-1, 1)]
    for drawn in (forked, queen, raking):
        found = judged(drawn, size)
        assert found.verdict == "A" and found.relief > -1, found.reasons


@both_sizes
def test_a_row_of_arches_from_bank_to_bank_stands(size):
    x = np.linspace(-150, 150, 6)
    arches = [Member("bar", (a, -14.0), (b, -14.0), 12.7) for a, b in zip(x, x[1:], strict=False)]
    found = judged([*arches, *piers(*x[1:-1])], size)
    assert found.verdict == "A", found.reasons
    assert len(found.supports) == 8 and found.dangling == 0  # two of them the banks, below the ends of the deck


def test_of_two_equally_long_lines_the_thicker_is_the_deck():
    drawn = picture([DECK, bar("bar", -150, 12, 150, 12)], SIZES[1])
    deck = ink.find_deck(ink.find_ink(*ink.canvas(drawn)).mask)
    assert deck is not None and deck.at(255.5) == pytest.approx(63.5, abs=0.7) and deck.cover == 1


def test_the_fast_filters_are_the_slow_ones():
    rng = np.random.default_rng(0)
    mask = ndimage.gaussian_filter(rng.normal(size=(128, 512)), 2) > 0.05
    np.testing.assert_array_equal(ink.grown(mask), ndimage.maximum_filter(mask, 3))
    lines = ink.find_skeleton(mask)
    np.testing.assert_allclose(_depth(mask, lines)[lines], ndimage.distance_transform_edt(mask)[lines])
