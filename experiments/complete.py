"""Erase half the members of held-out bridges and let a model draw them again.

    python experiments/complete.py --out=runs/complete

Every trial takes a base picture of a member width that no training saw (the test part of the data), keeps half of its
members, drawn at random, and runs a chain under the energy of its sub-type, in which what is left stays to
the last pixel. The structural analysis judges the result. `discover.py --keep` does this with a drawing of yours.

In the folder: complete.png (two trials in a row, each what was left, what the model made of it, the whole bridge) and
complete.json (counts of verdicts, and every trial).
"""

import json

import cli
import numpy as np
from absl import flags

import bridge_ebm
from bridge_ebm import bridges, data, generate, geometry, metrics, raster, structure
from bridge_ebm.errors import InputError
from bridge_ebm.files import write_atomically
from bridge_ebm.plotting import save_png, sheet
from bridge_ebm.studio import Held

MODEL = flags.DEFINE_string("model", None, "A shipped model's name, a model directory, or a training's work directory.")
OUT = flags.DEFINE_string("out", "runs/complete", "Folder for the pictures and the report.")
TRIALS = flags.DEFINE_integer("trials", 50, "Sketches to complete.", lower_bound=1)
SEED = flags.DEFINE_integer(
    "seed", 0, "Seed of what is erased, and of the chains.", lower_bound=0, upper_bound=cli.MOST_SEED
)

TEST_WIDTHS = (6, 14)  # of the base pictures in the test part (data.split)
INKED = 0.1  # grey from which on a pixel is drawn


def main() -> None:
    """Draw the sketches, complete them, judge them."""
    model = bridge_ebm.load_model(cli.model_or_default(MODEL.value))
    known = [name for name in model.settings.subtypes if name in bridges.SUBTYPES]
    if not known:
        raise InputError(f"--model={MODEL.value}: this model does not know the paper's sub-types; use another --model")
    out = cli.output_folder(OUT.value)
    rng = np.random.default_rng(SEED.value)
    names = [known[trial % len(known)] for trial in range(TRIALS.value)]
    widths = [int(rng.choice(TEST_WIDTHS)) for _ in names]
    size = model.height, model.width
    sketches = np.stack([sketch(rng, *one, *size) for one in zip(names, widths, strict=True)])
    whole = np.stack([bridges.render(*one, *size) for one in zip(names, widths, strict=True)])

    held = Held((sketches > INKED * 255)[..., None], data.to_unit(sketches))
    completed = generate.complete(model, SEED.value, names, held)

    sharp = metrics.is_sharp(completed)
    trials = [
        {"subtype": name, "width_index": width, "verdict": structure.analyse(picture).verdict, "sharp": bool(clear)}
        for name, width, picture, clear in zip(names, widths, completed, sharp, strict=True)
    ]
    counts = {verdict: sum(trial["verdict"] == verdict for trial in trials) for verdict in "ABC"}
    record = {
        "model": cli.model_or_default(MODEL.value),
        "seed": SEED.value,
        "verdicts": counts,
        "sharp": int(sharp.sum()),
        "trials": trials,
    }
    write_atomically(out / "complete.json", json.dumps(record, indent=1) + "\n")
    rows = np.stack([sketches, completed, whole], axis=1).reshape(-1, *size)
    save_png(out / "complete.png", sheet(data.to_unit(rows), columns=6 if len(names) > 1 else 3))
    verdicts = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    print(f"{len(names)} sketches completed: {verdicts}; {int(sharp.sum())} sharp")
    print("\n".join(f"  {out / name}" for name in ("complete.png", "complete.json")))


def sketch(rng: np.random.Generator, subtype: str, width_index: int, height: int, width: int) -> np.ndarray:
    """A base picture, uint8 [height, width], without half of its members."""
    members = geometry.members(bridges.PAPER[subtype])
    kept = np.sort(rng.permutation(len(members))[: (len(members) + 1) // 2])
    scale = bridges.drawn_scale(height, width)
    full = raster.draw([members[k] for k in kept], bridges.inks(subtype, width_index), scale)
    return raster.area_average(full, height, width)


if __name__ == "__main__":
    cli.run(main)
