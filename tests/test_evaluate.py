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
    assert 8 < record["reference"]["test_pictures"] < 32 < record["reference"]["train_pictures"] < 192
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


def test_exact_mirror_images_have_a_ceiling_of_their_own():
    def ceilings(name, symmetric_only=True):
        pictures = np.stack([bridges.render(name, width, 48, 192) for width in range(16)])
        dataset = data.Dataset(pictures, np.zeros(16, int), np.arange(16), (name,))
        real = evaluation.Real(dataset, dataset, None, symmetric_only, held_out=False)
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
    def without_beams(training):
        return real._replace(test=evaluation.of_subtypes(real.test, set(real.test.subtypes) - {"beam"}))

    real = evaluation.real_pictures(models.training_of(model_dir))
    monkeypatch.setattr(evaluation, "real_pictures", without_beams)
    beams = flagsaver.flagsaver(model=str(model_dir), subtype="beam")
    with beams, pytest.raises(InputError, match="no mirror-symmetric test pictures of beam to compare with"):
        evaluate.main()
    monkeypatch.setattr(evaluation, "real_pictures", lambda _: real._replace(test=real.test._replace(subtypes=("x",))))
    beams = flagsaver.flagsaver(model=str(model_dir), subtype="beam")
    with beams, pytest.raises(InputError, match=r"its data \(procedural\) have no beam any more"):
        evaluate.main()


def test_tenths_without_a_step_do_not_count_as_fallen():
    rose = np.concatenate([np.zeros((10, 4)), np.ones((1, 4))])  # in its only step, the last of ten tenths
    assert chain_report._along(rose, 1)["tenths_that_fell"] == 0
    assert chain_report._along(-rose, 1)["tenths_that_fell"] == 1
    assert chain_report._along(rose, 10)["tenths_that_fell"] == 0.9


def test_memorisation_needs_held_out_pictures():
    pictures = np.stack([bridges.render(name, width, 48, 192) for name in ("beam", "deck_arch") for width in range(8)])
    dataset = data.Dataset(pictures, np.arange(16) // 8, np.arange(16) % 8, ("beam", "deck_arch"))
    for held_out in (False, True):
        found = evaluation._sets(pictures, evaluation.Real(dataset, dataset, None, False, held_out))["memorisation"]
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
