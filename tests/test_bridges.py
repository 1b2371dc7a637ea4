"""Geometry and drawing: sizes, symmetry, widths, areas, and likeness to the author's renders where they are at hand."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import distance_transform_edt, label

from bridge_ebm import bridges, raster, varied
from bridge_ebm.errors import InputError
from bridge_ebm.geometry import DECK, height_at, members, mirrored
from bridge_ebm.raster import Ink, Member

RENDERS = Path(__file__).parents[2] / "shared" / "data" / "renders"
AUTHOR = {
    "beam": "Beam_Three_span",
    "v_pier_frame": "Beam_V_type",
    "deck_arch": "Arch_Top_bear",
    "through_arch": "Arch_Bottom_bear",
    "harp_cable_stayed": "Cable_Harp_shaped",
    "fan_cable_stayed": "Cable_Fan_shaped",
    "vertical_suspension": "Suspension_Vertical_sling",
    "diagonal_suspension": "Suspension_Diagonal_sling",
}
subtypes = pytest.mark.parametrize("subtype", bridges.SUBTYPES)


def likeness(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Intersection over union at threshold 64, and how far the farthest lit pixel is from one of the other picture."""
    a, b = a >= 64, b >= 64
    far = max(distance_transform_edt(~b)[a].max(), distance_transform_edt(~a)[b].max())
    return float((a & b).sum() / (a | b).sum()), float(far)


def author_renders() -> dict[str, list[np.ndarray]]:
    if not RENDERS.is_dir():
        pytest.skip("the author's renders are not beside this checkout (../shared/data/renders)")
    return {
        name: [np.asarray(Image.open(file).convert("L")) for file in sorted((RENDERS / folder).glob("*.png"))]
        for name, folder in AUTHOR.items()
    }


def test_order_of_subtypes_and_families():
    assert list(bridges.SUBTYPES) == list(AUTHOR)
    assert [bridges.FAMILIES[name] for name in bridges.SUBTYPES] == [
        *("beam", "beam", "arch", "arch", "cable-stayed", "cable-stayed", "suspension", "suspension")
    ]


def test_like_the_authors_renders():
    scores = {}
    for name, (thin, thick) in author_renders().items():
        pairs = [(bridges.render(name, 0, 128, 512), thin), (bridges.render(name, 15, 128, 512), thick)]
        overlaps, distances = zip(*(likeness(a, b) for a, b in pairs), strict=True)
        assert max(distances) <= 1.5, name
        scores[name] = np.mean(overlaps)
    assert min(scores.values()) >= 0.95, scores
    assert np.mean(list(scores.values())) >= 0.97, scores


@subtypes
@pytest.mark.parametrize("size", [(48, 192), (128, 512), (64, 200), (160, 640)])
def test_size_type_and_polarity(subtype, size):
    image = bridges.render(subtype, 7, *size)
    assert image.shape == size and image.dtype == np.uint8
    assert np.median(image) == 0 and image.max() > 200
    assert not image[[0, -1]].any() and not image[:, [0, -1]].any()


@subtypes
def test_ink_grows_with_the_width_index(subtype):
    ink = [int(bridges.render(subtype, index, 128, 512).sum()) for index in range(16)]
    assert all(later > earlier * 1.01 for earlier, later in itertools.pairwise(ink))


@subtypes
@pytest.mark.parametrize("index", [0, 15])
def test_mirror_symmetric_but_for_the_authors_offsets(subtype, index):
    image = bridges.render(subtype, index, 128, 512)
    overlap, far = likeness(image, image[:, ::-1])
    if subtype == "v_pier_frame":  # his V piers stand 2.2 of 512 pixels to the right
        straight = np.roll(image, -2, 1)
        assert likeness(straight[70:], straight[70:, ::-1])[0] > overlap
        assert 3 <= far <= 5
    else:
        assert overlap > 0.85 and far <= 1.5


@subtypes
def test_one_connected_bridge_from_end_to_end(subtype):
    lit = bridges.render(subtype, 0, 128, 512) >= 50
    _, pieces = label(lit, np.ones((3, 3)))
    assert pieces == 1
    columns = np.flatnonzero(lit.any(0))
    assert abs(columns[0] - 18) <= 1 and abs(columns[-1] - 493) <= 1
    assert lit[63:65, 20:492].any(0).all()


@subtypes
def test_light_per_area_is_the_same_at_every_size(subtype):
    means = [bridges.render(subtype, 6, *size).mean() for size in [(24, 96), (48, 192), (128, 512), (256, 1024)]]
    assert np.ptp(means) < 0.04 * means[2]


def test_small_pictures_are_area_averages_of_the_large_one():
    large = bridges.render("deck_arch", 4, 128, 512)
    blocks = large.reshape(32, 4, 128, 4).mean((1, 3))
    assert np.abs(bridges.render("deck_arch", 4, 32, 128) - blocks).max() <= 0.5


