"""Make a model folder of a few MB out of a training's work directory, to share or to ship.

    python experiments/export_model.py --workdir=runs/default --out=models/mine

The folder holds settings.json (the network, its sampler, and the flags that trained it) and the newest checkpoint's
weights; --model=models/mine then uses it like a work directory.
"""

from pathlib import Path

import cli
from absl import flags

from bridge_ebm import models

WORKDIR = flags.DEFINE_string("workdir", None, "Work directory of the training.", required=True)
OUT = flags.DEFINE_string("out", None, "New folder for the model.", required=True)


def main() -> None:
    """Export, and say how large it is."""
    folder = Path(OUT.value).expanduser()
    models.export(WORKDIR.value, folder)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    cli.run(main)
