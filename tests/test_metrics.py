"""Each measure is right where the answer is known, and moves the right way where pictures get worse."""

from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from bridge_ebm import bridges, corruptions, data, geometry, metrics, raster, structure
from bridge_ebm.novelty import skeletons

SIZE = (48, 192)
AUTHOR = Path(__file__).parents[2] / "shared" / "data" / "renders"


def base_pictures(height, width):
    names = [(subtype, k) for subtype in bridges.SUBTYPES for k in range(bridges.WIDTHS)]
    return np.stack([bridges.render(*name, height, width) for name in names])


def grey(values):
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def blurred(images, sigma):
    return grey(ndimage.gaussian_filter(images.astype(np.float32), (0, sigma, sigma)))


def noisy(images, sigma):
    return grey(images + 255 * sigma * np.random.default_rng(0).standard_normal(images.shape))


@pytest.fixture(scope="module")
def real():
    """A part of the paper's data at 48 x 192."""
    return data.procedural(*SIZE, per_type=80)


@pytest.fixture(scope="module")
def sets(real):
    """Features of the test part and of the training part, and the training part itself."""
    test, train = data.split(real, "test"), data.split(real, "train")
    return metrics.features(test.images), metrics.features(train.images), train


# Definition


def test_softness_of_ideal_edges_is_one():
    """The edge of a box filter, at all places within a pixel: the mean of 6 f (1 - f) is 1."""
    shares = (np.arange(100) + 0.5) / 100
    pictures = np.zeros((100, 8, 8), np.uint8)
    pictures[:, :, 4:] = 255
    pictures[:, :, 3] = grey(255 * shares)[:, None]
    assert metrics.definition(pictures).softness.mean() == pytest.approx(1, abs=0.15)  # 8 / 7 for the last row
    assert metrics.definition(pictures).softness.max() == pytest.approx(1.5 * 8 / 7, abs=0.01)


@pytest.mark.parametrize("size", [(48, 192), (128, 512)])
def test_base_pictures_are_sharp_and_spoilt_ones_are_not(size):
    real = base_pictures(*size)[::4]
    assert metrics.is_sharp(real).all()
    for spoilt in (blurred(real, 1), noisy(real, 0.02), noisy(real, 0.05)):
        assert not metrics.is_sharp(spoilt).any()


def test_definition_of_blur_and_noise_is_as_screened():
    """At 128 x 512, blur of 1, 2 and 3 pixels: softness 5.3, 11.4, 19.4; noise of 0.05: background 0.035."""
    real = base_pictures(128, 512)[::5]
    softness = [metrics.definition(blurred(real, sigma)).softness.mean() for sigma in (1, 2, 3)]
    assert softness == pytest.approx([5.3, 11.4, 19.4], rel=0.05)
    assert np.median(metrics.definition(noisy(real, 0.05)).background) == pytest.approx(0.035, abs=5e-4)


@pytest.mark.skipif(not AUTHOR.is_dir(), reason="the author's renders are not here")
def test_definition_of_the_authors_own_renders_is_as_screened():
    """The thinnest and thickest of each type. Screened over all 128: softness 1.25-2.55 and 1.17-3.46, contrast from
    0.431 and 0.234."""
    full = np.stack([np.asarray(Image.open(path).convert("L")) for path in sorted(AUTHOR.glob("*/*.png"))])
    at_128, at_48 = metrics.definition(full), metrics.definition(raster.area_average(full, *SIZE))
    assert at_128.softness.max() == pytest.approx(2.55, abs=0.005) and at_128.softness.min() >= 1.25
    assert at_48.softness.max() == pytest.approx(3.46, abs=0.005) and at_48.softness.min() >= 1.17
    assert at_128.line_contrast.min() == pytest.approx(0.431, abs=5e-4)
    assert at_48.line_contrast.min() == pytest.approx(0.235, abs=5e-4)
    assert at_128.background.max() == 0 and at_128.ghost.max() == 0
    harp = [path.parent.name.startswith("Cable_Harp") for path in sorted(AUTHOR.glob("*/*.png"))]
    assert (at_48.ghost[~np.array(harp)] == 0).all() and at_48.ghost.max() == pytest.approx(0.028, abs=5e-4)