def test_area_average_keeps_the_mean_at_odd_ratios():
    noise = np.random.default_rng(0).integers(0, 256, (3, 128, 512), np.uint8)
    small = raster.area_average(noise, 48, 190)
    np.testing.assert_allclose(small.mean((1, 2)), noise.mean((1, 2)), atol=0.3)
    assert (raster.area_average(np.full((5, 7), 255, np.uint8), 3, 2) == 255).all()


@pytest.mark.parametrize("thickness", [0.5, 3.0])
def test_a_line_covers_exactly_its_area(thickness):
    canvas = raster.draw([Member("line", (-50, 20), (40, -13))], {"line": Ink(thickness)})
    area = np.hypot(90, 33) * thickness * raster.PIXELS_PER_METRE**2
    assert canvas.sum() / 255 == pytest.approx(area, rel=0.002)


def test_an_arc_passes_through_its_ends_and_its_crown():
    arc = Member("arc", (-60, -5), (60, -5), 30)
    assert height_at(arc, 0) == pytest.approx(25)
    assert height_at(arc, 60) == pytest.approx(-5)
    canvas = raster.draw([arc], {"arc": Ink(2.0)})
    for x in (-59, -30, 0, 45):
        column = canvas[:, int(256 + x * raster.PIXELS_PER_METRE)].astype(float)
        centre = 64 - (column @ (np.arange(128) + 0.5)) / column.sum()
        assert centre / raster.PIXELS_PER_METRE == pytest.approx(height_at(arc, x), abs=0.8)


def test_later_members_are_painted_over_earlier_ones():
    inks = {"deck": Ink(4.0, 100, 100), "over": Ink(4.0, 200, 200)}
    over = DECK._replace(kind="over")
    assert raster.draw([DECK, over], inks)[64, 256] == 200
    assert raster.draw([over, DECK], inks)[64, 256] == 100


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("truss", 0, 48, 192), "no sub-type 'truss'"),
        (("beam", 16, 48, 192), "no member width 16"),
        (("beam", -1, 48, 192), "no member width -1"),
        (("beam", 0, 0, 192), "0 x 192"),
        (("beam", 0, 48, -3), "48 x -3"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(arguments, said):
    with pytest.raises(InputError, match=said) as caught:
        bridges.render(*arguments)
    assert "\n" not in str(caught.value)


@subtypes
def test_varied_bridges_are_symmetric_connected_and_inside(subtype):
    for image in varied.render(subtype, 3, range(12), 128, 512):
        assert np.abs(image.astype(int) - image[:, ::-1]).max() <= 1
        assert not image[:6].any() and not image[-6:].any() and not image[:, :8].any()
        lit = image >= 64
        assert label(lit, np.ones((3, 3)))[1] == 1
        assert lit[63:65, 20:492].any(0).all()
        assert 100 <= np.flatnonzero(lit.any(1))[-1] <= 118


@subtypes
def test_varied_members_are_mirror_images(subtype):
    for index in range(20):
        of, _ = varied.dimensions(subtype, 0, index)
        there = {(m.kind, *np.round((*m.start, *m.end, m.rise), 6)) for m in members(of)}
        back = {(m.kind, *np.round((*m.start, *m.end, m.rise), 6)) for m in map(mirrored, members(of))}
        if subtype == "v_pier_frame":  # its legs run down and up again; mirrored() keeps left to right
            assert len(there & back) == len(there)
        assert {entry[0] for entry in there} == set(bridges.FINISH[subtype])
        assert len(there) == len(members(of)), "a member drawn twice"


def test_varied_dimensions_keep_to_their_ranges():
    for index in range(200):
        stayed, _ = varied.dimensions("harp_cable_stayed", 1, index)
        main = 2 * stayed.pier
        assert 0.38 <= (300 - main) / 2 / main <= 0.47
        assert 0.19 <= stayed.heights[0] / main <= 0.25
        assert 3 <= len(stayed.heights) <= 8
        slopes = np.divide(stayed.heights, stayed.reaches)
        np.testing.assert_allclose(slopes, slopes[0])  # a harp: parallel
        sling, _ = varied.dimensions("vertical_suspension", 1, index)
        assert 1 / 11 - 1e-9 <= (sling.peak - sling.low) / (2 * sling.pier) <= 1 / 7 + 1e-9


@subtypes
def test_varied_pictures_differ_and_depend_on_seed_and_index_alone(subtype):
    several = varied.render(subtype, 3, [4, 5, 6], 24, 96)
    np.testing.assert_array_equal(varied.render(subtype, 3, [6], 24, 96)[0], several[2])
    assert (several[0] != several[1]).any()
    assert (varied.render(subtype, 4, [6], 24, 96)[0] != several[2]).any()
