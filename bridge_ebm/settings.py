"""The settings of a training run: one frozen record, from which the flags, `run.cfg` and the model directory are
made.
"""

import dataclasses
import math
from typing import Any

from bridge_ebm.convolution import Precision
from bridge_ebm.errors import InputError
from bridge_ebm.replay import Choice

_ABOVE_ZERO, _BELOW_ONE = math.nextafter(0.0, 1.0), math.nextafter(1.0, 0.0)


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
    """Everything that decides the numbers of a run; the defaults are those of the paper's notebook (which trained on
    --split=all).

    Raises an `InputError` that names the flag if a value is out of range or not finite.
    """

    network: str = _setting(
        "paper", "Energy network: 'paper' is Table 1, 'multiscale' is sharper.", choices=("paper", "multiscale")
    )
    channels: int = _setting(64, "Channels of the multiscale network's first layer.", 1)
    reach: int = _setting(
        0, "Convolutions of a multiscale network that sees only 2^(reach + 1) + 1 pixels about each (0: all).", 0, 5
    )
    conditional: bool = _setting(False, "Teach the multiscale network the sub-types, and 'no class' beside them.")
    mirror: bool = _setting(
        False, "Train on halves of the mirror-symmetric pictures, centred: half the work, symmetric bridges."
    )
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
    save_every: int = _setting(0, "Save and draw pictures every this many updates (0: after every epoch).", 0)
    batch_size: int = _setting(128, "Real pictures in each update, and chains of the contrastive objective.", 1)
    objective: str = _setting(
        "contrastive",
        "'contrastive' is the paper's; 'equilibrium' and 'energy_matching' regress the energy's gradient.",
        choices=("contrastive", "equilibrium", "energy_matching"),
    )

    learning_rate: float = _setting(1e-4, "Learning rate of Adam.", 0.0)
    adam_b1: float = _setting(0.9, "Decay of Adam's mean of the gradient.", 0.0, _BELOW_ONE)
    adam_b2: float = _setting(0.999, "Decay of Adam's mean of the squared gradient.", 0.0, _BELOW_ONE)
    warmup: int = _setting(0, "Updates over which the learning rate rises to its value.", 0)
    decay: int = _setting(
        0, "Update at which the learning rate has fallen to a hundredth, along half a cosine (0: it stays).", 0
    )
    norm_clip: float = _setting(0.0, "Largest norm of the parameter gradient (0: no bound).", 0.0)
    ema: float = _setting(
        0.0, "Decay of the moving average of the weights, which then is the model (0: no average).", 0.0, _BELOW_ONE
    )

    buffer_size: int = _setting(8192, "Most pictures the replay buffer holds (at least one update's chains).", 1)
    replay: Choice = _setting(  # noqa: RUF009
        "whole",
        "What chains continue from: 'whole' is the paper's, any picture of the buffer; 'rounded' the same in 256 grey "
        "levels, a quarter of the traffic between devices; 'own' what the same chain left, no traffic.",
        choices=("whole", "rounded", "own"),
    )
    restart: float = _setting(
        0.05, "Share of the chains that start afresh (in the finish, a sixteenth of it at every other place).", 0.0, 1.0
    )
    langevin_steps: int = _setting(360, "Langevin steps of the chains in each update.", 1)
    step_size: float = _setting(10.0, "Langevin step size.", _ABOVE_ZERO)
    noise: float = _setting(
        0.005, "Standard deviation of the noise in every Langevin step, and on the real pictures.", 0.0
    )
    gradient_clip: float = _setting(
        0.03, "Largest absolute component of the image gradient in the chains.", _ABOVE_ZERO
    )
    alpha: float = _setting(0.2, "Weight of the regulariser alpha * mean(E(real)^2 + E(fake)^2).", 0.0)

    unconditional: float = _setting(0.15, "Share of the pictures that a conditional network sees as 'no class'.", 0, 1)
    margin: float = _setting(
        0.0,
        "How far beyond black and white gradient regression aims, so that chains end on them and not close by.",
        0.0,
        0.5,
    )
    ink_margin: float = _setting(
        0.0,
        "How much more ink than a grey pixel has gradient regression aims at, as a share, so that thin members do not "
        "end paler than they are.",
        0.0,
        0.5,
    )
    blend: bool = _setting(
        False,
        "Gradient regression learns from blends of each picture with the nearest one of the next base picture, which "
        "is the next member width.",
    )
    coarse_height: int = _setting(
        0,
        "Half of gradient regression's paths, and of the finish's fresh chains, begin at pictures that were reduced to "
        "this height and enlarged again (0: none).",
        0,
    )
    finish_after: int = _setting(
        0, "Updates of gradient regression after which the contrastive finish joins in (0: never).", 0
    )
    finish_weight: float = _setting(0.001, "Weight of the finish's max(E(real) - E(fake), -floor).", 0.0)
    finish_floor: float = _setting(
        20.0, "Energy gap beyond which the finish leaves real and fake pictures of a class alone.", 0.0
    )
    finish_trim: float = _setting(
        0.1, "Share of the chains, those highest above real pictures of their class, that the finish drops.", 0.0, 0.9
    )
    finish_level: float = _setting(
        0.0, "Weight of the mean square of E(real) less its class's mean, beside the finish's energy gap.", 0.0
    )
    finish_hold: float = _setting(
        0.0,
        "Weight of the finish's regression at the ends of chains that began at real pictures and are near: it aims "
        "back at them (0: none).",
        0.0,
    )
    finish_chains: int = _setting(48, "Chains of each update of the finish.", 1)
    finish_arrival: int = _setting(100, "Langevin steps of the finish's fresh chains from noise.", 1)
    finish_learning_rate: float = _setting(2e-4, "Learning rate of Adam in the finish.", 0.0)
    finish_decay: int = _setting(
        0, "Update of the finish at which its learning rate has fallen to a hundredth (0: it stays).", 0
    )

    microbatch: int = _setting(
        0,
        "Members of the batch whose gradient, and chains, a device computes at a time; bounds the memory "
        "(0: what fits the cache on a CPU, all at once elsewhere).",
        0,
    )
    remat: bool = _setting(
        False, "Keep only what convolutions give for the gradient, and compute the rest twice: less memory."
    )

    coarse_model: str = _setting(
        "", "Model (a name or a folder) whose pictures, enlarged, the chains that draw begin at ('': noise)."
    )
    sample_steps: int = _setting(1000, "Langevin steps of the pictures drawn from noise.", 1)
    sample_step_size: float = _setting(0.0, "Their step size, and that of the trained model (0: --step_size).", 0.0)
    sample_tolerance: float = _setting(
        0.0, "Slope, root mean square of a pixel, below which their chains have arrived and stay (0: none).", 0.0
    )

    def __post_init__(self):
        for field in dataclasses.fields(self):
            _check(field, getattr(self, field.name))
        if self.keeps_chains and self.buffer_size < self.chains:
            raise InputError(
                f"--buffer_size={self.buffer_size}: does not hold the chains of one update; use at least {self.chains}"
            )
        if self.conditional and (self.network == "paper" or self.objective == "contrastive"):
            raise InputError(
                "--conditional: only --network=multiscale learns the sub-types, and only with --objective=equilibrium "
                "or energy_matching"
            )
        if self.replay == "own" and self.objective != "contrastive":
            raise InputError("--replay=own: only --objective=contrastive has a chain for every row of the buffer")
        if self.blend and self.objective == "contrastive":
            raise InputError("--blend: only --objective=equilibrium or energy_matching learns from blends")
        if (self.finish_after or self.margin or self.ink_margin) and self.objective == "contrastive":
            raise InputError(
                "--finish_after, --margin, --ink_margin: only for --objective=equilibrium or energy_matching"
            )
        if self.reach and self.network == "paper":
            raise InputError(f"--reach={self.reach}: only --network=multiscale can see less than all")
        if self.finish_after and self.restart and not self.fresh_chains:
            raise InputError(
                f"--restart={self.restart:g}: of --finish_chains={self.finish_chains} that is not one chain; raise one "
                "of the two, or use --restart=0"
            )
        if self.finish_hold and self.objective != "equilibrium":
            raise InputError(
                f"--finish_hold={self.finish_hold:g}: only --objective=equilibrium has wells at pictures to aim at"
            )
        if self.coarse_height and (self.objective != "equilibrium" or self.coarse_height >= self.height):
            raise InputError(
                f"--coarse_height={self.coarse_height}: only --objective=equilibrium has paths from coarse pictures, "
                f"which must be smaller than --height={self.height}"
            )
        if self.coarse_model and not self.coarse_height:
            raise InputError(f"--coarse_model={self.coarse_model}: give its height as --coarse_height to train for it")
        if self.mirror and self.width % 2:
            raise InputError(f"--mirror: --width={self.width} cannot be halved; use an even width")

    @property
    def holds(self) -> bool:
        """Whether the finish keeps the pictures that its chains began at."""
        return self.finish_after > 0 and self.finish_hold > 0

    @property
    def chains(self) -> int:
        """Chains in each update."""
        return self.batch_size if self.objective == "contrastive" else self.finish_chains

    @property
    def fresh_chains(self) -> int:
        """Chains of each update of the finish that may begin afresh."""
        return round(self.restart * self.finish_chains)

    @property
    def keeps_chains(self) -> bool:
        """Whether chains go on from update to update, in a replay buffer."""
        return self.objective == "contrastive" or self.finish_after > 0

    @property
    def shared(self) -> dict[str, int]:
        """Numbers of pictures, by flag, that several devices share out equally."""
        shared = {"batch_size": self.batch_size}
        if self.objective != "contrastive" and self.finish_after:
            shared |= {"buffer_size": self.buffer_size, "finish_chains": self.finish_chains}
        return shared

    @property
    def seen_width(self) -> int:
        """Width of what the network sees: with `mirror` half of the picture."""
        return self.width // 2 if self.mirror else self.width


