"""New bridge types: generate candidates, judge each one, and show the best.

    python experiments/discover.py --model=default --out=runs/discover

makes 2000 candidates from the default mix of compositions (seven minutes on one core; with --model=default_128x512 a
good half hour), screens each one's structure, definition and novelty, and writes DIR/gallery.html, DIR/designs.jsonl,
DIR/designs/*.png and DIR/summary.json. Run the same command again to continue after an interruption, or with a larger
--num for more. To steer it:

    --combine=fan_cable_stayed,through_arch          these sub-types, and no others
    --main_span=through_arch --side_spans=fan_cable_stayed
    --symmetric                                      the two sides alike
    --keep=sketch.png                                these pixels stay (black on white): a deck, piers, a sketch
    --ways=spans,levels                              only these ways of making

The ways: spans (a sub-type in the side spans, another in the main span), levels (others above and below the deck),
sides (left and right differ); regional (like these three, but all energies act on one picture); blend (the sum of two
energies), either (one or the other), without (one and not the other), subtype (one alone), restart (chains that go on
from a training's replay buffer).

Novel is what has other lines than the training pictures: the paper's 75 views of every sub-type, or of other data at
most 75 pictures a sub-type, evenly picked.
"""

import math
from contextlib import nullcontext
from pathlib import Path

import cli
import jax.numpy as jnp
import numpy as np
from absl import flags
from tqdm.auto import tqdm

import bridge_ebm
from bridge_ebm import bridges, checkpoint, discovery, evaluation, lock, models, plans, processes, replay, sketch
from bridge_ebm.errors import InputError
from bridge_ebm.runs import continue_state
from bridge_ebm.studio import Studio, open_studio

MODEL = flags.DEFINE_string("model", None, "A shipped model's name, a model directory, or a training's work directory.")
OUT = flags.DEFINE_string("out", "runs/discover", "Folder for the designs and the gallery.")
NUM = flags.DEFINE_integer("num", 2000, "Candidates in all.", lower_bound=1)
SEED = flags.DEFINE_integer("seed", 0, "Seed of plans, starts and noise.", lower_bound=0, upper_bound=cli.MOST_SEED)
WAYS = flags.DEFINE_list("ways", [], "Ways of making, in equal shares (default: the mix that yields most).")
COMBINE = flags.DEFINE_list("combine", [], "Sub-types to combine, all of them and no others.")
MAIN_SPAN = flags.DEFINE_string(
    "main_span", "", f"Sub-type of the main span, above or below the deck ({', '.join(bridges.SUBTYPES)})."
)
SIDE_SPANS = flags.DEFINE_list("side_spans", [], "Sub-type of the side spans, or two: one side's and the other's.")
SYMMETRIC = flags.DEFINE_bool("symmetric", False, "Only designs whose two sides are alike.")
KEEP = flags.DEFINE_string(
    "keep", None, "A picture in the model's proportions: what is drawn in it stays in every design."
)
cli.define_process_flags()
TEMPERATURE = flags.DEFINE_float("temperature", 0.0, "Temperature of the chains (0: the model's own noise).", 0.0)


def main() -> None:
    """Make, judge, rank and show."""
    cli.join_processes()
    model = bridge_ebm.load_model(cli.model_or_default(MODEL.value))
    request = read_request(model)
    held = None if KEEP.value is None else sketch.read_held(Path(KEEP.value).expanduser(), model.height, model.width)
    studio = open_studio(model, held, read_buffer(model, request))
    if request.temperature:
        studio = studio._replace(settings=heated(studio.settings, request.temperature))
    out = cli.output_folder(OUT.value)
    with lock.held(out, lock.DISCOVERY) if processes.is_first() else nullcontext():
        if processes.is_first():
            discovery.claim(out, model, request, held)
        processes.wait_for_all("the folder is claimed")
        records = make(out, studio, request)
        if processes.is_first():
            print(table(discovery.write_results(out, records)))
            print("\n".join(f"  {out / name}" for name in ("gallery.html", discovery.DESIGNS, discovery.SUMMARY)))