def test_real_ranges_of_our_own_base_pictures():
    """By the formulas alone; the author's renders, whose lines are a little softer, are in the test above."""
    small, large = metrics.real_range(*SIZE), metrics.real_range(128, 512)
    assert [*small.softness, *large.softness] == pytest.approx([1.118, 3.490, 0.984, 2.662], abs=1e-3)
    assert small.line_contrast == pytest.approx((63 / 255, np.inf))
    assert large.line_contrast == pytest.approx((120 / 255, np.inf))
    assert small.background == large.background == (0, 1 / 255) and small.ghost == large.ghost == (0, 0.005)


def test_definition_worsens_step_by_step():
    real = base_pictures(*SIZE)[::8]
    by_blur = [metrics.definition(blurred(real, sigma)) for sigma in (0.01, 0.5, 1, 2)]
    assert all((a.softness < b.softness).all() for a, b in pairwise(by_blur))
    faded = [metrics.definition(grey(real[1::2] * share)) for share in (1, 0.9, 0.8, 0.7)]
    assert all(a.line_contrast.mean() > b.line_contrast.mean() for a, b in pairwise(faded))
    by_noise = [metrics.definition(noisy(real, sigma)) for sigma in (0, 0.01, 0.03, 0.05)]
    assert all((a.background < b.background).all() for a, b in pairwise(by_noise))
    shifted = np.roll(real, 11, axis=1)  # a second thought, ever less faint, below the members' threshold
    by_ghost = [metrics.definition(np.maximum(real, grey(shifted * share))) for share in (0, 0.03, 0.06, 0.09)]
    assert all(a.ghost.mean() < b.ghost.mean() for a, b in pairwise(by_ghost))
    assert not metrics.in_range(by_ghost[3], *SIZE).ghost.any()
    ground = [metrics.in_range(metrics.definition(np.maximum(real, level)), *SIZE) for level in np.uint8([1, 2])]
    assert ground[0].background.all() and not ground[1].background.any()


def test_real_rotated_pictures_are_as_sharp_as_base_pictures(real):
    found = metrics.in_range(metrics.definition(real.images), *SIZE)
    assert found.background.all() and found.ghost.all() and np.all(found, axis=0).mean() > 0.97


def test_a_blank_picture_has_no_definition():
    figures = metrics.definition(np.zeros((1, *SIZE), np.uint8))
    assert np.isnan([figures.softness[0], figures.line_contrast[0], figures.ghost[0]]).all()
    assert not metrics.is_sharp(np.zeros((1, *SIZE), np.uint8)).any()
    assert metrics.blends_decidable(128, 512)
    assert not any(metrics.blends_decidable(*size) for size in (SIZE, (48, 512), (128, 192)))


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((2, 48, 192), np.float32),
        np.zeros((2, 48, 192, 1), np.uint8),
        np.zeros((48, 192), np.uint8),
        np.zeros((0, 8, 8), np.uint8),
        [[1]],
    ],
)
def test_other_arrays_are_refused(bad):
    for measure in (metrics.definition, metrics.features, metrics.pairwise_mismatch):
        with pytest.raises(ValueError, match=r"uint8 array \[N, H, W\]"):
            measure(bad)


# Novelty


def without_a_tie(subtype, which):
    """The base picture of width 8 with one hanger, stay or column left out."""
    drawn = geometry.members(bridges.PAPER[subtype])
    ties = [k for k, member in enumerate(drawn) if member.kind in ("hanger", "stay", "column")]
    rest = [member for k, member in enumerate(drawn) if k != ties[which % len(ties)]]
    return raster.draw(rest, bridges.inks(subtype, 8))


