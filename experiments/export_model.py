"""Make a model folder of a few MB out of a training's work directory, to share or to ship.

    python experiments/export_model.py --workdir=runs/default --out=models/mine

The folder holds settings.json (the network, its sampler, and the flags that trained it) and the newest checkpoint's
weights; --model=models/mine then uses it like a work directory. With --levels its energy without a class is that of
any of its sub-types, the lowest less its level, at the levels that let chains find each of them about as often.
"""

from pathlib import Path

import cli
import jax
from absl import flags

from bridge_ebm import balance, models
from bridge_ebm.errors import InputError

WORKDIR = flags.DEFINE_string("workdir", None, "Work directory of the training.", required=True)
OUT = flags.DEFINE_string("out", None, "New folder for the model.", required=True)
LEVELS = flags.DEFINE_bool(
    "levels",
    False,
    "Without a class, let it draw its sub-types about equally often: find their levels (takes minutes).",
)


def main() -> None:
    """Export, and say how large it is."""
    folder = Path(OUT.value).expanduser()
    if LEVELS.value and not models.load_model(WORKDIR.value, "--workdir").settings.subtypes:
        raise InputError(f"--levels: the model in {WORKDIR.value} knows no sub-types; leave --levels out")
    models.export(WORKDIR.value, folder)
    if LEVELS.value:
        models.set_levels(folder, balance.levels(models.load_model(folder), jax.random.key(0)).tolist())
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    cli.run(main)
