import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from bridge_ebm import compose, energy
from bridge_ebm.langevin import energy_and_gradient, uniform_images
from bridge_ebm.multiscale import MultiscaleEnergy
from bridge_ebm.studio import Studio, on_device

SHAPE = (6, 8, 1)


def well(centre, stiffness, images):
    """E = stiffness / 2 * |x - centre|^2."""
    return 0.5 * stiffness * ((images - centre) ** 2).sum((1, 2, 3))


def ripples(images):
    """An energy whose gradient at a pixel depends on the pixels around it."""
    return jnp.sin(2 * images + jnp.roll(images, 1, 2) * jnp.roll(images, 1, 1)).sum((1, 2, 3))


def bowl(centre=0.0, stiffness=1.0):
    return Partial(well, jnp.float32(centre), jnp.float32(stiffness))


def start(count=3, shape=SHAPE, seed=0):
    return uniform_images(jax.random.key(seed), (count, *shape))


def gradient(energy, images):
    return np.asarray(energy_and_gradient(energy, images)[1])


def test_conjunction_of_bowls_is_the_bowl_of_the_product():
    # Precisions add and centres are weighted by them.
    both = compose.conjunction([bowl(0.5, 2.0), bowl(-0.25, 1.0)], [1.0, 2.0])
    images = start()
    np.testing.assert_allclose(gradient(both, images), 4 * (images - (2 * 0.5 - 2 * 0.25) / 4), atol=1e-5)


def test_disjunction_of_bowls_is_the_mixture():
    temperature, images = 0.5, start()
    either = compose.disjunction([bowl(0.5), bowl(-0.5)], [0.25, 0.75], temperature)
    density = sum(
        weight * np.exp(-np.asarray(bowl(centre)(images), float) / temperature)
        for weight, centre in ((0.25, 0.5), (0.75, -0.5))
    )
    np.testing.assert_allclose(either(images), -temperature * np.log(density), rtol=1e-5)
    # At low temperature it is the lower of the two.
    cold = compose.disjunction([bowl(0.5), bowl(-0.5)], temperature=1e-3)
    np.testing.assert_allclose(cold(images), np.minimum(bowl(0.5)(images), bowl(-0.5)(images)), rtol=1e-4)


def test_negation_turns_the_gradient_round_and_stays_within_its_bound():
    images = start()
    level = float(bowl()(images)[0])
    unwanted = compose.negation(bowl(), level, strength=0.7, bound=2.0)
    np.testing.assert_allclose(gradient(unwanted, images)[0], -0.7 * np.asarray(images)[0], rtol=1e-4, atol=1e-6)
    far = unwanted(jnp.concatenate([100 * images, 0 * images]))
    assert np.abs(far).max() <= 2.0 and far[0] == -2.0 and far[-1] > 0


def test_temperature_divides_the_energy():
    images = start()
    np.testing.assert_allclose(compose.tempered(bowl(), 4.0)(images), bowl()(images) / 4, rtol=1e-6)


def doubled(energy, images):
    return 2 * energy(images)


def test_one_of_gives_every_image_its_own_energy_and_keeps_what_is_shared_once():
    shared = jnp.ones((1, *SHAPE))
    kinds = [Partial(well, shared, jnp.float32(k)) for k in (1, 2, 3)]
    images, index = start(4), jnp.array([2, 0, 1, 2])
    mixed = compose.one_of(kinds, index)
    wanted = np.array([kinds[k](images[b : b + 1])[0] for b, k in enumerate(index)])
    np.testing.assert_allclose(mixed(images), wanted, rtol=1e-6)
    weights = [leaf for leaf in jax.tree.leaves(mixed) if leaf.shape == (1, *SHAPE)]
    assert len(weights) == 1
    twice = [Partial(doubled, kind) for kind in kinds]
    np.testing.assert_allclose(compose.one_of(twice, index)(images), 2 * wanted, rtol=1e-6)
    # Networks that are equal are one function, though made one by one.
    variables = energy.init_variables(MultiscaleEnergy(2, 2), jax.random.key(0), *SHAPE[:2])
    zero, one = (energy.energy_function(MultiscaleEnergy(2, 2), variables["params"], {}, jnp.int32(k)) for k in (0, 1))
    which = jnp.array([1, 1, 0, 1])
    found = compose.one_of([Partial(doubled, zero), Partial(doubled, one)], which)(images)
    alone = [(one if told else zero)(images[b : b + 1])[0] for b, told in enumerate(which)]
    np.testing.assert_allclose(found, 2 * np.array(alone), rtol=1e-6)
    other = energy.energy_function(MultiscaleEnergy(2, 2, 1), variables["params"], {}, jnp.int32(1))
    for energies in ([zero, other], [Partial(doubled, zero), Partial(doubled, other)]):
        with pytest.raises(ValueError, match="energies of one function"):
            compose.one_of(energies, which)
    with pytest.raises(ValueError, match="energies of one function"):
        compose.one_of([kinds[0], Partial(ripples)], index)