def make(out: Path, studio: Studio, request: discovery.Request) -> list[discovery.Record]:
    """All candidates, under a progress bar (where several processes make them, that of the first one's)."""
    records: list[discovery.Record] = []
    real = evaluation.training_skeletons(models.training_of(cli.model_or_default(MODEL.value)))
    with tqdm(total=NUM.value, unit="candidate", dynamic_ncols=True, disable=not processes.is_first()) as bar:
        try:
            for group in discovery.discover(out, studio, request, NUM.value, real):
                records += group
                bar.set_postfix_str(f"{sum(map(discovery.is_design, records))} novel, sharp and A", refresh=False)
                bar.update(len(group))
        except KeyboardInterrupt:
            made = f"with --num={len(records)} it shows what is there" if records else "nothing is there yet"
            raise KeyboardInterrupt(f"by you: the same command goes on; {made}") from None
    return discovery.candidates(out, NUM.value) if processes.several() else records


def read_request(model: bridge_ebm.Model) -> discovery.Request:
    """What the flags ask for; an `InputError` names a flag that cannot be."""
    wishes, known = read_wishes(model), model.settings.subtypes
    mix = plans.parse_mix(WAYS.value)
    if not WAYS.value:
        mix = plans.possible(mix, wishes, known)
    plans.check(mix, wishes, known)
    for way, _ in mix:
        if way in ("either", "without") and not set(known) <= set(bridges.SUBTYPES):
            raise InputError(
                f"--ways={way}: measures energies at the paper's bridges, but --model={MODEL.value} knows others"
            )
    if not math.isfinite(TEMPERATURE.value):
        raise InputError(f"--temperature={TEMPERATURE.value}: must be a finite number")
    return discovery.Request(SEED.value, mix, wishes, TEMPERATURE.value)


def read_wishes(model: bridge_ebm.Model) -> plans.Wishes:
    """What the flags ask for; an `InputError` names the flag of a sub-type that the model does not know."""
    known = model.settings.subtypes
    if not known:
        raise InputError(
            f"--model={MODEL.value}: this model knows no sub-types to compose; train one with "
            "--flagfile=experiments/flags/default.cfg"
        )
    main_span = [MAIN_SPAN.value] if MAIN_SPAN.value else []
    for flag, names in (("combine", COMBINE.value), ("main_span", main_span), ("side_spans", SIDE_SPANS.value)):
        for name in names:
            if name not in known:
                raise InputError(f"--{flag}={','.join(names)}: no sub-type {name!r}; choose from {', '.join(known)}")
    if len(SIDE_SPANS.value) > 2:
        raise InputError(f"--side_spans={','.join(SIDE_SPANS.value)}: one sub-type, or two (one side's, the other's)")
    return plans.Wishes(tuple(COMBINE.value), MAIN_SPAN.value, tuple(SIDE_SPANS.value), SYMMETRIC.value)


def heated(settings: bridge_ebm.LangevinSettings, temperature: float) -> bridge_ebm.LangevinSettings:
    """The sampler at a temperature: noise^2 = 2 step_size T."""
    return settings._replace(noise=(2 * settings.step_size * temperature) ** 0.5)


def read_buffer(model: bridge_ebm.Model, request: discovery.Request) -> np.ndarray | None:
    """Pictures of the training's replay buffer where the way "restart" is asked for, else None."""
    if not any(way == "restart" for way, _ in request.mix):
        return None
    name = cli.model_or_default(MODEL.value)
    folder, trained = models.folder_of(name), models.training_of(name)
    newest = folder / checkpoint.FOLDER / str(checkpoint.newest_step(folder))
    if not ((newest / "training").is_dir() and trained.keeps_chains):
        raise InputError(
            f"--ways=restart: needs a training's work directory with a replay buffer as --model, not {name}"
        )
    state = continue_state(trained, folder, len(model.settings.subtypes))
    if int(state.step) <= trained.finish_after:
        raise InputError(f"--ways=restart: {name} has no chains before its finish, update {trained.finish_after}")
    return np.asarray(replay.newest(state.buffer, jnp.arange(int(state.buffer.size))))


def table(counts: dict[str, dict[str, int]]) -> str:
    """The yields as text: a row for every way, shares of its candidates in percent."""
    head = ["way", "candidates", "sharp", "novel", "A", "all three", "distinct", "of several families"]
    rows = [head]
    for way, row in counts.items():
        number = max(row["candidates"], 1)
        shares = [f"{row[name] / number:.0%}" for name in ("sharp", "novel", "A")]
        rows.append(
            [
                way,
                str(row["candidates"]),
                *shares,
                f"{row['designs']} ({row['designs'] / number:.0%})",
                str(row["distinct"]),
                str(row["combine_families"]),
            ]
        )
    widths = [max(len(row[k]) for row in rows) for k in range(len(head))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


if __name__ == "__main__":
    cli.run(main)
