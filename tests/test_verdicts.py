"""What structure.py makes of a solved bridge: figures, verdict and reasons, at and beside every limit."""

import math

import numpy as np
import pytest
from test_structure import lines, picture

from bridge_ebm import bridges, measures, structure
from bridge_ebm.ink import METRES, Deck
from bridge_ebm.measures import Case, Support
from bridge_ebm.modelling import Model
from bridge_ebm.raster import Member as Drawn
from bridge_ebm.recognise import Member
from bridge_ebm.structure import Analysis

MIDDLE = 255.5
STANDING = Analysis(
    verdict="A",
    reasons=(),
    gain=2.0,
    supports=tuple(Support("ground", x, 90.0, (x - MIDDLE) * METRES) for x in (100.0, 400.0)),
    spacing=(120.0, 160.0, 120.0),
    load_bearing_share=1.0,
)


def at_metres(x):
    """The canvas column that lies x metres to the right of the middle."""
    return MIDDLE + x / METRES


def member(kind, ends=("deck", "deck"), start=(0.0, 40.0), end=(100.0, 40.0), **more):
    """A straight member between two points, in pixels."""
    points = np.linspace(start, end, 11)
    given = {"confidence": 1.0, "thickness": 2.0, "bow": 0.0, "gaps": 0, **more}
    return Member(kind=kind, points=points, ends=ends, at=points[[0, -1]], **given)


def made(members=(), deck=None, owner=(-1,), live=None, moment=None, mechanism=(), nodes=((0.0, 0.0),)):
    """A case with just what is judged; `owner` says whose each element is."""
    deck = deck or Deck(row=63.5, slope=0.0, left=18.0, right=493.0, half=2.0, gap=0, cover=1.0)
    owner = np.array(owner)
    live = np.ones(len(owner), bool) if live is None else np.array(live)
    model = Model(np.array(nodes), None, owner, live, None, ())
    moment = np.zeros((live.sum(), 2)) if moment is None else np.array(moment)
    solution = structure.modelling.Solution(None, None, moment, None, None, None, mechanism, True)
    return Case(None, deck, list(members), model, solution, None)


@pytest.fixture
def relieved(monkeypatch):
    """Sets what the arches and cables take off the deck: (share, metres of the span, column where it starts)."""

    def say(*worst):
        monkeypatch.setattr(structure, "least_relief", lambda case: worst)

    say(1.0, 0.0, 0.0)
    return say