def test_the_lowest_of_energies_is_their_least_above_its_level_and_moves_as_that_one_does():
    kinds, levels = [bowl(-0.5, 1.0), bowl(0.0, 2.0), bowl(0.5, 1.0)], [0.0, 4.0, 1.0]
    images = start(40)
    above = np.stack([kind(images) - level for kind, level in zip(kinds, levels, strict=True)])
    which = above.argmin(0)
    assert set(which) == {0, 1, 2}
    lowest = compose.lowest(kinds, levels)
    np.testing.assert_allclose(lowest(images), above.min(0), rtol=1e-6)
    np.testing.assert_allclose(gradient(lowest, images), gradient(compose.one_of(kinds, which), images), rtol=1e-6)
    almost = compose.disjunction(kinds, np.exp(np.array(levels) / 0.05), temperature=0.05)
    np.testing.assert_allclose(lowest(images), almost(images), atol=0.06)
    with pytest.raises(ValueError, match="lowest takes energies of one function"):
        compose.lowest([bowl(), Partial(ripples)], [0.0, 0.0])


def test_gradient_of_a_regional_composition_is_the_masked_mixture():
    columns, rows = compose.span_masks(8, (3.0, 6.0)), compose.deck_masks(6, 8)
    masks = compose.cells(rows, columns)
    energies = [Partial(ripples), *(bowl(0.1 * k, k) for k in range(1, 6))]
    images = start()
    mixture = sum(mask * gradient(energy, images) for mask, energy in zip(masks, energies, strict=True))
    value, ours = energy_and_gradient(compose.regional(energies, masks), images)
    np.testing.assert_allclose(ours, mixture, atol=1e-6)
    np.testing.assert_array_equal(value, sum(energy(images) for energy in energies))
    # The mixture is not the gradient of the value, nor of the masked energies.
    assert np.abs(mixture - gradient(compose.conjunction(energies), images)).max() > 0.1


def test_every_image_may_have_its_own_regions():
    masks = np.stack([compose.cells(np.ones((1, 6)), compose.span_masks(8, (seam,))) for seam in (2.0, 5.0)], axis=1)
    images = start(2)
    ours = gradient(compose.regional([Partial(ripples), bowl()], masks), images)
    for b in range(2):
        alone = compose.regional([Partial(ripples), bowl()], masks[:, b])
        np.testing.assert_allclose(ours[b], gradient(alone, images)[b], atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(48, 192), (128, 512)])
def test_masks_are_a_partition_of_unity_with_seams_that_scale(height, width):
    masks = compose.cells(compose.deck_masks(height, width), compose.span_masks(width, (width / 4, 3 * width / 4)))
    assert masks.shape == (6, height, width, 1) and masks.min() >= 0
    np.testing.assert_allclose(masks.sum(0), 1, atol=1e-6)
    np.testing.assert_allclose(masks[0], masks[2][:, ::-1], atol=1e-6)
    across = compose.span_masks(width, (width / 4,))[1]
    # The logistic function passes from 0.25 to 0.75 in 2 ln 3 of its scale, here 1.5 pixels of 192.
    centres = np.interp([0.25, 0.75], across, np.arange(width) + 0.5)
    assert np.diff(centres)[0] / width * 192 == pytest.approx(2 * np.log(3) * 1.5, rel=0.1)