def _check(field: dataclasses.Field, value: Any) -> None:
    """Raise an `InputError` unless `value` has the field's type and lies in its range."""
    name, low, high, choices = (
        field.name,
        field.metadata["low"],
        field.metadata["high"],
        field.metadata["choices"],
    )
    kind = type(field.default)
    fits = isinstance(value, kind) or (kind is float and isinstance(value, int))
    if not fits or (isinstance(value, bool) and kind is not bool):
        raise InputError(f"--{name}={value!r}: must be of type {kind.__name__}")
    if isinstance(value, str) and not _fits_a_line(value):
        raise InputError(f"--{name}={value!r}: holds a line break or what is no text; rename that folder")
    if choices and value not in choices:
        raise InputError(f"--{name}={value}: choose one of {', '.join(choices)}")
    if isinstance(value, int | float) and not (math.isfinite(value) and low <= value <= high):
        bounds = _bounds(low, high)
        raise InputError(f"--{name}={value}: must be a finite number, {bounds}")


def _bounds(low: float, high: float) -> str:
    if low == _ABOVE_ZERO:
        return "above 0"
    if high == _BELOW_ONE:
        return f"at least {low:g} and below 1"
    return f"from {low:g} to {high:g}" if math.isfinite(high) else f"at least {low:g}"


