import dataclasses
import math

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from conftest import ROOT

from bridge_ebm import bridges, data, recipes
from bridge_ebm.contrastive import chain_settings
from bridge_ebm.errors import InputError
from bridge_ebm.settings import TrainSettings, from_dict
from bridge_ebm.workdir import model_settings


def test_defaults_are_the_papers():
    settings = TrainSettings()
    assert (settings.step_size, settings.langevin_steps, settings.noise, settings.gradient_clip) == (
        10,
        360,
        0.005,
        0.03,
    )
    assert (settings.alpha, settings.learning_rate, settings.batch_size, settings.buffer_size) == (0.2, 1e-4, 128, 8192)
    assert (settings.epochs, settings.restart, settings.sample_steps) == (50, 0.05, 1000)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("alpha", -1.0),
        ("alpha", math.nan),
        ("learning_rate", math.inf),
        ("langevin_steps", 0),
        ("restart", 1.5),
        ("height", 3),
        ("batch_size", -128),
        ("seed", -1),
        ("network", "nope"),
        ("precision", "float16"),
        ("epochs", 1.5),
        ("epochs", True),
        ("adam_b2", 1.0),
        ("ema", 1.0),
        ("step_size", 0.0),
        ("gradient_clip", 0.0),
    ],
)
def test_a_setting_out_of_range_names_its_flag_in_one_line(name, value):
    with pytest.raises(InputError, match=f"^--{name}=") as caught:
        TrainSettings(**{name: value})
    assert "\n" not in str(caught.value)


def test_pictures_may_be_drawn_at_another_step_size_than_the_training_has():
    settings = TrainSettings(step_size=0.5, sample_step_size=2.0)
    assert chain_settings(settings).step_size == 0.5 and model_settings(settings, ()).step_size == 2.0
    assert model_settings(TrainSettings(step_size=0.5), ()).step_size == 0.5


def test_the_chains_of_the_model_have_a_tolerance_and_those_of_the_training_none():
    settings = TrainSettings(sample_tolerance=0.5)
    assert chain_settings(settings).tolerance == 0.0
    assert model_settings(settings, ()).langevin.tolerance == 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"finish_after": 100}, "--finish_after, --margin, --ink_margin: only for --objective=equilibrium"),
        ({"margin": 0.03}, "--finish_after, --margin, --ink_margin: only"),
        ({"ink_margin": 0.03}, "--finish_after, --margin, --ink_margin: only"),
        ({"reach": 3}, "--reach=3: only --network=multiscale"),
        ({"objective": "equilibrium", "finish_after": 9, "finish_chains": 9}, "--restart=0.05: of --finish_chains=9"),
    ],
)
def test_what_would_have_no_effect_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        TrainSettings(**changes)


def test_bounds_are_said_as_they_are():
    for changes, words in (({"ema": 1.0}, "at least 0 and below 1"), ({"step_size": 0.0}, "above 0")):
        with pytest.raises(InputError, match=f"must be a finite number, {words}$"):
            TrainSettings(**changes)


def test_a_buffer_smaller_than_a_batch_is_refused():
    with pytest.raises(InputError, match=r"--buffer_size=64: .* at least 128"):
        TrainSettings(buffer_size=64)
    assert not TrainSettings(objective="equilibrium", buffer_size=1).keeps_chains  # it has no chains to hold


def test_settings_survive_json_and_foreign_ones_are_refused():
    settings = TrainSettings(alpha=0.3, height=64)
    assert from_dict(dataclasses.asdict(settings), "x.json") == settings
    older = {name: value for name, value in dataclasses.asdict(settings).items() if name != "reach"}
    assert from_dict(older, "x.json") == settings
    with pytest.raises(InputError, match=r"x\.json: not the settings .*surprise"):
        from_dict({**dataclasses.asdict(settings), "surprise": 1}, "x.json")
    with pytest.raises(InputError, match=r"x\.json: --alpha=-1"):
        from_dict({**dataclasses.asdict(settings), "alpha": -1}, "x.json")
    with pytest.raises(InputError, match="not an object"):
        from_dict([], "x.json")


def updates_of_an_epoch(train, settings):
    """Of a training on the program's own pictures, counted without drawing one: those not rotated are symmetric."""
    plan = recipes.paper_plan(settings.per_type)
    level, base = (np.array([getattr(one, name) for one in plan]) for name in ("rotation", "base"))
    part = data.split(data.Dataset(level, np.zeros(len(plan), int), base, ("beam",)), settings.split)
    of_each = 2 * np.sum(part.images == 0) if settings.mirror else len(part.images)
    return train.updates_per_epoch(settings, len(bridges.SUBTYPES) * int(of_each))


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "experiments" / "flags").glob("*.cfg")))
def test_a_flag_file_is_a_training_whose_epochs_are_all_that_it_asks_for(load_command, capsys, name):
    train = load_command("train")
    with flagsaver.flagsaver():
        flags.FLAGS(["train", f"--flagfile={ROOT / 'experiments' / 'flags' / f'{name}.cfg'}", "--workdir=none"])
        settings = train.cli.read_train_settings()
    per_epoch = updates_of_an_epoch(train, settings)
    train.say_what_is_cut(settings, per_epoch)
    assert not capsys.readouterr().out
    if settings.finish_after:
        assert settings.epochs * per_epoch == settings.finish_after + settings.finish_decay
        assert settings.decay == settings.finish_after
    if name == "paper":
        assert settings == TrainSettings(split="all") and per_epoch == 75