@pytest.mark.parametrize(("size", "most"), [((48, 192), 0.032), ((128, 512), 0.003)])
def test_real_pictures_are_known_whatever_their_width(size, most):
    real = data.procedural(*size, per_type=16)
    distances = metrics.mismatch(real.images, metrics.paper_reference(*size))
    assert distances.min(1).max() <= most
    assert (distances.argmin(1) // 75 == real.labels).all()
    # A sub-type that the reference lacks: 0.124 to 0.329 by the author's renders.
    foreign = np.where(np.arange(600)[None, :] // 75 == real.labels[:, None], 1, distances).min(1)
    assert foreign.min() > 0.1 and foreign.max() < 0.36


def test_a_missing_hanger_is_nothing_new_and_a_splice_is():
    reference = metrics.paper_reference(*SIZE)
    one_short = np.stack([without_a_tie(subtype, which) for subtype in bridges.SUBTYPES[2:] for which in (0, 3, 6)])
    assert not any(one.novel for one in metrics.novelty(raster.area_average(one_short, *SIZE), reference))
    kinds = [bridges.render(subtype, 8, *SIZE) for subtype in bridges.SUBTYPES]
    pairs = list(combinations(range(8), 2))
    spliced = np.stack([np.hstack([kinds[a][:, :96], kinds[b][:, 96:]]) for a, b in pairs])
    judged = metrics.novelty(spliced, reference)
    assert all(one.novel and 0.05 < one.mismatch < 0.27 for one in judged)
    for one, (a, b) in zip(judged, pairs, strict=True):
        assert set(one.pair) == {bridges.SUBTYPES[a], bridges.SUBTYPES[b]} and one.pair_share > 0.99
        assert one.kind == ("variant" if one.one_share >= 0.95 else "combination")
        assert one.pair_share >= one.one_share >= max(one.shares)


def test_shapes_that_the_data_do_not_hold():
    picture = np.zeros((2, *SIZE), np.uint8)
    rows = np.arange(48)
    for k in range(10):  # ten steep lines
        picture[0, rows, 10 + 17 * k + rows // 3] = 255
    crossed, blank = metrics.novelty(picture, metrics.paper_reference(*SIZE))
    assert crossed.novel and crossed.kind == "new shape"
    assert blank.kind == "blank" and not blank.novel and blank.nearest is None and blank.mismatch == 1


def test_mismatch_is_what_distance_transforms_say():
    images = np.stack([bridges.render(subtype, 3, *SIZE) for subtype in bridges.SUBTYPES[:5]])
    lines = skeletons(images).toarray().reshape(5, 128, 512) > 0
    away = [np.asarray(ndimage.distance_transform_edt(~one)) for one in lines]
    expected = [
        [1 - ((away[b][lines[a]] <= 3).mean() + (away[a][lines[b]] <= 3).mean()) / 2 for b in range(5)]
        for a in range(5)
    ]
    assert metrics.pairwise_mismatch(images) == pytest.approx(np.array(expected), abs=1e-6)
    own = metrics.reference(images, np.arange(5), bridges.SUBTYPES[:5])
    assert metrics.mismatch(images, own) == pytest.approx(np.array(expected), abs=1e-6)


def test_distinct_keeps_the_first_of_each_type():
    kinds = np.stack([bridges.render(subtype, width, *SIZE) for width in (4, 9) for subtype in bridges.SUBTYPES])
    assert metrics.distinct(kinds).tolist() == list(range(8))
    assert metrics.distinct(kinds[::-1]).tolist() == list(range(8))
    assert metrics.distinct(kinds, threshold=1.0).tolist() == [0]
    assert metrics.distinct(np.zeros((3, *SIZE), np.uint8)).tolist() == [0]


# Fidelity and diversity


def test_frechet_distance_of_known_gaussians():
    a, b = np.diag([4.0, 1.0, 0.0]), np.diag([1.0, 9.0, 4.0])
    apart = metrics.gaussian_distance(np.zeros(3), a, np.array([3.0, 0, 0]), b)
    assert apart == pytest.approx(9 + (2 - 1) ** 2 + (1 - 3) ** 2 + (0 - 2) ** 2)
    random = np.random.default_rng(0)
    wide, shifted = random.standard_normal((20000, 3)) * [2, 1, 1], random.standard_normal((20000, 3)) + 1
    assert metrics.frechet(wide, shifted).value == pytest.approx(3 + 1, rel=0.03)


def test_manifolds_of_points_on_a_line():
    """With k = 1 the real balls reach [-1, 1], [0, 2], [1, 5] and [3, 17], and the generated ones 0.6, 0.6, 0.5 ..."""
    real, fake = np.array([[0.0], [1], [3], [10]]), np.array([[0.5], [1.1], [20], [20.5], [21]])
    found = {name: one.value for name, one in metrics.manifolds(real, fake, k=1).items()}
    assert found == pytest.approx({"precision": 2 / 5, "recall": 2 / 4, "density": 4 / 5, "coverage": 3 / 4})


def test_identical_sets_score_full_marks(sets):
    found = metrics.fidelity(sets[0], sets[0])
    assert found["frechet"].value < 1e-6
    assert all(found[name].value == 1 for name in ("precision", "recall", "coverage"))
    assert found["density"].value >= 1


def test_training_pictures_score_high_and_intervals_hold_the_figure(sets):
    found = metrics.fidelity(sets[0], sets[1])
    assert all(one.low <= one.value <= one.high for one in found.values())
    assert found["coverage"].value > 0.85 and found["recall"].value > 0.95 and found["precision"].value > 0.6
    assert found["precision"].high - found["precision"].low < 0.12
    few = metrics.manifolds(sets[0], sets[1][::12])  # a resample of these covers less than they do
    assert all(one.low <= one.value <= one.high for one in few.values())


@pytest.mark.parametrize("spoil", [blurred, noisy])
def test_fidelity_worsens_with_blur_and_noise(sets, spoil):
    test, train, pictures = sets
    images = pictures.images[::2]
    levels = (0.7, 1.2) if spoil is blurred else (0.03, 0.06)
    found = [metrics.fidelity(test, train[::2])] + [
        metrics.fidelity(test, metrics.features(spoil(images, level))) for level in levels
    ]
    assert all(a["frechet"].value < b["frechet"].value for a, b in pairwise(found))
    for name in ("precision", "recall", "density", "coverage"):
        values = [one[name].value for one in found]
        assert values == sorted(values, reverse=True) and values[0] > values[1]


def test_dropped_subtypes_cost_diversity_not_precision(sets):
    test, train, pictures = sets
    found = [metrics.fidelity(test, train[pictures.labels < kinds]) for kinds in (8, 5, 2)]
    assert all(a["frechet"].value < b["frechet"].value for a, b in pairwise(found))
    for name in ("recall", "coverage"):
        assert all(a[name].value > b[name].value + 0.1 for a, b in pairwise(found))
    assert found[2]["precision"].value == pytest.approx(found[0]["precision"].value, abs=0.15)


def test_collapse_to_one_picture(sets):
    test, train, _ = sets
    healthy, collapsed = metrics.fidelity(test, train), metrics.fidelity(test, np.tile(test[:1], (100, 1)))
    assert collapsed["frechet"].value > 10 * healthy["frechet"].value
    assert collapsed["precision"].value == 1
    assert collapsed["recall"].value < 0.02 and collapsed["coverage"].value < 0.2


def test_the_nearer_to_one_picture_the_worse(sets):
    test, train, _ = sets
    order = np.random.default_rng(0).permutation(len(train))
    found = []
    for share in (0.0, 0.5, 0.9, 0.95, 1.0):
        mixed = train.copy()
        mixed[order[: round(share * len(train))]] = test[0]
        found.append(metrics.fidelity(test, mixed))
    assert all(a["frechet"].value < b["frechet"].value for a, b in pairwise(found))
    # Half of the pictures are enough to reach all real ones, so coverage and recall fall late.
    assert all(a["coverage"].value > b["coverage"].value for a, b in pairwise(found[1:]))
    assert all(a["recall"].value > b["recall"].value for a, b in pairwise(found[1:]))
    assert found[0]["coverage"].value >= found[1]["coverage"].value


def test_copies_of_the_training_set_are_found(sets):
    test, train, _ = sets
    own = metrics.memorisation(test, train, test)
    assert own.share.value == pytest.approx(0.05, abs=0.02) and own.median_ratio == 1
    shares = []
    for copies in (0, 40, 80):
        mixed = np.concatenate([train[:copies], test[: 80 - copies]])
        shares.append(metrics.memorisation(mixed, train, test).share.value)
    assert shares == sorted(shares) and shares[0] < 0.1 and shares[1] > 0.5 and shares[2] == 1
    assert metrics.memorisation(train[:80], train, test).median_ratio < 1e-3


def test_features_do_not_depend_on_the_size_of_the_picture():
    large = np.stack([bridges.render(subtype, 8, 128, 512) for subtype in bridges.SUBTYPES])
    small = np.stack([bridges.render(subtype, 8, *SIZE) for subtype in bridges.SUBTYPES])
    apart = np.linalg.norm(metrics.features(large)[:, None] - metrics.features(small)[None], axis=2)
    assert (apart.argmin(1) == np.arange(8)).all()
    assert apart.diagonal().max() < np.sort(apart + 9 * np.eye(8), axis=None)[0]


def test_features_are_the_documented_numbers():
    """Recomputed the long way: blur of sigma 1 on 96 x 384, slopes, dead zone, cells, compression."""
    image = bridges.render("fan_cable_stayed", 8, *SIZE)
    taps = np.exp(-0.5 * np.arange(-3, 4) ** 2)
    smooth = ndimage.convolve(np.kron(image / 255, np.ones((2, 2))), np.outer(taps, taps) / taps.sum() ** 2)
    down, right = np.gradient(smooth)
    angles = np.arange(4) * np.pi / 4
    steep = [np.abs(np.cos(angle) * right + np.sin(angle) * down) for angle in angles]
    cells = np.maximum(np.array(steep) - 0.004, 0).reshape(4, 8, 12, 16, 24).mean((2, 4))
    assert metrics.features(image[None])[0] == pytest.approx((cells / (cells + 0.02)).ravel(), abs=1e-5)


def test_too_few_or_unlike_features_are_refused(sets):
    with pytest.raises(ValueError, match="more than 5"):
        metrics.manifolds(sets[0], sets[0][:5])
    for other in (sets[0][:, :7], sets[0][:1], np.full((9, 512), np.nan)):
        with pytest.raises(ValueError, match="two sets of features"):
            metrics.fidelity(sets[0], other)


def test_shares_of_subtypes():
    found = metrics.shares(["beam", "beam", None, "arch"], ("beam", "arch", "cable"))
    assert [one.value for one in found.values()] == [0.5, 0.25, 0]
    assert found["beam"].low < 0.5 < found["beam"].high


def test_the_interval_of_a_share_says_something_of_none_and_of_all():
    # Wilson's bounds of n hits of n, and of none: n / (n + z^2) and z^2 / (n + z^2).
    every, none = metrics.share(np.ones(160, bool)), metrics.share(np.zeros(160, bool))
    assert every == pytest.approx((1, 160 / (160 + 1.959964**2), 1))
    assert none == pytest.approx((0, 0, 1.959964**2 / (160 + 1.959964**2)))


# Energies and chains


def test_auc_counts_pairs():
    assert metrics.auc(np.array([0.0, 1]), np.array([2.0, 3])) == 1
    assert metrics.auc(np.array([2.0, 3]), np.array([0.0, 1])) == 0
    assert metrics.auc(np.array([0.0, 2]), np.array([1.0, 2])) == (1 + 1 + 0 + 0.5) / 4
    random = np.random.default_rng(0)
    far = metrics.auc(random.standard_normal(4000), random.standard_normal(4000) + 1)
    assert far == pytest.approx(0.7602, abs=0.02)  # normal distribution function at 1 / sqrt 2
    assert np.isnan(metrics.auc(np.array([np.nan]), np.array([1.0])))
    with pytest.raises(ValueError, match="two lists of energies"):
        metrics.auc(np.zeros((2, 2)), np.zeros(2))


def test_ink_kept_counts_what_stays_in_place():
    before = bridges.render("beam", 8, *SIZE)[None]
    faded, moved, more = grey(before * 0.8), np.roll(before, 24, axis=1), np.full_like(before, 255)
    assert metrics.ink_kept(before, before) == 1
    assert metrics.ink_kept(before, faded) == pytest.approx(0.8, abs=0.01)
    assert metrics.ink_kept(before, moved) < 0.3
    assert metrics.ink_kept(before, more) == 1
    assert np.isnan(metrics.ink_kept(np.zeros_like(before), before)).all()
    with pytest.raises(ValueError, match="the same pictures"):
        metrics.ink_kept(before, before[:, :40])


def test_corruptions_spoil_what_they_say(real):
    images = real.images[::40]
    spoilt = {name: spoil(images) for name, spoil in corruptions.CORRUPTIONS.items()}
    assert all(one.shape == images.shape and one.dtype == np.uint8 for one in spoilt.values())
    assert not metrics.is_sharp(spoilt["blurred"]).any() and not metrics.is_sharp(spoilt["noisy"]).any()
    assert all(structure.analyse(one).verdict == "C" for one in spoilt["cut"])
    assert np.mean([one.novel for one in metrics.novelty(spoilt["averaged"], metrics.paper_reference(*SIZE))]) > 0.5
