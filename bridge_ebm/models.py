"""Models on disk: a folder with `settings.json` and an Orbax checkpoint, loaded as a frozen record."""

import dataclasses
import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from bridge_ebm import checkpoint, coarse, compose, energy, langevin, mirror, pictures
from bridge_ebm.errors import InputError
from bridge_ebm.files import write_atomically
from bridge_ebm.settings import TrainSettings, from_dict

SETTINGS_FILE = "settings.json"
_LARGEST = 10**9  # of any number among the settings
_CHANNELS = 4096
_REACH = 5
_COARSE = "coarse"  # the folder, in an exported one, of the model that its chains begin at
_PARTIAL = "export.partial"  # the folder, in an exported one, that holds it until it is complete
PRETRAINED = Path(__file__).parent / "pretrained"


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """What rebuilds a network, and the sampler that suits it.

    `subtypes` are the classes it knows, in the order of its labels (none: an unconditional model). `mirror`: it sees
    halves of pictures. `start` names the distribution of the first images: 'uniform' in [-1, 1], or
    'uniform_mirrored', the same with a mirror-symmetric right half. The other fields of the sampler are those of
    `langevin.LangevinSettings`. `levels` (one per sub-type, or none): a picture's energy without a class is then the
    lowest of what the network gives it (its half, with `mirror`) as one of the sub-types, less that one's level;
    without them, what the network gives it as "no class". `coarse_model` names a model of a smaller size (as
    `load_model` does) whose pictures, enlarged, are where the chains that draw begin; '' is noise.
    """

    network: str
    channels: int
    precision: energy.Precision
    subtypes: tuple[str, ...]
    mirror: bool
    height: int
    width: int
    start: str
    num_steps: int
    step_size: float
    noise: float
    gradient_clip: float
    reach: int = 0
    levels: tuple[float, ...] = ()
    coarse_model: str = ""
    tolerance: float = 0.0

    @property
    def langevin(self) -> langevin.LangevinSettings:
        """The sampler's constants, as `langevin.sample` takes them."""
        constants = self.num_steps, self.step_size, self.noise, self.gradient_clip, self.tolerance
        return langevin.LangevinSettings(*constants)