def _fits_a_line(text: str) -> bool:
    """Whether a flag file can hold `text`: one line, and bytes of a file name that are UTF-8."""
    plain = not any(character < " " or "\ud800" <= character <= "\udfff" for character in text)
    return plain and len(text.splitlines()) <= 1


def to_flagfile(settings: TrainSettings, command: str) -> str:
    """The text of a flag file that repeats the run; `command` goes into its first comment line."""
    lines = [f"# Repeat this run: {command}"]
    lines += [f"--{field.name}={getattr(settings, field.name)}" for field in dataclasses.fields(settings)]
    return "\n".join(lines) + "\n"


def from_dict(values: dict[str, Any], source: str) -> TrainSettings:
    """Rebuild the settings from a JSON object; unknown or invalid entries raise an `InputError` naming `source`.

    A missing entry is a setting younger than the run, and has its default: the way it was before there was a choice.
    """
    known = {field.name for field in dataclasses.fields(TrainSettings)}
    if not isinstance(values, dict) or not known.issuperset(values):
        odd = sorted(set(values) - known) if isinstance(values, dict) else ["not an object"]
        raise InputError(
            f"{source}: not the settings of this version of bridge_ebm ({', '.join(odd)}); use a fresh --workdir"
        )
    try:
        return TrainSettings(**values)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
