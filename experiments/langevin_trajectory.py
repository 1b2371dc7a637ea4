"""Fig. 5: chains from noise to bridges, at chosen moments.

    python experiments/langevin_trajectory.py --model=default --out=runs/trajectory

runs 10 chains of 2000 Langevin steps (about a minute on 2 cores, at 128 x 512 some ten), of the sub-types in turn
where the model knows them, and writes their pictures at updates 0, 900 and 1999, in the numbering of the paper's
notebook: frame i is the image after update i + 1.

In the folder: step_0000.png, step_0900.png, step_1999.png (one row per chain), trajectory.png (chains x frames,
each with its energy), trajectory.json (the energies of the frames, and along every chain).
"""

import json
import time

import cli
import jax
import numpy as np
from absl import flags

import bridge_ebm
from bridge_ebm.compose import energies_under
from bridge_ebm.errors import InputError
from bridge_ebm.files import write_atomically
from bridge_ebm.plotting import plot_frames, save_png, sheet
from bridge_ebm.workdir import finite_or_none

MODEL = flags.DEFINE_string("model", None, "A shipped model's name, a model directory, or a training's work directory.")
OUT = flags.DEFINE_string("out", "runs/trajectory", "Folder for the pictures.")
FRAMES = flags.DEFINE_list("frames", ["0", "900", "1999"], "Updates whose pictures to keep, counted from 0.")
SUBTYPE = flags.DEFINE_string("subtype", None, "Sub-type of the chains; 'none': no sub-type (default: all in turn).")
CHAINS = flags.DEFINE_integer("chains", 10, "Number of chains.", lower_bound=1)
STEPS = flags.DEFINE_integer("steps", 2000, "Langevin steps of each chain.", lower_bound=1)
SEED = flags.DEFINE_integer("seed", 0, "Seed of the starts and of the noise.", lower_bound=0, upper_bound=cli.MOST_SEED)


def main() -> None:
    """Run the chains once and write their frames."""
    frames = read_frames(FRAMES.value, STEPS.value)
    model = bridge_ebm.load_model(cli.model_or_default(MODEL.value))
    out = cli.output_folder(OUT.value)
    start_key, chain_key = jax.random.split(jax.random.key(SEED.value))
    settings = model.settings.langevin._replace(num_steps=STEPS.value)
    began = time.perf_counter()
    print(f"{CHAINS.value} chains of {STEPS.value} steps at {model.height} x {model.width} ...", flush=True)
    asked = cli.asked_subtypes(model, SUBTYPE.value, CHAINS.value)
    energy_fn = model.energy_of_each(asked)
    result = bridge_ebm.trajectory(chain_key, model.noise(start_key, CHAINS.value), energy_fn, settings, frames)
    energies = np.stack([np.asarray(energies_under(energy_fn, kept)) for kept in result.frames])
    record = {
        "model": cli.model_or_default(MODEL.value),
        "seed": SEED.value,
        "steps": STEPS.value,
        "subtypes": asked,
        "frames": list(frames),
        "frame_energies": finite_or_none(energies),
        "chain_energies": finite_or_none(result.energies.T),
    }
    write_atomically(out / "trajectory.json", json.dumps(record) + "\n")
    for frame, kept in zip(frames, np.asarray(result.frames), strict=True):
        save_png(out / f"step_{frame:04d}.png", sheet(kept, columns=1))
    plot_frames(out / "trajectory.png", np.asarray(result.frames), energies, [f"update {frame}" for frame in frames])
    seconds, means = time.perf_counter() - began, ", ".join(f"{mean:.3f}" for mean in energies.mean(axis=1))
    print(f"done in {seconds:.0f} s; mean energy at the frames: {means}")
    print("\n".join(f"  {out / name}" for name in ("trajectory.png", *(f"step_{frame:04d}.png" for frame in frames))))


def read_frames(texts: list[str], steps: int) -> tuple[int, ...]:
    """The frames asked for, as numbers; an `InputError` unless each lies in the chain."""
    try:
        frames = tuple(int(text) for text in texts)
    except ValueError:
        raise InputError(
            f"--frames={','.join(texts)}: whole numbers separated by commas, for example 0,900,1999"
        ) from None
    if not frames or not all(0 <= frame < steps for frame in frames):
        raise InputError(f"--frames={','.join(texts)}: frames lie in 0 .. {steps - 1}; raise --steps or choose others")
    return frames


if __name__ == "__main__":
    cli.run(main)
