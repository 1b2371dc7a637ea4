"""evaluate.py as a user runs it: a conditional model, a folder, and what it refuses."""

import dataclasses
import json
import math
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import flagsaver
from conftest import ROOT
from PIL import Image

from bridge_ebm import bridges, chain_report, data, evaluation, metrics, models
from bridge_ebm.errors import InputError
from bridge_ebm.models import load_model
from bridge_ebm.settings import TrainSettings

pytestmark = pytest.mark.usefixtures("compiled_quickly")

TRAIN = [
    "--height=16",
    "--width=64",
    "--per_type=32",
    "--epochs=1",
    "--max_updates=1",
    "--network=multiscale",
    "--conditional",
    "--mirror",
    "--channels=2",
    "--objective=equilibrium",
    "--batch_size=8",
    "--buffer_size=48",
    "--step_size=0.005",
    "--noise=0",
    "--gradient_clip=100",
    "--sample_steps=2",
]
NUM = 10  # not a multiple of the eight sub-types


@pytest.fixture
def evaluate(load_command):
    return load_command("evaluate")


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    """A conditional model of halves after one update."""
    workdir = tmp_path_factory.mktemp("runs") / "tiny"
    command = [sys.executable, str(ROOT / "experiments/train.py"), *TRAIN, f"--workdir={workdir}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return workdir


def numbers(value):
    if isinstance(value, dict):
        return [one for inner in value.values() for one in numbers(inner)]
    if isinstance(value, list):
        return [one for inner in value for one in numbers(inner)]
    return [value] if isinstance(value, float) else []


def test_the_report_on_a_conditional_model(model_dir, run_script, tmp_path):
    out = tmp_path / "model"
    steps = [f"--num={NUM}", "--num_steps=10", "--hold_steps=10", "--seed=3"]
    done = run_script("evaluate", f"--model={model_dir}", f"--out={out}", *steps)
    assert done.returncode == 0, done.stderr
    record = json.loads((out / "evaluation.json").read_text())
    assert all(math.isfinite(number) for number in numbers(record))
    assert [one["asked"] for one in record["each"]] == [bridges.SUBTYPES[i % 8] for i in range(NUM)]
    assert sorted(path.name for path in (out / "samples").iterdir()) == [f"{i:04d}.png" for i in range(NUM)]
    assert np.asarray(Image.open(out / "samples" / "0007.png")).shape == (16, 64)
    assert np.asarray(Image.open(out / "sheet.png")).shape == (2 * 20 + 4, 8 * 68 + 4)
    # Rotated pictures (two of three) are left out for a model of halves: 4 of 32 a type test, 24 train.
    assert record["reference"]["mirror_symmetric_part_only"] and record["reference"]["held_out_from_training"]
    assert 8 < record["reference"]["part_pictures"] < 32 < record["reference"]["train_pictures"] < 192
    assert sum(row["value"] for row in record["verdicts"].values()) == pytest.approx(1)
    assert record["class_accuracy"]["ceiling_value"] == 1
    assert set(record["fidelity"]) == {"frechet", "precision", "recall", "density", "coverage"}
    assert all(0 <= row["ceiling_mirrored"] < math.inf for row in record["fidelity"].values())
    assert record["classes"]["beam"]["asked"] == 2 and record["classes"]["diagonal_suspension"]["asked"] == 1
    chains = record["chains"]
    assert chains["along_the_chain"]["steps"] == list(range(11))
    assert len(chains["along_the_chain"]["mean_energy"]) == 11
    assert {"real_below_noise", "real_below_generated", "generated_below_corrupted"} <= set(chains["energy_auc"])
    assert 0 < chains["hold"]["worst_ink_kept"] <= chains["hold"]["mean_ink_kept"] <= 1
    for words in ("sharp", "coverage", "drawn as asked", "energy order", "held-out pictures keep", "sheet.png"):
        assert words in done.stdout


@pytest.mark.parametrize("count", [32, 96, 120, 160, 240, 600])
def test_pictures_that_are_picked_are_of_all_augmentations(count):
    # Sorted as the recipe makes them: 8 sub-types x 12 member widths x 25 augmentations in the same order.
    augmentation = np.tile(np.arange(25), 96)
    dataset = data.Dataset(
        np.zeros((2400, 1, 1), np.uint8), np.repeat(np.arange(8), 300), augmentation, bridges.SUBTYPES
    )
    picked = evaluation.evenly(dataset, count)
    assert (np.bincount(picked.labels) == count // 8).all()
    assert len(np.unique(picked.base)) > 12
    assert np.abs(picked.base.mean() - 12) < 4
    np.testing.assert_array_equal(picked.base, evaluation.evenly(dataset, count).base)


def test_settings_are_chosen_beside_other_pictures_than_results_are_told_by(monkeypatch):
    monkeypatch.setattr(evaluation, "_skeletons", lambda training, seen: None)
    training = TrainSettings(per_type=16, height=16, width=32)
    test, validation = (evaluation.real_pictures(training, part) for part in ("test", "validation"))
    assert set(test.against.base % 8) == {6} and set(validation.against.base % 8) == {2}
    assert test.held_out and validation.held_out
    np.testing.assert_array_equal(test.train.images, validation.train.images)


def test_novelty_is_measured_beside_pictures_moved_as_a_model_of_halves_sees_them(tmp_path):
    """A user's pictures may stand off the middle, by more than the reach of a match of skeletons."""
    picture = bridges.render("deck_arch", 8, 128, 512)
    shifted, rotated = np.roll(picture, 4, 1), np.asarray(Image.fromarray(picture).rotate(3))
    (tmp_path / "deck_arch").mkdir()
    for name, one in (("shifted", shifted), ("rotated", rotated)):
        Image.fromarray(255 - one).save(tmp_path / "deck_arch" / f"{name}.png")
    training = TrainSettings(height=128, width=512, data=str(tmp_path), split="all")

    def nearest(picture, mirror):
        real = evaluation.training_skeletons(dataclasses.replace(training, mirror=mirror))
        return metrics.mismatch(picture[None], real).min()

    assert nearest(picture, mirror=True) < 0.01 < 0.05 < nearest(picture, mirror=False)
    assert nearest(rotated, mirror=True) < 0.01 and nearest(shifted, mirror=False) < 0.01


def test_ceilings_are_the_mean_of_ten_sets_of_as_many_training_pictures():
    held, train = (np.random.default_rng(seed).normal(size=(size, 3)) for seed, size in ((0, 40), (1, 80)))
    labels = np.arange(80) // 10
    found = evaluation._ceilings(held, train, labels, 24)
    sets = [evaluation._evenly(labels, 24, draw) for draw in range(10)]
    assert len({tuple(picked) for picked in sets}) == 10
    each = [metrics.fidelity(held, train[picked]) for picked in sets]
    for name, ceiling in found.items():
        values = [one[name].value for one in each]
        assert ceiling == pytest.approx((np.mean(values), min(values), max(values)))
        assert ceiling.low < ceiling.value < ceiling.high
    every = evaluation._ceilings(held, train, labels, 100)  # there are no more than 80
    assert every["density"].low == every["density"].high == metrics.fidelity(held, train)["density"].value


def test_exact_mirror_images_have_a_ceiling_of_their_own():
    def ceilings(name, symmetric_only=True):
        pictures = np.stack([bridges.render(name, width, 48, 192) for width in range(16)])
        dataset = data.Dataset(pictures, np.zeros(16, int), np.arange(16), (name,))
        real = evaluation.Real(dataset, dataset, "test", None, symmetric_only, held_out=False)
        return evaluation._sets(pictures, real)["fidelity"]["coverage"]

    centred, aside = ceilings("deck_arch"), ceilings("v_pier_frame")  # V piers stand 0.8 px to the right
    assert centred["ceiling_value"] == aside["ceiling_value"] == 1
    assert centred["ceiling_mirrored"] == 1 and aside["ceiling_mirrored"] < 0.5
    assert "ceiling_mirrored" not in ceilings("v_pier_frame", symmetric_only=False)


def test_the_order_of_energies_does_not_depend_on_the_level_of_a_sub_type(model_dir, monkeypatch):
    model, count = load_model(model_dir), 16
    pictures = np.stack([bridges.render(name, 0, 16, 64) for name in bridges.SUBTYPES for _ in range(2)])
    real = data.Dataset(pictures, np.arange(count) // 2, np.zeros(count, int), bridges.SUBTYPES)
    asked = [bridges.SUBTYPES[label] for label in real.labels]
    drawn = chain_report.Drawn(pictures[::-1], np.zeros((11, count)))

    def order(level):
        energies = iter(np.random.default_rng(0).normal(size=(20, count)))
        levels = np.array([level * bridges.SUBTYPES.index(name) for name in asked])
        monkeypatch.setattr(chain_report, "energies_of", lambda model, images, asked: next(energies) + levels)
        return chain_report._order(model, drawn, asked, real, False, 0)

    assert order(1000.0) == pytest.approx(order(0.0), abs=1e-9)
    assert 0.2 < order(0.0)["real_below_generated"] < 0.8


@pytest.mark.parametrize("unconditional", [False, True])
def test_every_kind_of_picture_stands_on_its_side_of_the_order(monkeypatch, unconditional):
    pictures = np.stack([bridges.render(name, 0, 16, 64) for name in bridges.SUBTYPES])
    real = data.Dataset(pictures, np.arange(8), np.zeros(8, int), bridges.SUBTYPES)
    drawn, asked = chain_report.Drawn(pictures[:, ::-1], np.zeros((11, 8))), [None if unconditional else "beam"] * 8
    model = SimpleNamespace(noise=lambda key, count: jnp.zeros((count, 16, 64, 1)))

    def constants(model, images, names):
        assert set(names) == {None} if unconditional else None not in names
        known = (0.0, pictures), (1.0, drawn.images), (3.0, np.full_like(pictures, 128))
        level = next((level for level, kind in known if np.array_equal(images, kind)), 2.0)  # none of these: corrupted
        return np.full(len(images), level)

    monkeypatch.setattr(chain_report, "energies_of", constants)
    found = chain_report._order(model, drawn, asked, real, unconditional, 0)
    kinds = ("real", "generated", "corrupted", "noise")
    pairs = {f"{low}_below_{high}" for k, low in enumerate(kinds) for high in kinds[k + 1 :]}
    assert found.keys() == pairs | {f"real_below_{name}" for name in chain_report.CORRUPTIONS}
    assert set(found.values()) == {1.0}


def test_chains_depend_on_the_seed_alone_and_stay_in_their_class(model_dir):
    model = load_model(model_dir)
    rng = np.random.default_rng(0)
    stir = [rng.normal(0, 0.1, x.shape).astype(np.float32) for x in jax.tree.leaves(model.params)]
    tree = jax.tree.structure(model.params)  # one update hardly tells the sub-types apart
    model = dataclasses.replace(model, params=jax.tree.map(jnp.add, model.params, jax.tree.unflatten(tree, stir)))
    asked = [bridges.SUBTYPES[i % 3] for i in range(5)]
    first, second = (chain_report.draw(model, asked, 4, seed=5) for _ in range(2))
    assert (first.images == second.images).all() and (first.energies == second.energies).all()
    assert (chain_report.draw(model, asked, 4, seed=6).images != first.images).any()
    energies = chain_report.energies_of(model, first.images, asked)
    assert energies == pytest.approx(first.energies[-1], rel=0.05, abs=0.2)  # the pictures are rounded to grey levels
    for name in set(asked):
        mine = np.flatnonzero([one == name for one in asked])
        floats = data.to_unit(first.images[mine])
        assert np.asarray(model.energy(name)(floats)) == pytest.approx(energies[mine], rel=1e-3, abs=1e-3)
    beams = chain_report.energies_of(model, first.images, [asked[0]] * 5)
    assert [k for k in range(5) if abs(beams[k] - energies[k]) < 1e-6] == [0, 3]
    before, after = chain_report.hold(model, np.roll(first.images, 3, axis=2), asked, 4, seed=0)
    assert (before == before[:, :, ::-1]).all() and metrics.ink_kept(before, after).min() > 0.5


def test_a_flat_folder_of_real_pictures_scores_well(evaluate, monkeypatch, capsys, tmp_path):
    """Held-out pictures of the paper, dark on white, in one folder without sub-folders; a smaller reference."""
    (tmp_path / "real").mkdir()
    for subtype in bridges.SUBTYPES:
        picture = 255 - bridges.render(subtype, 6, 48, 192)
        Image.fromarray(picture).save(tmp_path / "real" / f"{subtype}.png")
    stale = tmp_path / "out" / "samples"
    stale.mkdir(parents=True)
    for name in ("0008.png", "mine.png"):
        (stale / name).write_bytes(b"of an earlier run, and of the user")
    (tmp_path / "out" / "sheet.png").touch()
    monkeypatch.setattr(evaluate, "TrainSettings", partial(TrainSettings, per_type=64))
    with flagsaver.flagsaver(images=str(tmp_path / "real"), out=str(tmp_path / "out")):
        evaluate.main()
    assert "coverage" in capsys.readouterr().out
    record = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert (record["height"], record["width"], record["pictures"]) == (48, 192, 8)
    assert record["definition"]["sharp"]["value"] == 1 and record["verdicts"]["A"]["value"] == 1
    assert record["fidelity"]["precision"]["value"] == 1 and record["novelty"]["novel"]["value"] == 0
    assert record["chains"] is None and record["class_accuracy"] is None  # no sub-folders: nothing was asked for
    assert {one["file"]: one["nearest"] for one in record["each"]}["samples/0000.png"] == "beam"
    assert all(row["value"] == 1 / 8 for row in record["classes"].values())
    assert sorted(path.name for path in stale.iterdir()) == [*(f"{k:04d}.png" for k in range(8)), "mine.png"]
    assert (np.asarray(Image.open(stale / "0000.png")) == bridges.render("beam", 6, 48, 192)).all()


def test_subtypes_asked_of_a_model(evaluate):
    conditional = SimpleNamespace(settings=SimpleNamespace(subtypes=("a", "b", "c")))
    plain = SimpleNamespace(settings=SimpleNamespace(subtypes=()))
    assert evaluate.cli.asked_subtypes(conditional, None, 5) == ["a", "b", "c", "a", "b"]
    assert evaluate.cli.asked_subtypes(conditional, "b", 2) == ["b", "b"]
    assert (
        evaluate.cli.asked_subtypes(conditional, "none", 2)
        == [None, None]
        == evaluate.cli.asked_subtypes(plain, None, 2)
    )
    for model, message in ((conditional, "a, b, c"), (plain, "no sub-types")):
        with pytest.raises(InputError, match=f"--subtype=d: this model knows {message}"):
            evaluate.cli.asked_subtypes(model, "d", 1)


def test_a_folder_and_sub_folders(evaluate, tmp_path):
    picture = Image.fromarray(bridges.render("beam", 0, 24, 96))
    for name in ("deck_arch", "mine"):
        (tmp_path / name).mkdir()
        picture.save(tmp_path / name / "1.png")
    picture.save(tmp_path / "sheet.png")  # beside sub-folders of pictures: not one of them
    images, asked = evaluate.read_folder(tmp_path)
    assert images.shape == (2, 24, 96) and asked == ["deck_arch", None]
    (tmp_path / "large").mkdir()
    picture.resize((4000, 1000)).save(tmp_path / "large" / "1.png")
    assert evaluate.read_folder(tmp_path / "large")[0].shape == (1, 128, 512)
    picture.resize((48, 12)).save(tmp_path / "large" / "1.png")
    assert evaluate.read_folder(tmp_path / "large")[0].shape == (1, 16, 48)  # as small as real ones are drawn
    with pytest.raises(InputError, match="no such folder"):
        evaluate.read_folder(tmp_path / "none")


def test_pictures_are_not_replaced_by_the_report_on_them(evaluate, tmp_path):
    mine = tmp_path / "mine" / "samples"
    mine.mkdir(parents=True)
    Image.fromarray(bridges.render("beam", 0, 24, 96)).save(mine / "0000.png")
    before = (mine / "0000.png").read_bytes()
    assert evaluate.read_folder(mine.parent)[0].shape == (1, 24, 96)
    for images, out in ((mine, mine.parent), (mine.parent, mine.parent), (mine, mine / "report")):
        with flagsaver.flagsaver(images=str(images), out=str(out)), pytest.raises(InputError, match=r"--out=.*apart"):
            evaluate.main()
    assert [path.read_bytes() for path in mine.iterdir()] == [before]


def test_a_sub_type_without_held_out_pictures_is_refused_before_anything_is_drawn(evaluate, model_dir, monkeypatch):
    def without_beams(training, part):
        return real._replace(against=evaluation.of_subtypes(real.against, set(real.against.subtypes) - {"beam"}))

    real = evaluation.real_pictures(models.training_of(model_dir))
    monkeypatch.setattr(evaluation, "real_pictures", without_beams)
    beams = flagsaver.flagsaver(model=str(model_dir), subtype="beam")
    with beams, pytest.raises(InputError, match="no mirror-symmetric test pictures of beam to compare with"):
        evaluate.main()
    monkeypatch.setattr(
        evaluation, "real_pictures", lambda _, part: real._replace(against=real.against._replace(subtypes=("x",)))
    )
    beams = flagsaver.flagsaver(model=str(model_dir), subtype="beam")
    with beams, pytest.raises(InputError, match=r"its data \(procedural\) have no beam any more"):
        evaluate.main()


def test_tenths_without_a_step_do_not_count_as_fallen():
    rose = np.concatenate([np.zeros((10, 4)), np.ones((1, 4))])  # in its only step, the last of ten tenths
    assert chain_report._along(rose, 1)["tenths_that_fell"] == 0
    assert chain_report._along(-rose, 1)["tenths_that_fell"] == 1
    assert chain_report._along(rose, 10)["tenths_that_fell"] == 0.9


def test_chains_that_fell_are_those_that_end_below_their_start():
    energies = np.full((11, 4), 8.0)
    energies[5] = -100.0  # on the way does not count
    energies[-1] = [4.0, 8.0, 9.0, 11.0]
    along = chain_report._along(energies, 20)
    assert along["chains_that_fell"] == 0.25 and along["steps"] == list(range(0, 21, 2))
    assert along["mean_energy"] == [*[8.0] * 5, -100.0, *[8.0] * 5]


def test_chains_from_real_pictures_may_be_left_out(evaluate, monkeypatch):
    monkeypatch.setattr(chain_report, "_order", lambda *_: {"real_below_noise": 0.75})
    monkeypatch.setattr(chain_report, "_hold", lambda *_: {})
    drawn = chain_report.Drawn(np.zeros((1, 16, 64), np.uint8), np.linspace(9, -1, 11)[:, None])
    real = evaluation.Real(None, None, "test", None, False, True)
    chains = chain_report.report(None, drawn, [None], real, num_steps=10, hold_steps=0, seed=0)
    assert chains["hold"] is None
    lines = evaluate._chain_lines(chains)
    assert len(lines) == 3 and not any("held-out" in line for line in lines)
    assert lines[0].endswith("by tenths: 9 8 7 6 5 4 3 2 1 0 -1")
    assert lines[1].startswith("chains that end lower than they started: 100.0%")
    assert lines[2] == "energy order (AUC): real below noise 0.750"
    held = {"pictures": 3, "steps": 10, "mean_ink_kept": 0.9, "worst_ink_kept": 0.5, "same_subtype": 1.0}
    *others, last = evaluate._chain_lines({**chains, "hold": held})
    assert others == lines and last.startswith("ink that 3 held-out pictures keep in 10 steps: 90.0% on average, 50.0%")


@pytest.fixture
def four():
    """Four judged pictures: a known beam, a good new one, one like an arch that is not sharp, and a blank."""
    fits = np.array([True, True, True, False])
    in_range = metrics.Definition(fits, fits, np.array([True, True, False, False]), fits)
    figures = metrics.Definition(*(np.ones(4) for _ in range(4)))
    pair = {"pair": ("beam", "deck_arch"), "pair_share": 1.0, "shares": (0.6, 0.6)}
    novelty = [
        metrics.Novelty(mismatch, novel, nearest, "beam", 0.9, kind=kind, **pair)
        for mismatch, novel, nearest, kind in (
            *((0.0, False, "beam", "known"), (0.2, True, "deck_arch", "combination")),
            *((0.4, True, "deck_arch", "new shape"), (1.0, False, None, "blank")),
        )
    ]
    return evaluation.Judged(figures, in_range, novelty, ["A", "A", "B", "C"])


def test_a_picture_is_drawn_as_asked_where_its_nearest_is_what_was_asked(four):
    asked, real = ["beam", "beam", "deck_arch", None], ["beam", "deck_arch"]
    found = evaluation._accuracy(four.nearest, asked, ["beam", "beam"], real)
    assert found["value"] == pytest.approx(2 / 3) and found["ceiling_value"] == 0.5  # a blank asked for nothing
    assert evaluation._accuracy(four.nearest, [None] * 4, real, real) is None
    assert evaluation._accuracy(four.nearest, ["beam"] * 4, real, real)["value"] == 0.25


def test_of_every_sub_type_is_said_how_many_were_asked_for_and_what_became_of_them(four):
    labels = np.array([0, 0, 0, 1])
    test = data.Dataset(np.zeros((4, 8, 32), np.uint8), labels, labels, ("beam", "deck_arch"))
    real = evaluation.Real(test, test, "test", None, False, True)
    rows = evaluation._classes(four, ["beam", "beam", "beam", None], real)
    assert (rows["beam"]["value"], rows["beam"]["ceiling_value"]) == (0.25, 0.75)
    assert (rows["deck_arch"]["value"], rows["deck_arch"]["ceiling_value"]) == (0.5, 0.25)
    of_beams = [rows["beam"][name] for name in ("asked", "drawn_as_asked", "sharp", "verdict_A")]
    assert of_beams == pytest.approx([3, 1 / 3, 2 / 3, 2 / 3]) and "asked" not in rows["deck_arch"]


def test_novel_pictures_count_as_designs_where_they_are_sharp_and_stand(four):
    names = ("beam", "deck_arch", "through_arch", "fan_cable_stayed")
    pictures, fits = np.stack([bridges.render(name, 6, 48, 192) for name in names]), [np.ones(4, bool)] * 4
    found = evaluation._novelty(pictures, four)
    assert found["novel"]["value"] == 0.5 and found["median_mismatch"] == pytest.approx(0.3)
    assert found["kinds"] == {"known": 1, "variant": 0, "combination": 1, "new shape": 1, "blank": 1}
    assert (found["novel_sharp_A"], found["novel_sharp_A_distinct"]) == (1, 1)
    stands, sharp = {"verdicts": ["A"] * 4}, {"in_range": metrics.Definition(*fits)}
    for change in (stands, sharp):  # the other new one lacks something still
        assert evaluation._novelty(pictures, four._replace(**change))["novel_sharp_A"] == 1
    new = {"novelty": [one._replace(novel=True) for one in four.novelty]}
    found = evaluation._novelty(pictures[[0, 1, 0, 1]], four._replace(**stands, **sharp, **new))
    assert (found["novel_sharp_A"], found["novel_sharp_A_distinct"]) == (4, 2)


def test_memorisation_needs_held_out_pictures():
    pictures = np.stack([bridges.render(name, width, 48, 192) for name in ("beam", "deck_arch") for width in range(8)])
    dataset = data.Dataset(pictures, np.arange(16) // 8, np.arange(16) % 8, ("beam", "deck_arch"))
    for held_out in (False, True):
        found = evaluation._sets(pictures, evaluation.Real(dataset, dataset, "test", None, False, held_out))[
            "memorisation"
        ]
        assert (found is not None) == held_out


def test_flags_that_contradict_are_refused(run_script, evaluate, tmp_path):
    done = run_script("evaluate", f"--images={tmp_path}", "--num=3", f"--out={tmp_path / 'out'}")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "--num belongs to --model" in done.stderr.strip().splitlines()[-1]
    assert not (tmp_path / "out").exists()
    (tmp_path / "settings.json").write_text('{"model": {}}')
    with pytest.raises(InputError, match="does not say what the model was trained on"):
        models.training_of(tmp_path)


def test_numbers_for_json(evaluate):
    found = evaluate.finite({"a": [1.5, math.nan], "b": {"c": math.inf}, "d": "x", "e": (2, True, None)})
    assert found == {"a": [1.5, None], "b": {"c": None}, "d": "x", "e": [2, True, None]}
