"""The settings of a training run: one frozen record, from which the flags, `run.cfg` and the model directory are
made.
"""

import dataclasses
import math
from typing import Any

from bridge_ebm.convolution import Precision
from bridge_ebm.errors import InputError


def _setting(
    default: Any,
    help_text: str,
    low: float = -math.inf,
    high: float = math.inf,
    choices: tuple[str, ...] = (),
) -> Any:
    metadata = {"help": help_text, "low": low, "high": high, "choices": choices}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """Everything that decides the numbers of a run; the defaults are those of the paper's notebook.

    Raises an `InputError` that names the flag if a value is out of range or not finite.
    """

    network: str = _setting("paper", "Energy network: 'paper' is Table 1.", choices=("paper",))
    precision: Precision = _setting(  # noqa: RUF009
        "float32",
        "Products of the network: 'float32' is exact, 'bfloat16' accumulates in float32.",
        choices=("float32", "bfloat16"),
    )
    height: int = _setting(48, "Height of the pictures in pixels.", 16)
    width: int = _setting(192, "Width of the pictures in pixels.", 16)
    data: str = _setting(
        "procedural",
        "'procedural' (the rendered bridges), or a folder with one sub-folder of pictures per sub-type.",
    )
    recipe: str = _setting("paper", "Recipe of the procedural data set.", choices=("paper", "varied"))
    per_type: int = _setting(1200, "Pictures of each sub-type in the procedural data set.", 1)
    split: str = _setting(
        "train",
        "Part of the data to train on; 'all' leaves nothing to test with.",
        choices=("train", "validation", "test", "all"),
    )
    seed: int = _setting(0, "Seed of every random draw.", 0, 2**31 - 1)
    epochs: int = _setting(50, "Passes over the data.", 1)
    batch_size: int = _setting(128, "Real pictures, and chains, in each update.", 1)
    buffer_size: int = _setting(8192, "Most pictures the replay buffer holds (at least batch_size).", 1)
    restart: float = _setting(0.05, "Share of the chains that start from fresh noise.", 0.0, 1.0)
    langevin_steps: int = _setting(360, "Langevin steps of the chains in each update.", 1)
    step_size: float = _setting(10.0, "Langevin step size.", 0.0)
    noise: float = _setting(
        0.005, "Standard deviation of the noise in every Langevin step, and on the real pictures.", 0.0
    )
    gradient_clip: float = _setting(0.03, "Largest absolute component of the image gradient in the chains.", 0.0)
    alpha: float = _setting(0.2, "Weight of the regulariser alpha * mean(E(real)^2 + E(fake)^2).", 0.0)
    learning_rate: float = _setting(1e-4, "Learning rate of Adam.", 0.0)
    sample_steps: int = _setting(1000, "Langevin steps of the pictures drawn from noise after every epoch.", 1)

    def __post_init__(self):
        for field in dataclasses.fields(self):
            _check(field, getattr(self, field.name))
        if self.buffer_size < self.batch_size:
            raise InputError(
                f"--buffer_size={self.buffer_size}: the buffer starts with one batch of noise; "
                f"use at least --batch_size={self.batch_size}"
            )


def _check(field: dataclasses.Field, value: Any) -> None:
    """Raise an `InputError` unless `value` has the field's type and lies in its range."""
    name, low, high, choices = (
        field.name,
        field.metadata["low"],
        field.metadata["high"],
        field.metadata["choices"],
    )
    kind = type(field.default)
    if not (isinstance(value, kind) or (kind is float and isinstance(value, int))) or isinstance(value, bool):
        raise InputError(f"--{name}={value!r}: must be of type {kind.__name__}")
    if choices and value not in choices:
        raise InputError(f"--{name}={value}: choose one of {', '.join(choices)}")
    if isinstance(value, int | float) and not (math.isfinite(value) and low <= value <= high):
        bounds = f"from {low:g} to {high:g}" if math.isfinite(high) else f"at least {low:g}"
        raise InputError(f"--{name}={value}: must be a finite number, {bounds}")


def to_flagfile(settings: TrainSettings, command: str) -> str:
    """The text of a flag file that repeats the run; `command` goes into its first comment line."""
    lines = [f"# Repeat this run: {command}"]
    lines += [f"--{field.name}={getattr(settings, field.name)}" for field in dataclasses.fields(settings)]
    return "\n".join(lines) + "\n"


def from_dict(values: dict[str, Any], source: str) -> TrainSettings:
    """Rebuild the settings from a JSON object; unknown, missing or invalid entries raise an `InputError` naming
    `source`.
    """
    known = {field.name for field in dataclasses.fields(TrainSettings)}
    if not isinstance(values, dict) or set(values) != known:
        odd = sorted(known.symmetric_difference(values)) if isinstance(values, dict) else ["not an object"]
        raise InputError(
            f"{source}: not the settings of this version of bridge_ebm ({', '.join(odd)}); use a fresh --workdir"
        )
    try:
        return TrainSettings(**values)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