def test_companions_are_a_true_energy_of_whole_pictures_that_agree_where_tied():
    def waves(frequency, images):
        return jnp.sin(frequency * images + jnp.roll(images, 1, 2)).sum((1, 2, 3))

    kinds = [Partial(waves, jnp.float32(frequency)) for frequency in (1, 2, 3)]
    tie = np.zeros((3, *SHAPE), np.float32)
    tie[0, 2:4], tie[2, 2:4] = 0.9, 0.3
    energy, images = compose.companions(kinds, tie), start(2, (18, 8, 1))
    parts = [images[:, :6], images[:, 6:12], images[:, 12:]]
    mean = 0.75 * parts[0] + 0.25 * parts[2]
    wanted = sum(np.asarray(kind(part)) for kind, part in zip(kinds, parts, strict=True))
    for stiffness, part in ((0.9, parts[0]), (0.3, parts[2])):
        wanted = wanted + 0.5 * stiffness * ((part - mean) ** 2)[:, 2:4].sum((1, 2, 3))
    np.testing.assert_allclose(energy(images), wanted, rtol=1e-5)
    # The gradient is that of the value: compare with a finite difference along it.
    slope = gradient(energy, images)
    way = slope / np.sqrt((slope**2).sum((1, 2, 3), keepdims=True))
    rise = (energy(images + 1e-2 * way) - energy(images - 1e-2 * way)) / 2e-2
    np.testing.assert_allclose(rise, (way * slope).sum((1, 2, 3)), rtol=2e-3)
    with pytest.raises(ValueError, match="3 energies need as many ties"):
        compose.companions(kinds, tie[:2])


def test_joined_companions_are_each_itself_in_its_region():
    masks = compose.cells(np.ones((1, 6)), compose.span_masks(8, (4.0,)))
    images = start(2, (12, 8, 1))
    joined = compose.join(images, masks)
    np.testing.assert_allclose(joined, masks[:1] * images[:, :6] + masks[1:] * images[:, 6:], atol=1e-6)


def test_halves_see_the_left_half_and_the_mirrored_right_half():
    ramp = jnp.arange(4.0).reshape(1, 1, 4, 1)
    energy = compose.halves(lambda x: (ramp * x).sum((1, 2, 3)), lambda x: (10 * ramp * x).sum((1, 2, 3)))
    wanted = np.broadcast_to(np.array([0, 1, 2, 3, 30, 20, 10, 0.0])[:, None], SHAPE)
    np.testing.assert_allclose(gradient(energy, start())[0], wanted)


def test_weld_pulls_mirror_images_together_where_it_is_stiff():
    stiffness = np.zeros((6, 4, 1), np.float32)
    stiffness[:, 2:] = 0.5
    images = start()
    pull = gradient(compose.weld(stiffness), images)
    np.testing.assert_allclose(pull[:, :, 2], 0.5 * (images[:, :, 2] - images[:, :, 5]), atol=1e-6)
    np.testing.assert_allclose(pull, -pull[:, :, ::-1], atol=1e-6)
    assert not pull[:, :, :2].any()


def test_projections_are_exact_idempotent_and_orthogonal():
    mask = np.zeros(SHAPE, bool)
    mask[2] = True
    picture = np.full(SHAPE, 0.3, np.float32)
    images = start()
    for projection in (compose.held(mask, picture), compose.mirrored()):
        once = projection(images)
        np.testing.assert_array_equal(projection(once), once)
        other = projection(start(seed=1))
        # What is removed is perpendicular to every way along the constraint.
        np.testing.assert_allclose(((images - once) * (once - other)).sum(), 0, atol=1e-4)
    both = compose.in_turn([compose.mirrored(), compose.held(mask, picture)])(images)
    np.testing.assert_array_equal(both, both[:, :, ::-1])
    np.testing.assert_array_equal(both[:, 2], np.broadcast_to(picture[2], (3, 8, 1)))