def case_of(drawn):
    """The solved case of a picture."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(structure, "_judged", lambda case: case)
        return structure.analyse(drawn)


def test_places_are_said_from_the_middle():
    assert structure.place(at_metres(-40.2)) == "40 m left of mid-span"
    assert structure.place(at_metres(1.01)) == "1 m right of mid-span"
    assert structure.place(at_metres(0.99)) == structure.place(at_metres(-0.99)) == "mid-span"


@pytest.mark.parametrize(
    ("changes", "reasons"),
    [
        ({"gap": 6, "cover": 0.97}, []),
        ({"gap": 7}, ["the deck is broken: 4 m are missing in one place"]),
        ({"cover": 0.96}, ["the deck is broken: 4% of it are missing"]),
        ({"left": 51.0, "right": 460.0}, []),
        ({"left": 52.0}, ["the deck stops in the air on the left, 33 m from the edge"]),
        ({"right": 458.0}, ["the deck stops in the air on the right, 33 m from the edge"]),
    ],
)
def test_a_deck_may_miss_little_and_end_on_the_banks(relieved, changes, reasons):
    deck = made().deck._replace(**changes)
    assert structure._fatal(made(deck=deck), STANDING) == reasons


def test_what_stands_needs_ground_under_it_and_supports_close_enough(relieved):
    assert structure._fatal(made(), STANDING._replace(spacing=(120.0, 200.0))) == []
    assert structure._fatal(made(), STANDING._replace(spacing=(120.0, 230.0))) == [
        "230 m between two supports (at most 200)"
    ]
    assert structure._fatal(made(), STANDING._replace(spacing=())) == []
    banks = tuple(support._replace(kind="abutment") for support in STANDING.supports)
    alone = STANDING._replace(supports=banks, spacing=(230.0,))
    assert structure._fatal(made(), alone) == ["nothing stands on the ground"]
    one = STANDING._replace(supports=(banks[0], STANDING.supports[1]))
    assert structure._fatal(made(), one) == []


def test_a_mechanism_is_placed_and_a_broken_deck_is_said_before_it(relieved):
    nodes = [(0.0, 0.0), (at_metres(20.0), 60.0), (at_metres(40.0), 70.0)]
    case = made(mechanism=(1, 2), nodes=nodes)
    weak = STANDING._replace(gain=0.0)
    assert structure._fatal(case, weak) == ["a mechanism: 2 joints move freely about 30 m right of mid-span"]
    one = made(mechanism=(1,), nodes=nodes)
    assert structure._fatal(one, weak) == ["a mechanism: 1 joint moves freely about 20 m right of mid-span"]
    assert structure._fatal(case, weak._replace(spacing=(230.0,))) == ["230 m between two supports (at most 200)"]


def test_limits_of_relief_gain_and_share(relieved):
    relieved(0.25, 188.0, at_metres(-94.0))
    at_limit = STANDING._replace(gain=1.5, load_bearing_share=0.6)
    assert structure._fatal(made(), at_limit) == []
    relieved(0.2, 188.0, at_metres(-94.0))
    assert structure._fatal(made(), STANDING._replace(gain=1.4, load_bearing_share=0.59)) == [
        "the deck spans 188 m from 94 m left of mid-span and what is drawn there takes only 20% of its bending",
        "too soft: the supports stiffen the bare deck by 1.4 decades, 1.5 are needed",
        "only 59% of what is drawn carries load",
    ]
    relieved(-0.3, 188.0, MIDDLE)
    assert structure._fatal(made(), STANDING) == [
        "the deck spans 188 m from mid-span and what is drawn there takes only 0% of its bending"
    ]


def repairs(case, of=STANDING, loose=(), idle=None, size=None):
    count = len(case.model.owner)
    idle = np.zeros(count, bool) if idle is None else np.array(idle)
    return structure._repairs(case, of, list(loose), idle, np.ones(count) if size is None else np.array(size))


def test_pieces_and_gaps_are_counted():
    assert repairs(made()) == []
    assert repairs(made(), STANDING._replace(floating=1, gaps=1)) == [
        "1 piece joined to nothing, to be removed",
        "1 gap in the members, to be closed",
    ]
    assert repairs(made(), STANDING._replace(floating=2, gaps=2)) == [
        "2 pieces joined to nothing, to be removed",
        "2 gaps in the members, to be closed",
    ]


def test_three_loose_ends_are_placed_and_the_others_counted():
    left, right = (at_metres(-20.0), 30.0), (at_metres(50.0), 60.0)
    hangers = [member("hanger", ("free", "deck"), left, right), member("stay", ("deck", "free"), left, right)] * 3
    said = ["a hanger ends in the air, 20 m left of mid-span", "a stay ends in the air, 50 m right of mid-span"]
    assert repairs(made(hangers), loose=[0]) == said[:1]
    assert repairs(made(hangers), loose=[0, 1, 2]) == [*said, said[0]]
    assert repairs(made(hangers), loose=[0, 1, 2, 3]) == [*said, said[0], "1 more members end in the air"]
    assert repairs(made(hangers), loose=[0, 1, 2, 3, 5])[-1] == "2 more members end in the air"


@pytest.mark.parametrize("kind", ["cable", "arch"])
def test_a_cable_or_arch_that_is_mostly_idle_carries_nothing(kind):
    case = made(
        [member("pier"), member(kind, start=(at_metres(-30.0), 0.0), end=(at_metres(10.0), 0.0))], owner=[1, 1, 0, -1]
    )
    idle, said = [True, False, True, True], f"the {kind} 10 m left of mid-span carries nothing"
    assert repairs(case, idle=idle, size=[1.2, 0.8, 9.0, 9.0]) == []
    assert [said in reason for reason in repairs(case, idle=idle, size=[1.22, 0.78, 9.0, 9.0])] == [True]
    # What ends in the air was named already, and what is neither is judged by its idle share alone.
    loose = made([case.members[0], case.members[1]._replace(ends=("free", "deck"))], owner=[1, 1, 0, -1])
    assert len(repairs(loose, loose=[1], idle=idle, size=[1.0, 0.0, 9.0, 9.0])) == 1
    hanger = made([case.members[0], case.members[1]._replace(kind="hanger")], owner=[1, 1, 0, -1])
    assert repairs(hanger, idle=idle, size=[1.0, 0.0, 9.0, 9.0]) == []


@pytest.mark.parametrize("bow", [4.1, -4.1])
def test_a_curve_needs_something_along_it(bow):
    straight = member(
        "cable", start=(at_metres(0.0) - 50, 0.0), end=(at_metres(0.0) + 50, 0.0), bow=math.copysign(4.0, bow)
    )
    assert repairs(made([straight], owner=[0])) == []
    curved = straight._replace(bow=bow)
    assert repairs(made([curved], owner=[0])) == [
        "the cable mid-span is curved, but nothing hangs from it or stands on it"
    ]
    assert repairs(made([curved, member("hanger", (0, "deck"))], owner=[0, 1])) == []
    assert repairs(made([curved, member("hanger"), member("hanger", ("deck", 0))], owner=[0, 1, 2])) == []
    assert repairs(made([member("cable", bow=bow, end=(200.0, 40.0))], owner=[0])) == []


@pytest.mark.parametrize(("end", "said"), [("deck", 0), ("free", 1)])
@pytest.mark.parametrize("turned", [False, True])
def test_a_half_arch_from_the_ground_to_the_deck_holds_it_up(end, said, turned):
    deck = made().deck
    reach = deck.at(0.0) + 8.0
    ends, points = ("ground", end), ((100.0, reach + 0.5), (200.0, deck.at(200.0)))
    arch = member("arch", ends[::-1], *points[::-1], bow=9.0) if turned else member("arch", ends, *points, bow=9.0)
    assert len(repairs(made([arch], owner=[0]))) == said
    low = arch._replace(at=np.minimum(arch.at, [512.0, reach]))
    assert len(repairs(made([low], owner=[0]))) == 1
    assert len(repairs(made([arch._replace(kind="cable")], owner=[0]))) == 1
    # What comes after it is looked at too.
    assert len(repairs(made([arch, low], owner=[0, 1]))) == said + 1


def test_webs_that_a_truss_lacks_and_useless_towers_are_named(monkeypatch):
    holes = [(at_metres(x), 10.0 / METRES) for x in (-30.0, 0.0, 10.0, 20.0)]
    monkeypatch.setattr(structure, "missing_webs", lambda members: holes)
    monkeypatch.setattr(structure, "useless_towers", lambda members: ["a tower is useless"])
    where = ("30 m left of mid-span", "mid-span", "10 m right of mid-span")
    said = [f"a truss lacks a diagonal {at}: there is none over 10 m" for at in where]
    assert repairs(made()) == [*said, "a tower is useless"]


def test_an_idle_share_is_said_only_if_nothing_else_is():
    assert repairs(made(), STANDING._replace(idle_share=0.3)) == []
    idle = STANDING._replace(idle_share=0.41)
    assert repairs(made(), idle) == ["41% of what is drawn carries nothing under a full load"]
    assert repairs(made(), idle._replace(floating=1)) == ["1 piece joined to nothing, to be removed"]


TOWER_AT = at_metres(-50.0)


def tower_and(*pulling, kind="tower"):
    """A tower of two elements at 50 m left, from row 10 to row 90, and what ends at it."""
    return [member(kind, ("free", "ground"), (TOWER_AT, 10.0), (TOWER_AT + 4, 90.0)), *pulling]


def pull(to, row=20.0, kind="cable", turned=False, first="ground"):
    """A member from the tower at `row` to a place `to` pixels beside it."""
    ends, points = (0, first), ((TOWER_AT, row), (TOWER_AT + to, 60.0))
    return member(kind, ends[::-1], *points[::-1]) if turned else member(kind, ends, *points)


def pulled_over(members, moment=(0.0, -9e7), live=(True, True, True)):
    """What is said of a tower whose second element has this moment, that of the cable being larger still."""
    moments = [(1e7, 0.0), moment, (3e8, 3e8)]
    case = made(
        members, owner=[0, 0, 1], live=live, moment=[m for m, lives in zip(moments, live, strict=True) if lives]
    )
    return structure._pulled_over(case)


@pytest.mark.parametrize("kind", ["cable", "stay"])
@pytest.mark.parametrize("to", [-60.0, 60.0])
@pytest.mark.parametrize("turned", [False, True])
def test_a_tower_pulled_to_one_side_is_named(kind, to, turned):
    said = ["the tower 50 m left of mid-span is pulled to one side only, which bends it by 90 MNm"]
    assert pulled_over(tower_and(pull(to, kind=kind, turned=turned))) == said
    assert pulled_over(tower_and(pull(to, kind=kind, turned=turned), pull(0.5 * to))) == said
    assert pulled_over(tower_and(pull(to, kind=kind), pull(-to, kind=kind, turned=turned))) == []


def test_what_does_not_pull_a_tower_over():
    assert pulled_over(tower_and()) == []
    assert pulled_over(tower_and(pull(60.0)), moment=(8e7, -8e7)) == []
    assert pulled_over(tower_and(pull(60.0)), live=(True, False, True)) == []
    assert pulled_over(tower_and(pull(60.0)), live=(False, False, True)) == []
    assert pulled_over(tower_and(pull(60.0, kind="hanger"))) == []
    assert pulled_over(tower_and(pull(60.0, row=50.0))) == []  # at half height, and below
    assert pulled_over(tower_and(pull(60.0, row=70.0))) == []
    assert pulled_over(tower_and(pull(60.0), kind="pier")) == []
    assert pulled_over(tower_and(member("cable", ("deck", "ground"), (TOWER_AT, 20.0)))) == []
    near = member("cable", (0, "ground"), (200.0, 20.0), (210.0, 60.0))
    assert pulled_over(tower_and(near)) == []
    assert len(pulled_over(tower_and(near._replace(at=near.at + np.array([[0, 0], [1, 0]]))))) == 1


def test_later_towers_are_looked_at_too():
    members = [member("pier"), *tower_and(pull(60.0)._replace(ends=(1, "ground")))]
    case = made(members, owner=[1, 2], moment=[(9e7, 0.0), (0.0, 0.0)])
    assert len(structure._pulled_over(case)) == 1
    assert structure._pulled_over(case)[0] in repairs(case)


def test_praise_says_how_it_stands():
    of = STANDING._replace(axial_share=0.3)
    assert structure._praise(of) == "stands as drawn on 2 supports, 160 m at most between them, mostly by bending"
    assert structure._praise(of._replace(axial_share=0.31)).endswith("between them, by axial force")


def test_loose_ends_but_for_tops_of_towers_and_stumps():
    end = (9.0, 40.0)
    members = [
        member("hanger", ("free", "deck"), end=end),
        member("hanger", ("deck", "free"), end=end),
        member("hanger", ("deck", 0), end=end),
        member("hanger", ("free", "deck"), end=(8.0, 40.0)),
        member("tower", ("free", "deck"), end=end),
        member("tower", ("deck", "free"), end=end),
        member("tower", ("free", "free"), end=end),
    ]
    assert structure._loose(made(members)) == [0, 1, 5, 6]
    # A chord of a truss may reach over its last joint.
    chords = [member("chord", ("free", "deck"), end=(x, 40.0)) for x in (20.0, 20.5)]
    assert structure._loose(made(chords)) == [1]


def test_refusals_say_why_and_have_no_figures_but_of_the_picture():
    reason = ("the picture is empty",)
    bare = Analysis("C", reason, 0.0, 0.0, 1.0, 0.0, (), (), 0, 0, 0, 0.0, 0.0, 0.0, 0.0, 0.0, (), ())
    assert structure.analyse(np.zeros((48, 192), np.uint8)) == Analysis("C", reason) == bare
    posts = picture([Drawn("pier", (x, 20.0), (x, -20.0)) for x in (-60.0, 60.0)], "beam", (128, 512))
    found = structure.analyse(posts)
    assert found.reasons == ("no deck: nothing level runs across the middle of the picture",)
    assert found.symmetry == 1.0
    flooded = bridges.render("beam", 5, 128, 512)
    flooded[:, :320] = 255
    found = structure.analyse(flooded)
    assert found.reasons == ("no bridge: 64% of the picture is ink",)


def test_a_refusal_keeps_what_is_known_of_the_picture(monkeypatch):
    noisy = bridges.render("beam", 6, 128, 512) / 255 + np.random.default_rng(0).normal(0, 0.04, (128, 512))
    standing = structure.analyse(noisy.clip(0, 1))
    monkeypatch.setattr(structure.inking, "trouble", lambda ink, lines: "so it is")
    found = structure.analyse(noisy.clip(0, 1))
    assert found.reasons == ("no bridge: so it is",) and found.verdict == "C"
    assert (found.noise, found.symmetry) == (standing.noise, standing.symmetry)
    assert found.noise > 0.01 and found.symmetry > 0.9


@pytest.mark.parametrize(("count", "refused"), [(140, False), (141, True), (None, True)])
def test_a_tangle_is_refused(count, refused, monkeypatch):
    drawn, strokes = bridges.render("through_arch", 6, 128, 512), []
    find = structure.skeleton.find_strokes

    def tangled(*given):
        strokes[:] = find(*given)
        return None if count is None else (strokes * count)[:count]

    monkeypatch.setattr(structure.skeleton, "find_strokes", tangled)
    monkeypatch.setattr(structure, "rejoined", lambda _, mask: strokes)
    reasons = structure.analyse(drawn).reasons
    assert (reasons == ("no bridge: the lines cross and fork too often",)) is refused


@pytest.fixture(scope="module")
def messy():
    """A suspension bridge with a piece adrift and a hanger from nothing."""
    more = [Drawn("hanger", (-20.0, -22.0), (5.0, -15.0)), Drawn("hanger", (90.0, 20.0), (90.0, 0.0))]
    return case_of(picture(lines("vertical_suspension") + more, "vertical_suspension", (128, 512)))


def bare_sag(deck):
    """Of a girder of 260 GN m^2 from end to end of the deck under 100 kN/m: 5 w L^4 / 384 EI, in metres."""
    return 5 * 1e5 * ((deck.right - deck.left) * METRES) ** 4 / (384 * 2.6e11)


def test_the_gain_is_in_decades_of_what_the_bare_deck_would_sag():
    deck = made().deck
    assert measures.stiffness_gain(bare_sag(deck), deck) == pytest.approx(0, abs=1e-9)
    assert measures.stiffness_gain(bare_sag(deck) / 100, deck) == pytest.approx(2)


def test_what_sags_is_drawn_lower_down(messy):
    found = structure._judged(messy)
    deck = [force for force in found.forces if force.kind == "deck"]
    lower = [force.moved_start[1] - force.start[1] for force in deck]  # canvas rows count downwards
    middle = [way for way, force in zip(lower, deck, strict=True) if abs(force.start[0] - MIDDLE) < 100]
    assert len(middle) > 5 and min(middle) > 0
    assert max(lower) * METRES == pytest.approx(found.deflection)


def test_figures_are_what_their_names_say(messy):
    members = [m._replace(gaps=k % 2, confidence=0.5 + 0.01 * k) for k, m in enumerate(messy.members)]
    case = messy._replace(members=members)
    found = structure._judged(case)
    assert found.verdict == "B" and len(found.reasons) >= 2
    drawn = [math.dist(f.start, f.end) * METRES for f in found.forces]
    adrift = measures.floating_pieces(case)[1] * METRES
    assert (found.floating, found.dangling) == (1, 1) and 20 < adrift < 30
    idle = sum(size for size, f in zip(drawn, found.forces, strict=True) if f.idle)
    assert idle > 5
    assert found.idle_share == pytest.approx(idle / (sum(drawn) + adrift))
    assert found.load_bearing_share == pytest.approx((sum(drawn) - idle) / (sum(drawn) + adrift))
    stretched, bent = (float(part.sum()) for part in (case.solution.stretched, case.solution.bent))
    assert found.axial_share == pytest.approx(stretched / (stretched + bent))
    sags = [-case.solution.moved[n, 1] for n in case.model.deck_nodes]
    assert found.deflection == pytest.approx(max(sags)) and max(sags) > 0
    assert found.gain == pytest.approx(math.log10(bare_sag(case.deck) / found.deflection))
    assert found.relief == measures.least_relief(case)[0] < 1
    assert found.supports == measures.find_supports(case) and found.members == tuple(members)
    assert found.spacing == tuple(b.metres - a.metres for a, b in zip(found.supports, found.supports[1:], strict=False))
    assert found.gaps == len(members) // 2
    lengths = [sum(math.dist(a, b) for a, b in zip(m.points, m.points[1:], strict=False)) for m in members]
    wanted = sum(size * m.confidence for size, m in zip(lengths, members, strict=True)) / sum(lengths)
    assert found.confidence == pytest.approx(wanted)
    assert found.symmetry == measures.mirror_share(case.ink.mask) and 0.5 < found.symmetry < 1
    assert found.noise == case.ink.noise


def test_a_mechanism_has_no_figures_of_its_movement(messy):
    moving = messy._replace(solution=messy.solution._replace(mechanism=(1, 2)))
    found = structure._judged(moving)
    assert found.verdict == "C" and "a mechanism: 2 joints" in found.reasons[0]
    figures = (found.gain, found.axial_share, found.relief, found.deflection, found.load_bearing_share)
    assert figures == (0, 0, 0, 0, 0) and found.idle_share > 0


def test_verdicts_are_c_before_b_before_a(messy):
    whole = case_of(bridges.render("vertical_suspension", 6, 128, 512))
    found = structure._judged(whole)
    assert found.verdict == "A" and len(found.reasons) == 1 and found.reasons[0].startswith("stands as drawn on 4 ")
    cut = structure._judged(messy._replace(deck=messy.deck._replace(gap=20)))
    assert cut.verdict == "C" and cut.reasons == ("the deck is broken: 13 m are missing in one place",)


def test_a_deck_alone_is_sure_and_falls():
    found = structure.analyse(picture([m for m in lines("beam") if m.kind == "deck"], "beam", (128, 512)))
    assert found.verdict == "C" and found.reasons == ("nothing stands on the ground",)
    assert found.members == () and found.confidence == 1.0
