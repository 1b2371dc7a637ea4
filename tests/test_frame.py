"""The frame solver against closed forms of structural mechanics, and against PyNite where it is installed."""

import numpy as np
import pytest

from bridge_ebm.frame import BAR, BEAM, TIE, Frame, solve

EI, EA, W = 1e9, 1e10, 1e4


def make(nodes, ends, kind=BEAM, stretch=EA, bend=EI, load=0.0, held=None, pinned=(), forces=None) -> Frame:
    n, m = len(nodes), len(ends)
    fixed, hinges, nodal = np.zeros((n, 3), bool), np.zeros((m, 2), bool), np.zeros((n, 3))
    for node, dofs in (held or {}).items():
        fixed[node] = dofs
    for place in pinned:
        hinges[place] = True
    for node, force in (forces or {}).items():
        nodal[node] = force

    def spread(value):
        return np.broadcast_to(np.asarray(value, float), (m,)).copy()

    kinds = np.broadcast_to(np.asarray(kind), (m,)).copy()
    return Frame(
        np.array(nodes, float), np.array(ends), kinds, spread(stretch), spread(bend), spread(load), fixed, hinges, nodal
    )


def line(length, pieces, slope=0.0):
    x = np.linspace(0, length, pieces + 1)
    return np.c_[x, slope * x], [(k, k + 1) for k in range(pieces)]


def parabola(span, rise, pieces):
    x = np.linspace(0, span, pieces + 1)
    return np.c_[x, 4 * rise * x * (span - x) / span**2], [(k, k + 1) for k in range(pieces)]


@pytest.mark.parametrize(
    "held, at, share",
    [
        ({0: (1, 1, 0), 8: (0, 1, 0)}, 4, 5 / 384),  # simply supported
        ({0: (1, 1, 1)}, 8, 1 / 8),  # cantilever
        ({0: (1, 1, 1), 8: (1, 1, 1)}, 4, 1 / 384),  # built in at both ends
        ({0: (1, 1, 1), 8: (0, 1, 0)}, 4, 1 / 192),  # propped cantilever, at mid-span
    ],
)
def test_beam_deflections(held, at, share):
    nodes, ends = line(40.0, 8)
    sag = -solve(make(nodes, ends, load=W, held=held)).moved[at, 1]
    assert sag == pytest.approx(share * W * 40.0**4 / EI, rel=1e-9)


def test_moments_and_energy_of_a_simple_beam():
    nodes, ends = line(40.0, 8)
    solved = solve(make(nodes, ends, load=W, held={0: (1, 1, 0), 8: (0, 1, 0)}))
    assert abs(solved.moment[3, 1]) == pytest.approx(W * 40.0**2 / 8, rel=1e-9)
    assert solved.bent.sum() == pytest.approx(W**2 * 40.0**5 / (240 * EI), rel=2e-3)
    assert solved.stretched.sum() == pytest.approx(0, abs=1e-9)


def test_inclined_beam_bends_as_its_horizontal_projection():
    nodes, ends = line(40.0, 8, slope=0.75)
    solved = solve(make(nodes, ends, load=W, held={0: (1, 1, 0), 8: (0, 1, 0)}))
    assert abs(solved.moment[3, 1]) == pytest.approx(W * 40.0**2 / 8, rel=1e-9)


def test_released_end_is_without_moment_and_makes_a_propped_cantilever():
    frame = make([(0, 0), (10, 0)], [(0, 1)], load=W, held={0: (1, 1, 1), 1: (1, 1, 1)}, pinned=[(0, 1)])
    solved = solve(frame)
    assert solved.moment[0, 1] == pytest.approx(0, abs=1e-6)
    assert abs(solved.moment[0, 0]) == pytest.approx(W * 100 / 8, rel=1e-9)


def test_two_bar_truss():
    frame = make(
        [(-3, 0), (3, 0), (0, 4)], [(0, 2), (1, 2)], BAR, held={0: (1, 1, 0), 1: (1, 1, 0)}, forces={2: (0, -8e3, 0)}
    )
    solved = solve(frame)
    np.testing.assert_allclose(solved.axial, [-5e3, -5e3], rtol=1e-9)
    assert -solved.moved[2, 1] == pytest.approx(8e3 * 5.0 / (2 * EA * 0.8**2), rel=1e-9)


def test_pratt_truss_by_the_method_of_sections():
    """Four panels of 5 m, 4 m high, 12 kN on each lower joint: chord force M / h, end diagonal V / sin."""
    lower, upper = [(5.0 * k, 0.0) for k in range(5)], [(5.0 * k, 4.0) for k in range(1, 4)]
    ends = [(0, 1), (1, 2), (2, 3), (3, 4), (5, 6), (6, 7), (0, 5), (4, 7), (1, 5), (2, 6), (3, 7), (2, 5), (2, 7)]
    forces = dict.fromkeys((1, 2, 3), (0, -12000.0, 0))
    solved = solve(make(lower + upper, ends, BAR, held={0: (1, 1, 0), 4: (0, 1, 0)}, forces=forces))
    assert solved.axial[4] == pytest.approx(-(18e3 * 10 - 12e3 * 5) / 4, rel=1e-9)
    assert solved.axial[0] == pytest.approx(18e3 * 5 / 4, rel=1e-9)
    assert solved.axial[6] == pytest.approx(-18e3 / (4 / np.hypot(4, 5)), rel=1e-9)
    assert solved.axial[9] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("hinge", [False, True])