def test_restricted_energy_pulls_only_along_the_constraint():
    mask = np.zeros(SHAPE, bool)
    mask[:, :3] = True
    energy = compose.restricted(Partial(ripples), compose.held(mask, np.zeros(SHAPE)))
    images = start()
    pull = gradient(energy, images)
    assert not pull[:, :, :3].any() and pull[:, :, 3:].any()
    symmetric = gradient(compose.restricted(bowl(0.4), compose.mirrored()), images)
    np.testing.assert_allclose(symmetric, (images + images[:, :, ::-1]) / 2 - 0.4, atol=1e-6)


def test_boxed_energy_is_itself_inside_and_a_spring_outside():
    energy = compose.boxed(bowl(0.5), stiffness=3.0)
    images = start()
    np.testing.assert_array_equal(energy(images), bowl(0.5)(images))
    beyond = images.at[:, 0, 0].set(1.5)
    extra = energy(beyond) - bowl(0.5)(beyond.clip(-1, 1))
    np.testing.assert_allclose(extra, 0.5 * 3 * 0.25, rtol=1e-4)


def test_new_weights_masks_and_energies_of_one_kind_compile_nothing():
    count = []

    @jax.jit
    def evaluate(energy, images):
        count.append(1)
        return energy(images)

    for k in range(3):
        masks = compose.cells(np.ones((1, 6)), compose.span_masks(8, (2.0 + k,)))
        parts = [bowl(0.1 * k), compose.one_of([bowl(0.2), bowl(0.4 * k)], np.array([k % 2, 0, 1]))]
        sums = compose.conjunction([compose.regional(parts, masks), compose.negation(bowl(k), k)], [1.0, 0.1 * k])
        evaluate(
            compose.restricted(compose.disjunction([sums, bowl()]), compose.held(masks[0] > 0.5, masks[1])), start()
        )
    assert len(count) == 1


@pytest.mark.parametrize("weights", [[1.0], [1.0, np.nan]])
def test_weights_that_do_not_fit_are_refused(weights):
    with pytest.raises(ValueError, match="2 energies need as many finite weights"):
        compose.conjunction([bowl(), bowl()], weights)
    with pytest.raises(ValueError, match="at least one"):
        compose.disjunction([])


@pytest.mark.parametrize(("weights", "temperature"), [([1.0, -1.0], 1.0), ([1.0, 0.0], 1.0), (None, 0.0)])
def test_a_mixture_without_a_positive_share_of_each_is_refused(weights, temperature):
    with pytest.raises(ValueError, match="weights and a temperature above 0"):
        compose.disjunction([bowl(0.1), bowl(0.2)], weights, temperature)


def test_on_another_device_energies_still_share_their_weights():
    weights = jnp.ones((3, 3))

    def energy_fn(weights, label, images):
        return label * (weights * images[:, :3, :3, 0]).sum((1, 2))

    energies = tuple(Partial(energy_fn, weights, jnp.float32(label)) for label in range(3))
    studio = Studio(**dict.fromkeys(Studio._fields))._replace(energies=energies, projection=Partial(jnp.abs))
    placed = on_device(studio, jax.devices()[0])
    alike, own = compose.one_of(placed.energies, np.arange(3)).args[:2]
    assert own.args[0] is None and own.args[1].shape == (3,)
    np.testing.assert_array_equal(alike.args[0], weights)


def test_ink_is_charged_by_grey_and_a_step_takes_the_faintest_away():
    price, faint = compose.ink(0.5), jnp.full((1, *SHAPE), -0.99)
    np.testing.assert_allclose(price(faint), 0.5 * 0.01 * 48, rtol=1e-4)
    np.testing.assert_allclose(gradient(price, faint), 0.5)
    # With a spring back to grey -0.99 the clip at -1 still wins; a line of grey 0.5 loses the price over the stiffness.
    drawn = faint.at[:, 2].set(0.5)
    energy = compose.conjunction([Partial(well, drawn, jnp.float32(20)), price])
    images = drawn
    for _ in range(200):
        images = jnp.clip(images - 0.01 * gradient(energy, images), -1, 1)
    np.testing.assert_allclose(images[:, 2], 0.5 - 0.5 / 20, rtol=1e-4)
    np.testing.assert_array_equal(images[:, 0], -1)
