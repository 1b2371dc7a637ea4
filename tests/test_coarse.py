"""Coarse pictures: what a model of a smaller size gives one of a larger size to begin with."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bridge_ebm
from bridge_ebm import balance, bridges, chain_report, coarse, data, finish, models, objectives, regression, runs
from bridge_ebm.errors import InputError
from bridge_ebm.settings import TrainSettings
from bridge_ebm.state import init_state
from bridge_ebm.train import make_train_step

pytestmark = pytest.mark.usefixtures("compiled_quickly")
CLASSES = 8


@pytest.fixture(scope="module")
def fine(tiny) -> TrainSettings:
    """A conditional run on halves of 32 x 64 that learns from pictures reduced to 16 x 32 too."""
    return dataclasses.replace(
        tiny,
        network="multiscale",
        channels=4,
        conditional=True,
        mirror=True,
        objective="equilibrium",
        height=32,
        width=64,
        coarse_height=16,
        finish_chains=8,
        learning_rate=0.01,
        step_size=0.05,
        noise=0.0,
        gradient_clip=100.0,
    )


def halves(height, width):
    return data.mirror_halves(data.procedural(height, width, per_type=4))


def train(settings, workdir):
    """A training of two updates."""
    workdir.mkdir()
    runs.run_training(settings, halves(settings.height, settings.width), workdir, max_updates=2)


@pytest.fixture(scope="module")
def folder(fine, tmp_path_factory):
    """Of two models: `large` of 32 x 64, whose chains begin at the pictures of `small`, of 16 x 32."""
    path = tmp_path_factory.mktemp("cascade")
    train(dataclasses.replace(fine, height=16, width=32, coarse_height=0), path / "small")
    train(dataclasses.replace(fine, coarse_model=str(path / "small")), path / "large")
    return path


@pytest.fixture
def cascade(folder):
    return bridge_ebm.load_model(folder / "large")


def test_a_reduced_picture_is_the_picture_rendered_at_that_size():
    large, small = (
        np.stack([data.to_unit(bridges.render(name, 5, *size)) for name in bridges.SUBTYPES])
        for size in ((128, 512), (48, 192))
    )
    np.testing.assert_allclose(coarse.reduced(jnp.asarray(large), 48), small, atol=1.01 / 255)


def test_reducing_by_a_whole_number_takes_means():
    images = jax.random.normal(jax.random.key(0), (2, 12, 18, 1))
    np.testing.assert_allclose(
        coarse.reduced(images, 4)[..., 0], images.reshape(2, 4, 3, 6, 3).mean((2, 4)), rtol=1e-5, atol=1e-6
    )


def test_enlarging_keeps_what_is_straight_and_stays_in_range():
    ramp = jnp.broadcast_to(jnp.linspace(-0.9, 0.9, 12)[None, :, None, None], (1, 12, 16, 1))
    steps = np.diff(np.asarray(coarse.enlarged(ramp, 36, 48))[0, 8:-8, 24, 0])
    np.testing.assert_allclose(steps, 1.8 / 11 / 3, rtol=1e-3)
    edge = jnp.where(jnp.arange(16) < 8, -1.0, 1.0)[None, None, :, None] * jnp.ones((1, 12, 1, 1))
    assert np.abs(coarse.enlarged(edge, 36, 48)).max() == 1


def test_a_coarse_start_has_up_to_a_fifth_of_noise():
    grey = jnp.full((400, 4, 8, 1), 0.5)
    begin = np.asarray(coarse.start(jax.random.key(0), grey, 8, 16))
    share = (begin.max((1, 2, 3)) - begin.min((1, 2, 3))) / 2
    assert 0 <= share.min() < 0.01 and 0.19 < share.max() <= coarse.NOISE
    assert share.mean() == pytest.approx(coarse.NOISE / 2, rel=0.08)
    np.testing.assert_allclose(begin.mean((1, 2, 3)), 0.5 * (1 - share), atol=0.06)


def test_paths_from_coarse_pictures_lead_straight_to_the_goal():
    """Everywhere on them the target is 20 (goal - x), the slope of a well of the strength that real pictures have."""
    real = jax.random.uniform(jax.random.key(0), (512, 6, 12, 1), minval=-1.0)
    goal = objectives.beyond(real, 0.03)
    noise, t = 7 + real, jnp.linspace(0, 0.7, 512)
    start, times = regression.from_coarse(jax.random.key(1), noise, t, real, goal, 3)
    moved = np.asarray(times >= 0.8)
    assert moved.mean() == pytest.approx(coarse.SHARE, abs=0.08)
    np.testing.assert_array_equal(np.asarray(start)[~moved], noise[~moved])
    np.testing.assert_array_equal(np.asarray(times)[~moved], t[~moved])
    np.testing.assert_allclose(np.asarray(times)[moved], 0.8 + 0.2 * np.asarray(t)[moved], rtol=1e-6)
    mixed = (1 - times)[:, None, None, None] * start + times[:, None, None, None] * goal
    error = objectives.regression_error(20 * (mixed - goal), start, goal, times, "equilibrium")
    np.testing.assert_allclose(np.asarray(error)[moved], 0, atol=1e-6)
    # At the beginning of the path lies the coarse picture, but for its noise.
    first = 0.2 * start + 0.8 * goal
    apart = np.abs(first - coarse.enlarged(coarse.reduced(real, 3), 6, 12))[moved].mean((1, 2, 3))
    assert apart.max() < coarse.NOISE and apart.min() < 0.02


def test_the_finishs_fresh_chains_begin_at_coarse_pictures_of_their_class_or_at_noise(fine):
    # Pictures of class k have one grey each, so that reducing changes nothing.
    greys = jnp.arange(CLASSES, dtype=jnp.uint8) * 30
    examples = data.Examples(jnp.broadcast_to(greys[:, None, None], (CLASSES, 32, 32)), jnp.arange(CLASSES))
    labels = jnp.tile(jnp.arange(CLASSES), 32)
    fresh = finish._begun(jax.random.key(0), labels, examples, fine, CLASSES, (32, 32, 1))
    spread = np.ptp(fresh, axis=(1, 2, 3))
    near = spread < 2 * coarse.NOISE
    assert near.mean() == pytest.approx(coarse.SHARE, abs=0.1) and spread[~near].min() > 1.9
    of_class = data.to_unit(greys[labels][:, None, None])[:, 0, 0, 0]
    np.testing.assert_allclose(np.asarray(fresh.mean((1, 2, 3)))[near], of_class[near], atol=coarse.NOISE + 0.02)


def test_paths_and_the_finishs_fresh_chains_use_them(fine, monkeypatch):
    begun, start = set(), coarse.start

    def recorded(key, small, height, width):
        begun.add(len(small))
        return start(key, small, height, width)

    monkeypatch.setattr(coarse, "start", recorded)
    settings = dataclasses.replace(fine, finish_after=1, restart=0.5)
    step, state, examples = make_train_step(settings, CLASSES), init_state(settings, CLASSES), halves(32, 64)
    for _ in range(2):
        state, metrics = step(state, data.examples(examples))
    assert np.isfinite([metrics.loss, metrics.regression, metrics.cdiv]).all()
    # All pictures of a batch, and the half of the four fresh chains that do not begin at real pictures.
    assert begun == {settings.batch_size, 2}


def test_a_training_learns_from_coarse_pictures(fine):
    examples, learnt = data.examples(halves(fine.height, fine.width)), []
    for height in (0, 16):
        settings = dataclasses.replace(fine, coarse_height=height)
        state, _ = make_train_step(settings, CLASSES)(init_state(settings, CLASSES), examples)
        learnt.append(state.params)
    assert not all(jax.tree.leaves(jax.tree.map(np.array_equal, *learnt)))


def test_chains_begin_at_the_coarse_models_pictures(cascade):
    small_key, start_key = jax.random.split(jax.random.key(3))
    small = cascade.coarse.draw(small_key, 3, "deck_arch")
    expected = coarse.start(start_key, small[:, :, :16], 32, 32)
    begin = cascade.start(jax.random.key(3), 3, "deck_arch")
    np.testing.assert_array_equal(begin[:, :, :32], expected)
    np.testing.assert_array_equal(begin, begin[:, :, ::-1])
    assert cascade.start(jax.random.key(3), 2).shape == (2, 32, 64, 1)  # and without a class
    # `draw` goes on from there; noise is another matter.
    drawn = cascade.draw(jax.random.key(4), 3, "deck_arch", num_steps=0)
    np.testing.assert_array_equal(drawn, cascade.start(jax.random.split(jax.random.key(4))[0], 3, "deck_arch"))
    assert np.std(cascade.noise(jax.random.key(3), 3)) == pytest.approx(3**-0.5, rel=0.05)


def test_an_evaluation_begins_each_sub_type_at_its_own_coarse_pictures(cascade, monkeypatch):
    asked, begun = ["beam", "deck_arch", "beam"], []
    start = type(cascade).start

    def recorded(self, key, count, subtype=None):
        begun.append((self.height, count, subtype))
        return start(self, key, count, subtype)

    monkeypatch.setattr(type(cascade), "start", recorded)
    chain_report.draw(cascade, asked, num_steps=1, seed=0)
    assert [entry for entry in begun if entry[0] == 32] == [(32, 2, "beam"), (32, 2, "deck_arch")]
    assert [entry for entry in begun if entry[0] == 16] == [(16, 2, "beam"), (16, 2, "deck_arch")]


def test_an_exported_cascade_takes_its_coarse_model_along(folder, cascade, tmp_path):
    models.export(folder / "large", tmp_path / "out")
    shutil.move(tmp_path / "out", tmp_path / "elsewhere")
    assert str(folder) not in json.loads((tmp_path / "elsewhere/settings.json").read_text())["model"]["coarse_model"]
    exported = bridge_ebm.load_model(tmp_path / "elsewhere")
    begun = (one.start(jax.random.key(3), 2, "deck_arch") for one in (exported, cascade))
    np.testing.assert_array_equal(*begun)


def test_levels_are_found_where_the_chains_begin(cascade, monkeypatch):
    begun, noise = [], type(cascade).noise
    monkeypatch.setattr(balance, "_ROUNDS", 1)
    monkeypatch.setattr(balance, "_CHAINS", 2)
    monkeypatch.setattr(type(cascade), "noise", lambda self, *_: begun.append(self.height) or noise(self, *_))
    balance.levels(cascade, jax.random.key(0))
    assert set(begun) == {cascade.coarse.height}  # its own chains begin at the coarse model's pictures


def test_a_coarse_model_that_does_not_fit_is_refused_in_one_line(folder, tmp_path):
    shutil.copytree(folder / "large", tmp_path / "large")
    shutil.copytree(folder / "small", tmp_path / "new", ignore=shutil.ignore_patterns("checkpoints"))
    path = tmp_path / "large" / "settings.json"
    record = json.loads(path.read_text())
    for name, words in [
        (str(tmp_path / "large"), "its pictures are 32 x 64; name a model of the same sub-types"),
        ("default", "its pictures are 48 x 192"),
        (str(tmp_path / "nothing"), "neither a shipped model"),
        (str(tmp_path / "new"), "no checkpoint in"),
    ]:
        record["model"]["coarse_model"] = name
        path.write_text(json.dumps(record))
        with pytest.raises(InputError, match=words) as caught:
            bridge_ebm.load_model(tmp_path / "large")
        assert str(caught.value).startswith("--coarse_model=")
        assert "\n" not in str(caught.value) and name in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"coarse_height": 32}, "--coarse_height=32: .* smaller than --height=32"),
        ({"objective": "energy_matching"}, "--coarse_height=16: only --objective=equilibrium"),
        ({"coarse_height": 0, "coarse_model": "default"}, "--coarse_model=default: give its height as --coarse_height"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(fine, changes, words):
    with pytest.raises(InputError, match=words):
        dataclasses.replace(fine, **changes)


def test_a_training_refuses_a_coarse_model_of_another_height_before_it_begins(run_script, tmp_path):
    flags = ["--network=multiscale", "--conditional", "--objective=equilibrium", "--height=128", "--width=512"]
    flags += ["--per_type=8", "--coarse_height=32", "--coarse_model=default", f"--workdir={tmp_path / 'run'}"]
    done = run_script("train", *flags)
    assert done.returncode != 0 and not (tmp_path / "run").exists()
    assert done.stderr.strip().splitlines()[-1].endswith("draws pictures 48 high; use that height")