def test_parabolic_arch_thrust(hinge):
    """Two- and three-hinged: H = w L^2 / 8 f under a load level along the span, and hardly any bending."""
    nodes, ends = parabola(100.0, 20.0, 40)
    pinned = [(19, 1)] if hinge else []
    solved = solve(make(nodes, ends, stretch=1e13, load=W, held={0: (1, 1, 0), 40: (1, 1, 0)}, pinned=pinned))
    thrust = W * 100.0**2 / (8 * 20.0)
    level = solved.axial * np.array(
        [(b - a)[0] / np.hypot(*(b - a)) for a, b in zip(nodes[:-1], nodes[1:], strict=True)]
    )
    np.testing.assert_allclose(level, -thrust, rtol=0.02)
    assert np.abs(solved.moment).max() < 0.01 * W * 100.0**2 / 8


def test_hanging_cable_pull_and_a_cable_the_wrong_way_up():
    nodes, ends = parabola(100.0, 10.0, 20)
    forces = dict.fromkeys(range(1, 20), (0, -W * 5.0, 0))
    held = {0: (1, 1, 0), 20: (1, 1, 0)}
    hanging = solve(make(nodes * (1, -1), ends, TIE, stretch=1e13, held=held, forces=forces), prestress=1e5)
    assert hanging.settled and hanging.taut.all()
    assert hanging.axial[10] == pytest.approx(W * 100.0**2 / 80, rel=0.005)
    assert solve(make(nodes, ends, TIE, stretch=1e13, held=held, forces=forces)).mechanism


def test_only_the_stretched_of_two_ties_pulls():
    frame = make(
        [(0, 0), (0, 5), (0, -5)],
        [(0, 1), (0, 2)],
        TIE,
        held={0: (1, 0, 0), 1: (1, 1, 0), 2: (1, 1, 0)},
        forces={0: (0, -1e4, 0)},
    )
    solved = solve(frame)
    np.testing.assert_allclose(solved.axial, [1e4, 0], atol=1e-6)
    assert solved.taut.tolist() == [True, False]


def test_mechanisms_are_found_and_named():
    nodes, ends = line(40.0, 8)
    sliding = solve(make(nodes, ends, load=W, held={0: (0, 1, 0), 8: (0, 1, 0)}))
    assert sliding.mechanism == tuple(range(9))
    assert not sliding.moved.any()
    square = [(0, 0), (5, 0), (5, 5), (0, 5)]
    swaying = solve(
        make(square, [(0, 3), (3, 2), (2, 1)], BAR, held={0: (1, 1, 0), 1: (1, 1, 0)}, forces={3: (1e3, 0, 0)})
    )
    assert set(swaying.mechanism) == {2, 3}
    braced = solve(
        make(square, [(0, 3), (3, 2), (2, 1), (0, 2)], BAR, held={0: (1, 1, 0), 1: (1, 1, 0)}, forces={3: (1e3, 0, 0)})
    )
    assert not braced.mechanism


def test_a_chain_of_hinges_in_a_beam_is_a_mechanism():
    nodes, ends = line(30.0, 3)
    held = {0: (1, 1, 0), 3: (0, 1, 0)}
    assert solve(make(nodes, ends, load=W, held=held, pinned=[(0, 1), (1, 0)])).mechanism


def test_a_member_without_length_is_refused():
    with pytest.raises(ValueError, match="no length"):
        solve(make([(0, 0), (0, 0)], [(0, 1)], held={0: (1, 1, 1)}))


def test_portal_frame_agrees_with_pynite():
    pynite = pytest.importorskip("Pynite", reason="PyNite, an independent frame program, is not installed")
    nodes = [(0, 0), (0, 6), (4, 7), (8, 6), (8, 0)]
    ends = [(0, 1), (1, 2), (2, 3), (3, 4), (1, 3)]
    kinds = [BEAM, BEAM, BEAM, BEAM, BAR]
    ours = solve(
        make(
            nodes,
            ends,
            kinds,
            stretch=2e9,
            bend=4e7,
            held={0: (1, 1, 1), 4: (1, 1, 0)},
            forces={1: (5e3, 0, 0), 2: (0, -2e4, 1e3)},
        )
    )
    theirs = pynite.FEModel3D()
    theirs.add_material("m", 2e11, 8e10, 0.3, 7850.0)
    theirs.add_section("s", 0.01, 2e-4, 2e-4, 2e-4)
    for k, (x, y) in enumerate(nodes):
        theirs.add_node(f"{k}", x, y, 0)
        theirs.def_support(f"{k}", k in (0, 4), k in (0, 4), True, True, True, k == 0)
    for k, (a, b) in enumerate(ends):
        theirs.add_member(f"{k}", f"{a}", f"{b}", "m", "s")
    theirs.def_releases("4", Rzi=True, Rzj=True)
    theirs.add_node_load("1", "FX", 5e3)
    theirs.add_node_load("2", "FY", -2e4)
    theirs.add_node_load("2", "MZ", 1e3)
    theirs.analyze_linear()
    for k in range(5):
        node = theirs.nodes[f"{k}"]
        expected = [node.DX["Combo 1"], node.DY["Combo 1"]]
        np.testing.assert_allclose(ours.moved[k, :2], expected, rtol=1e-6, atol=1e-12)
    pulls = [-theirs.members[f"{k}"].axial(1e-3) for k in range(5)]
    np.testing.assert_allclose(ours.axial, pulls, rtol=1e-6)
