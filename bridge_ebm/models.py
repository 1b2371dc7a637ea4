"""Models on disk: a folder with `settings.json` and an Orbax checkpoint, loaded as a frozen record."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax

from bridge_ebm import checkpoint, energy, langevin
from bridge_ebm.errors import InputError

SETTINGS_FILE = "settings.json"
PRETRAINED = Path(__file__).parent / "pretrained"


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """What rebuilds a network, and the sampler that suits it.

    `start` names the distribution of the first images ('uniform' in [-1, 1]); the other fields of the sampler are
    those of `langevin.LangevinSettings`.
    """

    network: str
    precision: energy.Precision
    height: int
    width: int
    start: str
    num_steps: int
    step_size: float
    noise: float
    gradient_clip: float

    @property
    def langevin(self) -> langevin.LangevinSettings:
        """The sampler's constants, as `langevin.sample` takes them."""
        return langevin.LangevinSettings(self.num_steps, self.step_size, self.noise, self.gradient_clip)


@dataclasses.dataclass(frozen=True)
class Model:
    """A trained energy. `params` and `batch_stats` are the network's variables."""

    params: Any
    batch_stats: Any
    settings: ModelSettings

    @property
    def height(self) -> int:
        """Height of its images in pixels."""
        return self.settings.height

    @property
    def width(self) -> int:
        """Width of its images in pixels."""
        return self.settings.width

    def energy(self, subtype: str | None = None) -> langevin.EnergyFn:
        """A pure function from images [B, H, W, 1] to energies [B] (a `Partial`: a pytree, so `jit` takes it as an
        argument).

        `subtype` None is the unconditional energy; raises ValueError if the model knows no sub-types.
        """
        if subtype is not None:
            raise ValueError(f"this model is unconditional, it has no energy of sub-type {subtype!r}")
        network = energy.make_network(self.settings.network, self.settings.precision)
        return energy.energy_function(network, self.params, self.batch_stats)

    def start(self, key: jax.Array, count: int) -> jax.Array:
        """Noise [count, H, W, 1] from which the model's chains start."""
        return langevin.uniform_images(key, (count, self.height, self.width, 1))


def list_models() -> list[str]:
    """Names of the models shipped in the package."""
    return sorted(path.parent.name for path in PRETRAINED.glob(f"*/{SETTINGS_FILE}"))


def load_model(name_or_dir: str | Path) -> Model:
    """Load a shipped model by name, or the newest checkpoint of a model directory or of a training's work directory.

    Raises an `InputError` (a ValueError) that names the folder if there is no model, or if it cannot be read.
    """
    folder = PRETRAINED / name_or_dir if str(name_or_dir) in list_models() else Path(name_or_dir).expanduser()
    settings = _read_settings(folder, str(name_or_dir))
    step = checkpoint.newest_step(folder)
    if step is None:
        raise InputError(
            f"--model={name_or_dir}: no checkpoint in {folder / checkpoint.FOLDER} yet; let the training save one"
        )
    network = energy.make_network(settings.network, settings.precision)
    variables = jax.eval_shape(
        lambda key: energy.init_variables(network, key, settings.height, settings.width), jax.random.key(0)
    )
    target = {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}
    parts = checkpoint.restore(folder, step, {"model": target})
    return Model(parts["model"]["params"], parts["model"]["batch_stats"], settings)


def _read_settings(folder: Path, asked: str) -> ModelSettings:
    path = folder / SETTINGS_FILE
    if not path.exists():
        shipped = ", ".join(list_models()) or "none"
        raise InputError(
            f"--model={asked}: neither a shipped model ({shipped}) nor a folder with {SETTINGS_FILE}; "
            "train one first: python experiments/train.py --flagfile=experiments/flags/quickstart.cfg --workdir=DIR"
        )
    try:
        return ModelSettings(**json.loads(path.read_text())["model"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not the settings of a model ({error}); restore the file or train again") from None
