"""Gradient regression and its contrastive finish."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import flagsaver
from flax import linen as nn
from scipy.optimize import linear_sum_assignment

import bridge_ebm
from bridge_ebm import (
    checkpoint,
    data,
    discovery,
    energy,
    finish,
    langevin,
    models,
    objectives,
    plans,
    regression,
    runs,
)
from bridge_ebm.errors import InputError
from bridge_ebm.optimizer import make_optimizer, make_schedule, moved_average
from bridge_ebm.settings import TrainSettings
from bridge_ebm.state import init_state, network_of
from bridge_ebm.train import check_finish, make_train_step
from bridge_ebm.workdir import read_metrics

pytestmark = pytest.mark.usefixtures("compiled_quickly")
CLASSES = 8


step_of = functools.cache(lambda settings: make_train_step(settings, CLASSES))


@pytest.fixture(scope="module")
def held(small):
    """A run whose finish holds pictures: the buffer has where its chains began, too."""
    return dataclasses.replace(small, finish_hold=1.0)


@pytest.fixture(scope="module")
def dataset(small):
    return data.mirror_halves(data.procedural(small.height, small.width, per_type=small.per_type))


def test_the_well_around_a_picture_has_no_error_close_to_it():
    """Near the picture the target is 20 (1 - t)(x1 - x0) = -20 (x_t - x1): the slope of 10 |x - x1|^2."""
    noise, real = (jax.random.normal(jax.random.key(k), (3, 4, 6, 1)) for k in range(2))
    t = jnp.array([0.81, 0.9, 0.99])
    mixed = noise + t[:, None, None, None] * (real - noise)
    np.testing.assert_allclose(
        objectives.regression_error(20 * (mixed - real), noise, real, t, "equilibrium"), 0, atol=1e-9
    )
    far = objectives.regression_error(20 * (mixed - real), noise, real, t - 0.5, "equilibrium")
    assert far.min() > 0.05


def test_target_speeds():
    t = np.array([0.0, 0.5, 0.8, 0.9, 1.0])
    np.testing.assert_allclose(objectives.target_speed(t, "equilibrium"), [4, 4, 4, 2, 0], atol=1e-12)
    np.testing.assert_array_equal(objectives.target_speed(t, "energy_matching"), np.ones(5))


def test_the_margin_moves_black_and_white_and_no_grey():
    images = data.to_unit(np.array([[[0, 1, 64, 128, 254, 255]]], np.uint8))
    moved = objectives.beyond(jnp.asarray(images), 0.03).ravel()
    np.testing.assert_allclose(moved[jnp.array([0, 5])], [-1.03, 1.03], rtol=1e-6)
    np.testing.assert_array_equal(moved[1:5], images.ravel()[1:5])
    np.testing.assert_array_equal(objectives.beyond(jnp.asarray(images), 0.0), images)


def test_the_ink_margin_gives_greys_more_ink_in_proportion_and_none_more_than_white():
    levels = np.array([0, 1, 64, 128, 254, 255])
    moved = objectives.beyond(jnp.asarray(data.to_unit(levels.astype(np.uint8)[None, None])), 0.03, 0.25).ravel()
    np.testing.assert_allclose(moved[jnp.array([0, 5])], [-1.03, 1.03], rtol=1e-6)
    np.testing.assert_allclose((moved[1:4] + 1) / 2, 1.25 * levels[1:4] / 255, rtol=1e-5)
    np.testing.assert_allclose(moved[4], 1.03, rtol=1e-6)


def test_noise_is_paired_by_optimal_transport_within_each_class():
    noise, real = (jax.random.normal(jax.random.key(k), (12, 3, 5, 1)) for k in range(2))
    labels = jnp.arange(12) % 3
    paired = np.asarray(regression.paired_noise(noise, real, labels))
    for label in range(3):
        mine = np.flatnonzero(np.asarray(labels) == label)
        cost = np.square(np.asarray(noise)[mine, None] - np.asarray(real)[None, mine]).sum((2, 3, 4))
        rows, columns = linear_sum_assignment(cost)
        expected = np.empty_like(paired[mine])
        expected[columns] = np.asarray(noise)[mine][rows]
        np.testing.assert_array_equal(paired[mine], expected)


@pytest.mark.parametrize(
    "changes",
    [{"unconditional": 1.0}, {"conditional": False}],
    ids=["no class is told", "no classes"],
)
def test_pictures_without_a_class_choose_among_all_their_noise_and_begin_there(small, dataset, monkeypatch, changes):
    seen, told = [], []
    starts = regression.starts

    def begun(key, pictures, labels, known, no_class, *share):
        jax.debug.callback(lambda known: told.append(set(np.asarray(known)) | {no_class}), known)
        return starts(key, pictures, labels, known, no_class, *share)

    def recorded(noise, real, labels):
        jax.debug.callback(lambda labels: seen.append(set(np.asarray(labels))), labels)
        return noise

    monkeypatch.setattr(regression, "paired_noise", recorded)
    monkeypatch.setattr(regression, "starts", begun)
    settings = dataclasses.replace(small, finish_after=0, **changes)
    state, _ = make_train_step(settings, CLASSES)(init_state(settings, CLASSES), data.examples(dataset))
    jax.effects_barrier()
    assert seen == told == [{CLASSES}]  # to `starts` this class is none, so no path begins at another picture
    # What the network has for each class is zero before training: only that of "no class" has moved.
    embeddings = [layer["embedding"] for name, layer in state.params.items() if name.startswith("Embed")]
    assert len(embeddings) == (2 if settings.conditional else 0)
    assert all(rows[CLASSES].any() and not rows[:CLASSES].any() for rows in embeddings)


def test_paths_of_a_class_begin_at_noise_or_towards_pictures_of_other_classes():
    labels = np.arange(64) % CLASSES
    told = np.where(np.arange(64) % 5 == 0, CLASSES, labels)
    # A picture of class k is bright at pixel k, far beyond what noise is, so a start tells towards which it lies.
    pictures = 1e6 * jax.nn.one_hot(labels, CLASSES).reshape(64, 2, 4, 1)
    draw = jax.vmap(lambda key, told: regression.starts(key, pictures, jnp.array(labels), told, CLASSES), (0, None))
    keys = jax.random.split(jax.random.key(0), 800)
    begin = np.asarray(draw(keys, told)).reshape(800, 64, CLASSES)
    crossed = begin.max(-1) > 1
    towards = begin.argmax(-1)
    assert not crossed[:, told == CLASSES].any() and (towards != told)[crossed].all()
    assert (np.abs(begin[~crossed]) <= 1).all() and begin[~crossed].std() == pytest.approx(3**-0.5, rel=0.01)
    # An eighth of the pictures drawn for a start are of its own class.
    assert crossed[:, told != CLASSES].mean() == pytest.approx(regression.CROSSED * 7 / 8, abs=0.01)
    spread = np.sqrt(1 - begin.max(-1)[crossed] / 1e6)  # uniform, where the part of the way is 1 - u^2
    assert np.quantile(spread, [0.25, 0.5, 0.75]) == pytest.approx([0.25, 0.5, 0.75], abs=0.02)
    assert (np.abs(np.asarray(draw(keys, jnp.full(64, CLASSES)))) <= 1).all()


def test_a_network_that_knows_classes_learns_from_such_paths(small, dataset, monkeypatch):
    settings = dataclasses.replace(small, finish_after=0)
    learnt = []
    for crossed in (0.0, 1.0):
        monkeypatch.setattr(regression, "CROSSED", crossed)
        step = make_train_step(settings, CLASSES)
        learnt.append(step(init_state(settings, CLASSES), data.examples(dataset))[0].params)
    assert not all(jax.tree.leaves(jax.tree.map(np.array_equal, *learnt)))


def test_pictures_are_blended_with_their_neighbours_where_that_is_asked_for(small, dataset, monkeypatch):
    seen = []

    def recorded(noise, real, labels):
        jax.debug.callback(lambda real: seen.append(np.asarray(real)), real)
        return noise

    monkeypatch.setattr(regression, "paired_noise", recorded)
    settings = dataclasses.replace(small, finish_after=0)
    for blend in (False, True):
        examples = data.examples(dataset, blend=blend)
        make_train_step(settings, CLASSES)(init_state(settings, CLASSES), examples)
    jax.effects_barrier()
    plain, blended = seen
    found = {picture.tobytes(): place for place, picture in enumerate(dataset.images)}
    places = [found[picture.tobytes()] for picture in data.to_uint8(plain)]
    beside = data.neighbours(dataset)[places]
    way = data.to_unit(dataset.images[beside]) - plain
    products, squares = ((way * other).sum((1, 2, 3)) for other in (blended - plain, way))
    share = np.where(beside != places, products / np.maximum(squares, 1e-9), 0.0)
    np.testing.assert_allclose(blended, plain + share[:, None, None, None] * way, atol=1e-5)
    moved = share[beside != places]
    assert len(set(moved)) == len(moved) > 2 and moved.min() > 0 and moved.max() < 1


def test_half_of_the_places_begin_afresh_seldom():
    keys = jax.random.split(jax.random.key(0), 4000)
    places = jnp.array([0, 8, 9, 17, 18, 26, 27, 3, 12])
    begun = np.asarray(jax.vmap(lambda key: finish.begin_afresh(key, places, 7, 8))(keys))
    assert begun[:, [0, 1, 4, 5]].all() and not begun[:, 7:].any()
    np.testing.assert_allclose(begun[:, [2, 3, 6]].mean(0), 1 / finish.SELDOM, atol=0.02)


def short_finish(small, level):
    """A finish in which one of six chains begins afresh, at a picture, and that levels energies so much."""
    return dataclasses.replace(small, finish_after=1, finish_weight=0.01, finish_level=level, restart=0.1)


def test_a_finish_trains_that_begins_no_chain_at_noise(small, dataset):
    settings = short_finish(small, 0.0)
    assert settings.fresh_chains == 1
    step, state = step_of(settings), init_state(settings, CLASSES)
    for _ in range(2):
        state, metrics = step(state, data.examples(dataset))
    assert np.isfinite(metrics.cdiv) and metrics.moved > 0


def test_pictures_for_a_class_are_any_of_it_and_for_no_class_any_at_all():
    greys = np.arange(2 * CLASSES)  # two pictures of each class, each of a grey of its own
    pictures = np.broadcast_to(np.uint8(greys)[:, None, None], (len(greys), 2, 2))
    examples = data.Examples(jnp.asarray(pictures), jnp.asarray(greys % CLASSES))

    def shown(label):
        keys = jax.random.split(jax.random.key(label), 200)
        found = finish._pictures_for(keys, jnp.full(200, label), examples, CLASSES)
        assert found.shape == (200, 2, 2, 1)
        return set(data.to_uint8(np.asarray(found)).ravel().tolist())

    assert all(shown(label) == {label, label + CLASSES} for label in (0, 3, CLASSES - 1))
    assert shown(CLASSES) == set(greys.tolist())
    examples = examples._replace(labels=examples.labels // 2 * 2)  # no picture of class 3
    assert shown(3) == set(greys.tolist())


def test_fresh_chains_of_the_finish_begin_where_they_arrive_and_at_pictures_of_their_class(small, dataset):
    settings = dataclasses.replace(small, finish_chains=8, restart=0.75)  # six begin afresh, three of them at noise
    begun = []

    def arrive(key, images, labels):
        begun.append((np.asarray(images), labels.tolist()))
        return jnp.full_like(images, 7.0)

    places = jnp.array([3, 8, 5, 0, 6, 2, 1, 4])  # none of them keeps old chains
    starts, examples = jnp.full((8, 16, 16, 1), -7.0), data.examples(dataset)
    kept = starts, starts - 1
    after, origins = finish._restarted(jax.random.key(0), kept, places, examples, arrive, settings, CLASSES, None)
    ((noise, labels),) = begun
    assert labels == [3, 8, 5] and np.abs(noise).max() <= 1
    assert noise.std() == pytest.approx(3**-0.5, rel=0.05)
    assert (after[:3] == 7).all() and (after[6:] == -7).all()
    of_class = {picture.tobytes(): label for picture, label in zip(dataset.images, dataset.labels, strict=True)}
    assert [of_class[picture.tobytes()] for picture in np.asarray(data.to_uint8(after[3:6]))] == [0, 6, 2]
    # A chain from noise began near no picture: at one that is all white.
    assert (origins[:3] == 1).all() and (origins[3:6] == after[3:6]).all() and (origins[6:] == -8).all()


class Wells(nn.Module):
    """A bowl for every class, the last of them "no class", about a picture that is its weight; compiled in no time."""

    @nn.compact
    def __call__(self, images, labels=None):
        centres = self.param("centres", nn.initializers.uniform(1.0), (CLASSES + 1, *images.shape[1:]))
        return 20 * jnp.tanh(0.5 * ((images - centres[labels]) ** 2).mean((1, 2, 3)))


@pytest.fixture(scope="module")
def finishing(small, dataset):
    """What `finish.gradient` takes: settings in which floor and trim both count, and a state amid the finish."""
    settings = dataclasses.replace(
        small, finish_weight=0.03, finish_floor=0.5, finish_trim=0.2, finish_level=0.7, step_size=4.0
    )
    told = jnp.arange(18) % (CLASSES + 1)  # two real pictures of each class
    images = jax.random.uniform(jax.random.key(5), (18, 16, 16, 1), minval=-1.0)
    params = Wells().init(jax.random.key(0), images, told)["params"]
    # Those of some classes lie so low that fakes are let go, those of the others above them.
    real = jnp.where((told % 2 == 0)[:, None, None, None], 0.9 * params["centres"][told], images)
    state = init_state(small, CLASSES)._replace(step=jnp.int32(9), params=params, batch_stats={})
    return settings, state, data.examples(dataset), data.Examples(real, told)


def finish_gradient(settings):
    return functools.partial(finish.gradient, network=Wells(), settings=settings, num_classes=CLASSES, mesh=None)


def test_the_finishs_gradient_is_that_of_its_term_at_the_ends_of_its_chains(finishing):
    settings, state, examples, real = finishing
    found = jax.jit(finish_gradient(settings))(jax.random.key(3), state, examples, real)
    before, after = np.asarray(state.buffer.images), np.asarray(found.buffer.images)
    places = np.flatnonzero((before != after).any((1, 2, 3)))  # where the chains have left their ends
    assert len(places) == settings.finish_chains
    fake, of_fake = after[places], places % (CLASSES + 1)

    def term(params, floor=settings.finish_floor, trim=settings.finish_trim):
        of_real = Wells().apply({"params": params}, real.images, real.labels)
        energies = of_real, Wells().apply({"params": params}, fake, of_fake)
        loss, *means = objectives.floored_contrast(energies, (real.labels, jnp.asarray(of_fake)), floor, trim)
        uneven = objectives.unevenness(of_real, real.labels, real.labels != CLASSES)
        return loss + settings.finish_level * uneven, means

    (loss, means), slope = jax.value_and_grad(term, has_aux=True)(state.params)
    np.testing.assert_allclose([found.contrast, found.real, found.fake], [loss, *means], rtol=1e-4)
    assert abs(found.fake) > 0.1 and found.real != found.fake
    np.testing.assert_allclose(
        found.gradient["centres"], settings.finish_weight * slope["centres"], rtol=1e-3, atol=1e-9
    )
    # Here both constants count: without the one or the other the term has another value.
    assert len({float(term(state.params, *constants)[0]) for constants in ((0.5, 0.2), (50.0, 0.2), (0.5, 0))}) == 3


def test_the_finishs_fresh_chains_arrive_in_steps_of_their_own_number(finishing, monkeypatch):
    settings, *arguments = finishing
    run = []

    def recorded(keys, starts, energy_fn, chains, labels, at_once):
        run.append((len(starts), chains.num_steps))
        return starts

    monkeypatch.setattr(langevin, "run_chains", recorded)
    jax.eval_shape(finish_gradient(settings), jax.random.key(3), *arguments)
    fresh = settings.fresh_chains // 2
    assert run == [(fresh, settings.finish_arrival), (settings.finish_chains, settings.langevin_steps)]
    assert fresh and settings.finish_arrival != settings.langevin_steps


def contrast(real, fake, of_real=None, of_fake=None, floor=5.0, trim=0.25):
    of_real = jnp.zeros(len(real), int) if of_real is None else jnp.array(of_real)
    of_fake = jnp.zeros(len(fake), int) if of_fake is None else jnp.array(of_fake)
    return objectives.floored_contrast((jnp.array(real), jnp.array(fake)), (of_real, of_fake), floor, trim)


def slopes(real, fake, *labels, **constants):
    """The derivatives of the contrast in each real and each fake energy."""
    return jax.grad(lambda pair: contrast(*pair, *labels, **constants)[0])((jnp.array(real), jnp.array(fake)))


def test_the_finish_drops_the_highest_fakes_and_lets_go_at_the_floor():
    real, fake = [1.0, 3.0], [0.0, 2.0, 4.0, 100.0]
    assert [float(value) for value in contrast(real, fake)] == [0.0, 2.0, 2.0]
    np.testing.assert_allclose(slopes(real, fake)[1], [-1 / 3, -1 / 3, -1 / 3, 0], rtol=1e-6)
    assert not slopes(real, [value + 10 for value in fake])[1].any()


def test_the_finish_compares_fakes_with_real_pictures_of_their_own_class():
    real, of_real, fake, of_fake = [1.0, 3.0, 0.0], [0, 0, 1], [1.0, 2.0, -4.0, 8.0], [0, 0, 1, 1]
    np.testing.assert_allclose(contrast(real, fake, of_real, of_fake)[0], (2 * 0.5 + 4) / 3, rtol=1e-6)
    of_reals, of_fakes = slopes(real, fake, of_real, of_fake)
    np.testing.assert_allclose(of_reals, [1 / 3, 1 / 3, 1 / 3], rtol=1e-6)
    np.testing.assert_allclose(of_fakes, [-1 / 3, -1 / 3, -1 / 3, 0], rtol=1e-6)
    # The level of a class, for real and fake alike, changes nothing.
    level = np.array([0.0, -300.0])
    shifted = slopes(real + level[of_real], fake + level[of_fake], of_real, of_fake)
    np.testing.assert_allclose(shifted[1], of_fakes, rtol=1e-6)
    # A class beyond the floor is let go, and does not keep the other from being pushed.
    away = slopes([0.0, 0.0], [90.0, -4.0], [0, 1], [0, 1], trim=0.0)
    np.testing.assert_allclose(away[1], [0, -1 / 2], rtol=1e-6)


def test_a_fake_whose_class_has_no_real_picture_is_left_out():
    of_reals, of_fakes = slopes([1.0, 2.0], [0.0, -50.0], [0, 0], [0, 1], trim=0.0)
    np.testing.assert_allclose(of_reals, [1 / 2, 1 / 2])
    np.testing.assert_allclose(of_fakes, [-1, 0])
    assert [float(value) for value in contrast([1.0], [2.0], [0], [1])] == [0, 0, 0]


def test_unevenness_is_the_spread_of_real_energies_within_their_classes():
    energies, labels = jnp.array([1.0, 5.0, 100.0, 102.0, 7.0]), jnp.array([0, 0, 3, 3, 8])
    told = labels != 8
    assert float(objectives.unevenness(energies, labels, told)) == pytest.approx((4 + 4 + 1 + 1) / 4)
    # The level of a class changes nothing, and what is told no class does not count.
    moved = energies + jnp.array([40.0, 40.0, -9.0, -9.0, 1e6])
    assert float(objectives.unevenness(moved, labels, told)) == pytest.approx(2.5)
    assert float(objectives.unevenness(energies, labels, told & False)) == 0


def test_the_finish_levels_the_energies_of_real_pictures(small, dataset):
    def spread(level):
        settings = short_finish(small, level)
        step, state = step_of(settings), init_state(settings, CLASSES)
        examples = data.examples(dataset)
        for _ in range(30):
            state, _ = step(state, examples)
        known = energy.energy_function(network_of(settings, CLASSES), state.params, state.batch_stats, examples.labels)
        energies = known(data.to_unit(examples.images))
        return float(objectives.unevenness(energies, examples.labels, jnp.ones(len(energies), bool)))

    assert spread(10.0) < 0.5 * spread(0.0)


def test_warm_up_and_finish_set_the_learning_rate(tiny):
    settings = dataclasses.replace(
        tiny,
        learning_rate=0.1,
        warmup=4,
        objective="equilibrium",
        finish_after=6,
        finish_learning_rate=0.01,
        finish_chains=8,
        restart=0.5,
    )
    optimizer, params = make_optimizer(settings), jnp.zeros(())
    state, moves = optimizer.init(params), []
    for _ in range(8):
        update, state = optimizer.update(jnp.ones(()), state)
        moves.append(-float(update))
    np.testing.assert_allclose(moves, [0.025, 0.05, 0.075, 0.1, 0.1, 0.1, 0.01, 0.01], rtol=1e-4)


def test_the_learning_rate_falls_along_half_a_cosine_and_the_finish_has_its_own(tiny):
    settings = dataclasses.replace(
        tiny,
        learning_rate=0.1,
        decay=4,
        objective="equilibrium",
        finish_after=4,
        finish_learning_rate=0.02,
        finish_decay=2,
        finish_chains=8,
        restart=0.5,
    )
    rates = make_schedule(settings)(jnp.arange(8))
    half = (1 - np.cos(np.pi / 4)) / 2  # of the fall is done after a quarter
    falling = [0.1, 0.1 * (1 - 0.99 * half), 0.0505, 0.1 * (0.01 + 0.99 * half)]
    np.testing.assert_allclose(rates, [*falling, 0.02, 0.0101, 2e-4, 2e-4], rtol=1e-4)


def test_the_means_of_adam_decay_as_the_settings_say(tiny):
    optimizer = make_optimizer(dataclasses.replace(tiny, adam_b1=0.7, adam_b2=0.8))
    _, state = optimizer.update(jnp.array(2.0), optimizer.init(jnp.zeros(())))
    np.testing.assert_allclose([state.mu, state.nu], [0.3 * 2, 0.2 * 4], rtol=1e-6)


def test_paths_lead_as_far_beyond_the_pictures_as_the_margins_say(small, dataset, monkeypatch):
    # In place of the gradient the batch itself: starts, goals, times, and the classes that the network is told.
    monkeypatch.setattr(regression, "gradient_of_sum", lambda error, params, batch, means: (batch, batch[2]))
    monkeypatch.setattr(regression, "paired_noise", lambda noise, real, labels: noise)
    settings = dataclasses.replace(small, margin=0.25, ink_margin=0.125, finish_after=0)
    network, state = network_of(settings, CLASSES), init_state(small, CLASSES)
    paths = jax.jit(lambda *known: regression._regression_gradient(*known, network, settings, CLASSES, None))
    (_, goal, *_), _, real = paths(state, data.examples(dataset))
    assert goal.min() == -1.25
    np.testing.assert_allclose(goal, objectives.beyond(real.images, 0.25, 0.125), rtol=1e-6)


def test_norm_clip_bounds_the_gradient(tiny):
    """Adam forgets a common scale, so clipping shows where two gradients differ in size."""
    run = {}
    for clip in (0.0, 1.0):
        optimizer = make_optimizer(dataclasses.replace(tiny, norm_clip=clip))
        state = optimizer.init(jnp.zeros(2))
        for gradient in (jnp.array([3.0, 4.0]), jnp.array([0.3, 0.4])):
            update, state = optimizer.update(gradient, state)
        run[clip] = update
    assert abs(run[0.0][0] / run[1.0][0]) < 0.9


def test_the_average_lags_behind():
    np.testing.assert_allclose(moved_average({"a": jnp.ones(2)}, {"a": jnp.zeros(2)}, 0.9)["a"], [0.9, 0.9])


def test_training_lowers_the_error_and_the_average_is_the_model(small, dataset, tmp_path):
    settings = dataclasses.replace(small, finish_after=0, learning_rate=3e-3, epochs=40)
    state = runs.run_training(settings, dataset, tmp_path, max_updates=60)
    rows = read_metrics(tmp_path)
    errors = [row["regression"] for row in rows]
    assert np.mean(errors[-5:]) < 0.5 * np.mean(errors[:3])
    assert all(row["loss"] == row["regression"] and row["real"] is None for row in rows)
    model = bridge_ebm.load_model(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, model.params, state.average)
    assert not np.array_equal(state.params["Dense_0"]["kernel"], state.average["Dense_0"]["kernel"])


def test_a_training_without_a_finish_keeps_no_more_than_a_batch(small):
    sizes = [
        init_state(dataclasses.replace(small, finish_after=after), CLASSES).buffer.images.shape for after in (0, 3)
    ]
    assert sizes == [(small.batch_size, 16, 16, 1), (small.buffer_size, 16, 16, 1)]


def test_the_finish_starts_at_pictures_and_keeps_its_chains(held, dataset):
    step, examples = step_of(held), data.examples(dataset)
    state = init_state(held, CLASSES)
    noise = np.asarray(state.buffer.images)
    for _ in range(3):
        state, metrics = step(state, examples)
    assert np.isnan(metrics.real) and np.array_equal(state.buffer.images, noise)
    state, metrics = step(state, examples)
    assert np.isfinite([metrics.real, metrics.fake, metrics.cdiv]).all()
    # Untouched places hold pictures of their class; place 8 is of "no class".
    pictures = np.asarray(data.to_uint8(state.buffer.images))[: held.buffer_size]
    labels = {picture.tobytes(): label for picture, label in zip(dataset.images, dataset.labels, strict=True)}
    found = [labels.get(picture.tobytes()) for picture in pictures]
    untouched = [place for place, label in enumerate(found) if label is not None]
    assert len(untouched) >= held.buffer_size - held.finish_chains
    assert all(found[place] == place % 9 for place in untouched if place % 9 < CLASSES)
    after = np.asarray(step(state, examples)[0].buffer.images)
    moved = [
        place for place in range(held.buffer_size) if not np.array_equal(data.to_uint8(after[place]), pictures[place])
    ]
    assert 0 < len(moved) <= held.finish_chains


def test_a_run_through_its_finish_continues_bit_for_bit(held, dataset, tmp_path, monkeypatch, load_command):
    monkeypatch.setattr(runs, "make_train_step", lambda settings, *_: step_of(settings))
    for name in ("whole", "parts", "early"):
        (tmp_path / name).mkdir()
    whole = runs.run_training(held, dataset, tmp_path / "whole", max_updates=6)
    for updates in (2, 4, 6):
        parts = runs.run_training(held, dataset, tmp_path / "parts", max_updates=updates)
    jax.tree.map(np.testing.assert_array_equal, whole, parts)
    assert checkpoint.newest_step(tmp_path / "parts") == 6
    # What discover.py restarts from are its chains, once there are any.
    discover, restart = load_command("discover"), discovery.Request(0, (("restart", 1.0),), plans.Wishes())
    model = bridge_ebm.load_model(tmp_path / "parts")
    with flagsaver.flagsaver(model=str(tmp_path / "parts")):
        chains = whole.buffer.images[: held.buffer_size]
        np.testing.assert_array_equal(discover.read_buffer(model, restart), chains)
        assert discover.read_buffer(model, restart._replace(mix=plans.parse_mix([]))) is None
    runs.run_training(held, dataset, tmp_path / "early", max_updates=3)
    models.export(tmp_path / "parts", tmp_path / "model")
    for name, message in (("early", "no chains before its finish, update 3"), ("model", "with a replay buffer")):
        with flagsaver.flagsaver(model=str(tmp_path / name)), pytest.raises(InputError, match=message):
            discover.read_buffer(model, restart)


def test_a_conditional_model_knows_its_sub_types(held, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "make_train_step", lambda settings, *_: step_of(settings))
    runs.run_training(held, dataset, tmp_path, max_updates=4)
    model = bridge_ebm.load_model(tmp_path)
    # A few updates hardly tell the sub-types apart.
    leaves, tree = jax.tree.flatten(model.params)
    moved = [leaf + np.random.default_rng(k).normal(0, 0.1, leaf.shape).astype("f") for k, leaf in enumerate(leaves)]
    model = dataclasses.replace(model, params=jax.tree.unflatten(tree, moved))
    assert model.settings.subtypes == dataset.subtypes
    images = model.start(jax.random.key(0), 3)
    np.testing.assert_array_equal(images, images[:, :, ::-1])
    energies = {name: np.asarray(model.energy(name)(images)) for name in (None, *dataset.subtypes)}
    assert len({values.tobytes() for values in energies.values()}) == 9
    np.testing.assert_allclose(energies["beam"], 2 * model.half_energy("beam")(images[:, :, :16]), rtol=1e-5)
    # Of pictures that are not alike on both sides, each as its own sub-type: those of one batch are those alone.
    uneven, asked = images.at[:, :, :5].set(0.5), [dataset.subtypes[6], None, "beam"]
    alone = [model.energy(name)(uneven)[k] for k, name in enumerate(asked)]
    np.testing.assert_allclose(model.energy_of_each(asked)(uneven), alone, rtol=1e-4)
    with pytest.raises(ValueError, match="'rope': it knows beam, "):
        model.energy("rope")
    # Drawing halves is drawing whole symmetric pictures.
    start_key, chain_key = jax.random.split(jax.random.key(5))
    whole = bridge_ebm.sample(chain_key, model.start(start_key, 2), model.energy("beam"), model.settings.langevin)
    np.testing.assert_allclose(model.draw(jax.random.key(5), 2, "beam"), whole, atol=1e-5)
    assert not np.array_equal(model.draw(jax.random.key(5), 2, "beam", num_steps=1), whole)


@pytest.mark.parametrize("objective", ["equilibrium", "energy_matching"])
def test_an_unconditional_network_regresses_too(small, dataset, objective):
    network = {"equilibrium": "paper", "energy_matching": "multiscale"}[objective]
    settings = dataclasses.replace(small, network=network, conditional=False, objective=objective, finish_after=1)
    step, examples = make_train_step(settings, CLASSES), data.examples(dataset)
    state = init_state(settings, CLASSES)
    for _ in range(2):
        state, metrics = step(state, examples)
    assert np.isfinite([metrics.loss, metrics.real, metrics.fake]).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "paper"}, "--conditional: only --network=multiscale"),
        ({"objective": "contrastive"}, "--conditional: only --network=multiscale"),
        ({"width": 33}, "--mirror: --width=33 cannot be halved"),
        ({"finish_chains": 19}, "--buffer_size=18: does not hold the chains of one update; use at least 19"),
        ({"finish_trim": 1.0}, "--finish_trim=1.0"),
        ({"objective": "contrastive", "conditional": False, "blend": True}, "--blend: only --objective=equilibrium"),
        ({"conditional": 1}, "--conditional=1: must be of type bool"),
    ],
)
def test_settings_that_cannot_work_are_refused(small, changes, message):
    with pytest.raises(InputError, match=message):
        TrainSettings(**{**vars(small), **changes})


def test_a_finish_without_a_place_for_every_class_is_refused_before_anything_is_written(small, dataset, tmp_path):
    message = "--buffer_size=8: the finish keeps chains of each of 8 sub-types and of none; use --buffer_size=9 or more"
    with pytest.raises(InputError, match=message):
        runs.run_training(dataclasses.replace(small, buffer_size=8), dataset, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    check_finish(dataclasses.replace(small, buffer_size=9), 8)
    check_finish(dataclasses.replace(small, buffer_size=8, finish_after=0), 8)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_the_step_lowers_for_accelerators(held, dataset, platform):
    step = step_of(held)
    arguments = init_state(held, CLASSES), data.examples(dataset)
    assert "stablehlo.convolution" in jax.export.export(step, platforms=(platform,))(*arguments).mlir_module()