@dataclasses.dataclass(frozen=True)
class Model:
    """A trained energy. `params` and `batch_stats` are the network's variables, `coarse` is the model whose pictures
    its chains begin at, where they do.
    """

    params: Any
    batch_stats: Any
    settings: ModelSettings
    coarse: "Model | None" = None

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

        `subtype` None is the unconditional energy; raises ValueError if the model does not know the sub-type.
        """
        if subtype is None and self.settings.levels:
            copies = 2 if self.settings.mirror else 1
            return self._of_any(self.energy, [copies * level for level in self.settings.levels])
        return self._whole(self._seen_energy([subtype]))

    def energy_of_each(self, subtypes: Sequence[str | None]) -> langevin.EnergyFn:
        """As `energy`, for exactly len(subtypes) images, each judged as its own sub-type. All None is the unconditional
        energy; among sub-types None is the network's "no class".
        """
        if set(subtypes) == {None}:
            return self.energy()
        return self._whole(self._seen_energy([*subtypes] * (2 if self.settings.mirror else 1)))

    def half_energy(self, subtype: str | None = None) -> langevin.EnergyFn:
        """The energy of halves of pictures [B, H, W/2, 1] (left ones, or mirrored right ones), of which `energy` adds
        up two; raises ValueError for a model of whole pictures.
        """
        if not self.settings.mirror:
            raise ValueError("this model sees whole pictures, it has no energy of halves")
        if subtype is None and self.settings.levels:
            return self._of_any(self.half_energy, self.settings.levels)
        return self._seen_energy([subtype])

    def without_levels(self) -> "Model":
        """The same, with what the network itself gives pictures of "no class" for the energy without a class: a
        function like that of the sub-types, so that `compose.one_of` takes them together.
        """
        return dataclasses.replace(self, settings=dataclasses.replace(self.settings, levels=()))

    def noise(self, key: jax.Array, count: int) -> jax.Array:
        """Noise [count, H, W, 1] of the distribution that `settings.start` names."""
        if self.settings.mirror:
            return mirror.unfold(langevin.uniform_images(key, (count, self.height, self.width // 2, 1)))
        return langevin.uniform_images(key, (count, self.height, self.width, 1))

    def start(self, key: jax.Array, count: int, subtype: str | None = None) -> jax.Array:
        """Where the model's chains of a sub-type (None: without a class) start, [count, H, W, 1]: noise, or pictures
        of that sub-type by the coarse model, enlarged, with some noise (`coarse.start`).
        """
        if self.coarse is None:
            return self.noise(key, count)
        small_key, start_key = jax.random.split(key)
        small = self.coarse.draw(small_key, count, subtype)
        if not self.settings.mirror:
            return coarse.start(start_key, small, self.height, self.width)
        half = small[:, :, : self.coarse.width // 2]
        return mirror.unfold(coarse.start(start_key, half, self.height, self.width // 2))

    def draw(self, key: jax.Array, count: int, subtype: str | None = None, num_steps: int | None = None) -> jax.Array:
        """`count` new pictures [count, H, W, 1]: the ends of chains from `start`, of `num_steps` steps (None: the
        model's own number).

        A model of halves runs its chains on halves, at half the cost.
        """
        start_key, chain_key = jax.random.split(key)
        settings = self.settings.langevin
        if num_steps is not None:
            settings = settings._replace(num_steps=num_steps)
        start = self.start(start_key, count, subtype)
        if not self.settings.mirror:
            return langevin.compiled_sample(chain_key, start, self.energy(subtype), settings)
        left = start[:, :, : self.width // 2]
        return mirror.unfold(langevin.compiled_sample(chain_key, left, self.half_energy(subtype), settings))

    def _of_any(self, energy_of: Callable[[str], Any], levels: Sequence[float]) -> langevin.EnergyFn:
        return compose.lowest([energy_of(name) for name in self.settings.subtypes], levels)

    def _whole(self, seen: langevin.EnergyFn) -> langevin.EnergyFn:
        return jax.tree_util.Partial(mirror.energy_of_halves, seen) if self.settings.mirror else seen

    def _seen_energy(self, subtypes: Sequence[str | None]) -> langevin.EnergyFn:
        """The energy of what the network sees, of one sub-type for all images or of one for each."""
        known = self.settings.subtypes
        for subtype in subtypes:
            if subtype is not None and subtype not in known:
                raise ValueError(
                    f"this model has no energy of sub-type {subtype!r}: it knows {', '.join(known) or 'no sub-types'}"
                )
        network = energy.make_network(self.settings, len(known))
        labels = [len(known) if subtype is None else known.index(subtype) for subtype in subtypes]
        told = jnp.asarray(labels if len(labels) > 1 else labels[0], jnp.int32) if known else None
        return energy.energy_function(network, self.params, self.batch_stats, told)


def list_models() -> list[str]:
    """Names of the models shipped in the package."""
    return sorted(path.parent.name for path in PRETRAINED.glob(f"*/{SETTINGS_FILE}"))


def load_model(name_or_dir: str | Path, flag: str = "--model") -> Model:
    """Load a shipped model by name, or the newest checkpoint of a model directory or of a training's work directory.

    Raises an `InputError` (a ValueError) that names the folder if there is no model, or if it cannot be read; `flag` is
    what named it.
    """
    return _load(name_or_dir, flag)[1]


def _load(name_or_dir: str | Path, flag: str) -> tuple[int, Model]:
    """The update at which the model was saved, and the model."""
    folder = folder_of(name_or_dir)
    settings = _read_settings(folder, f"{flag}={name_or_dir}")
    network = energy.make_network(settings, len(settings.subtypes))
    width = settings.width // 2 if settings.mirror else settings.width
    variables = jax.eval_shape(
        lambda key: energy.init_variables(network, key, settings.height, width), jax.random.key(0)
    )
    target = {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}
    found = checkpoint.restore_newest(folder, {"model": target})
    if found is None:
        raise InputError(
            f"{flag}={name_or_dir}: no checkpoint in {folder / checkpoint.FOLDER} yet; let the training save one"
        )
    model = found[1]["model"]
    return found[0], Model(model["params"], model["batch_stats"], settings, coarse_of(settings, folder))


def coarse_of(settings: ModelSettings, folder: Path | None = None) -> Model | None:
    """The model that `settings.coarse_model` names, None for none: one in the model's `folder`, or as `load_model`
    takes it. Raises an `InputError` unless it has the same sub-types, in the same proportions, at a smaller size.
    """
    name = settings.coarse_model
    if not name:
        return None
    where = _coarse_folder(name, folder)
    if not (where / SETTINGS_FILE).is_file():
        raise InputError(
            f"--coarse_model={name}: neither a shipped model ({', '.join(list_models())}) nor a folder with "
            f"{SETTINGS_FILE}; restore that folder, or train the small model first"
        )
    found = _read_settings(where, f"--coarse_model={name}")
    alike = found.width * settings.height == found.height * settings.width and found.subtypes == settings.subtypes
    if not alike or found.height >= settings.height:
        raise InputError(
            f"--coarse_model={name}: its pictures are {found.height} x {found.width}; name a model of the same "
            f"sub-types, in the proportions of {settings.height} x {settings.width} and smaller"
        )
    return load_model(where, "--coarse_model")


def _coarse_folder(name: str, folder: Path | None) -> Path:
    inside = None if folder is None else folder / name
    return inside if inside is not None and (inside / SETTINGS_FILE).is_file() else folder_of(name)


def training_of(name_or_dir: str | Path) -> TrainSettings:
    """The settings of the training that made a model, which say what its pictures were. Raises an `InputError` that
    names the file if it does not say so.
    """
    path = folder_of(name_or_dir) / SETTINGS_FILE
    try:
        return from_dict(json.loads(path.read_text(encoding="utf-8"))["training"], str(path))
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"{path}: does not say what the model was trained on; restore the file") from None


def folder_of(name_or_dir: str | Path) -> Path:
    """The folder of a shipped model, by its name, or of a model or training, by its path."""
    return PRETRAINED / name_or_dir if str(name_or_dir) in list_models() else Path(name_or_dir).expanduser()


def _read_settings(folder: Path, asked: str) -> ModelSettings:
    """The settings of the model in `folder`, for which a user wrote `asked`: a flag and its value."""
    path = folder / SETTINGS_FILE
    if not path.exists():
        shipped = ", ".join(list_models()) or "none"
        raise InputError(
            f"{asked}: neither a shipped model ({shipped}) nor a folder with {SETTINGS_FILE}; "
            "train one first: python experiments/train.py --flagfile=experiments/flags/quickstart.cfg --workdir=DIR"
        )
    try:
        record = json.loads(path.read_text(encoding="utf-8"))["model"]
        lists = {"subtypes": tuple(record["subtypes"]), "levels": tuple(record.get("levels", ()))}
        settings = ModelSettings(**{**record, **lists})
        _check_settings(settings)
        return settings
    except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise InputError(f"{path}: not the settings of a model ({error}); restore the file or train again") from None


def _check_settings(settings: ModelSettings) -> None:
    """Raise a ValueError that names an entry of settings.json which no training writes."""
    for field in dataclasses.fields(ModelSettings):
        value = getattr(settings, field.name)
        if field.type in (int, float):
            right = not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)
            right = right and (field.type is float or isinstance(value, int)) and 0 <= value <= _LARGEST
        else:
            right = isinstance(value, field.type if isinstance(field.type, type) else (str, tuple))
        if not right:
            raise ValueError(f"{field.name} is {str(value)[:40]!r}")
    if not all(isinstance(name, str) for name in settings.subtypes):
        raise ValueError("a sub-type is no text")
    numbers = all(isinstance(level, float) and abs(level) <= _LARGEST for level in settings.levels)
    if not numbers or len(settings.levels) not in (0, len(settings.subtypes)):
        raise ValueError("levels are not a number for each sub-type")
    for name in ("channels", "height", "width", "num_steps"):
        if getattr(settings, name) < 1:
            raise ValueError(f"{name} is {getattr(settings, name)}")
    if settings.height * settings.width > pictures.MAX_PIXELS or settings.channels > _CHANNELS:
        raise ValueError(f"{settings.height} x {settings.width} pixels and {settings.channels} channels are too many")
    if settings.reach > _REACH:
        raise ValueError(f"reach is {settings.reach}")
    if settings.precision not in ("float32", "bfloat16") or settings.start not in ("uniform", "uniform_mirrored"):
        raise ValueError(f"precision {settings.precision!r} or start {settings.start!r} is unknown")
    if (settings.start == "uniform_mirrored") != settings.mirror:
        raise ValueError(f"start {settings.start!r} is not that of a model of {'halves' * settings.mirror or 'wholes'}")
    energy.make_network(settings, len(settings.subtypes))


def export(workdir: str | Path, folder: Path) -> None:
    """Write the model of a work directory to a new `folder`, without the training's optimiser and replay buffer; the
    coarse model that its chains begin at, where that is not a shipped one, goes to a folder in it. A full disk, or a
    kill while it writes, leaves nothing that would stop the next export there; only a kill in the instant in which the
    parts take their places may.

    Raises an `InputError` if there is no model in `workdir`, or something in `folder` already.
    """
    step, model = _load(workdir, "--workdir")
    partial = folder / _PARTIAL  # in `folder`, which may be a mounted one: nothing can be renamed to that
    if folder.exists() and any(entry != partial for entry in folder.iterdir()):
        raise InputError(f"--out={folder}: there is something in it already; name a new folder")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        _write_model(partial, step, model, folder_of(workdir))
        for entry in sorted(partial.iterdir()):  # settings.json last, which makes it a model
            entry.rename(folder / entry.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_model(folder: Path, step: int, model: Model, source: Path) -> None:
    record = json.loads((source / SETTINGS_FILE).read_text(encoding="utf-8"))
    name = model.settings.coarse_model
    if name and name not in list_models():
        export(_coarse_folder(name, source), folder / _COARSE)
        record["model"]["coarse_model"] = record["training"]["coarse_model"] = _COARSE
    checkpoint.save(folder, step, {"model": {"params": model.params, "batch_stats": model.batch_stats}})
    (folder / SETTINGS_FILE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def set_levels(folder: Path, levels: Sequence[float]) -> None:
    """Give the model in `folder` the `levels` of its sub-types, see `ModelSettings`."""
    path = folder / SETTINGS_FILE
    record = json.loads(path.read_text(encoding="utf-8"))
    record["model"]["levels"] = [float(level) for level in levels]
    write_atomically(path, json.dumps(record, indent=1) + "\n")
