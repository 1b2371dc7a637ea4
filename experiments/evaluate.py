"""Score a model, or any folder of pictures, against held-out real bridges.

    python experiments/evaluate.py --model=default --out=runs/evaluation
    python experiments/evaluate.py --images=my_pictures --out=runs/evaluation

A model draws --num pictures by chains from noise (or from its coarse model's pictures, where it has one); a conditional
one draws its sub-types in turn unless --subtype says otherwise, and --subtype=none takes its energy without a class. A
folder is measured as it is, at the size of its first picture (at most 128 x 512), beside the paper's eight sub-types;
its sub-folders, where they are named after sub-types, say what each picture should be.

Measured: definition, the structural verdict, the sub-type, fidelity and diversity, memorisation, novelty; of a model
also the energies along its chains, how energies order real, generated, corrupted pictures and noise, and the ink that
held-out pictures keep along a chain of --hold_steps. Each figure stands beside its ceiling, what held-out pictures
score, or in fidelity as many training pictures (ten sets of them: their mean, and as ceiling_low and ceiling_high the
least and the most). --part=validation measures against other held-out pictures, for choosing settings. 1000 pictures of
the default model take about four minutes on one core; --hold_steps=0 leaves those chains out.

In the folder: evaluation.json, samples/0000.png ... (bright on black), sheet.png (the first 64, dark on white).
"""

import json
import math
from pathlib import Path
from typing import Any

import cli
import numpy as np
from absl import flags

import bridge_ebm
from bridge_ebm import chain_report, data, evaluation, models, pictures, processes, raster
from bridge_ebm.errors import InputError
from bridge_ebm.files import write_atomically
from bridge_ebm.plotting import save_png, sheet
from bridge_ebm.settings import TrainSettings

MODEL = flags.DEFINE_string("model", None, "A shipped model's name, a model directory, or a training's work directory.")
IMAGES = flags.DEFINE_string("images", None, "Instead of a model: a folder of pictures, with or without sub-folders.")
OUT = flags.DEFINE_string("out", "runs/evaluation", "Folder for the report and the pictures.")
NUM = flags.DEFINE_integer("num", 200, "Pictures that the model draws.", lower_bound=1)
SUBTYPE = flags.DEFINE_string("subtype", None, "Draw this sub-type only; 'none': no sub-type (default: all in turn).")
NUM_STEPS = flags.DEFINE_integer("num_steps", None, "Steps of the chains (default: the model's own).", lower_bound=1)
HOLD_STEPS = flags.DEFINE_integer(
    "hold_steps", 2000, "Steps of the chains from 100 held-out pictures (0: none).", lower_bound=0
)
PART = flags.DEFINE_enum(
    "part", "test", ("test", "validation"), "Real pictures to measure against; validation to choose settings by."
)
SEED = flags.DEFINE_integer("seed", 0, "Seed of the starts and of the noise.", lower_bound=0, upper_bound=cli.MOST_SEED)

cli.define_process_flags()

REPORT, PAGE = "evaluation.json", "sheet.png"
SHEET = (64, 8)  # pictures, of which in a row
SMALLEST = 16  # rows and columns of a real picture
OF_A_MODEL = ("num", "subtype", "num_steps", "hold_steps", "seed")


def main() -> None:
    """Get the pictures, measure them, write and print the report."""
    check_flags()
    cli.join_processes()
    record = of_folder(IMAGES.value) if IMAGES.value is not None else of_model(cli.model_or_default(MODEL.value))
    if not processes.is_first():
        return
    out = Path(OUT.value).expanduser()
    write_atomically(out / REPORT, json.dumps(finite(record), indent=1) + "\n")
    print(table(record))
    print("\n".join(f"  {path}" for path in (out / REPORT, out / PAGE, out / "samples")))


def check_flags() -> None:
    """Refuse flags that contradict each other."""
    if IMAGES.value is None:
        return
    if MODEL.value is not None:
        raise InputError("--model and --images: name one of the two")
    for name in OF_A_MODEL:
        if flags.FLAGS[name].present:
            raise InputError(f"--{name} belongs to --model; --images measures the pictures as they are")
    try:
        read, out = (Path(one).expanduser().resolve() for one in (IMAGES.value, OUT.value))
    except RuntimeError:  # a home that is not: reading or writing says so
        return
    if read == out or read in out.parents or out / "samples" in (read, *read.parents):
        raise InputError(
            f"--out={OUT.value}: the report's own pictures would replace, or count among, those of "
            f"--images={IMAGES.value}; name a folder apart from it"
        )


def of_model(name: str) -> dict[str, Any]:
    """Draw pictures from a model and report on them."""
    model = bridge_ebm.load_model(name)
    asked = cli.asked_subtypes(model, SUBTYPE.value, NUM.value)
    training = models.training_of(name)
    out = report_folder()
    real = evaluation.real_pictures(training, PART.value)
    wanted = {one for one in asked if one is not None}
    if absent := wanted - set(real.against.subtypes):
        raise InputError(
            f"--model={name}: its data ({training.data}) have no {', '.join(sorted(absent))} any more; restore them"
        )
    if wanted:
        real = real._replace(
            train=evaluation.of_subtypes(real.train, wanted), against=evaluation.of_subtypes(real.against, wanted)
        )
    if not min(len(real.train.images), len(real.against.images)):
        raise InputError(
            f"--model={name}: its data have no {'mirror-symmetric ' * training.mirror}{real.part} pictures of "
            f"{', '.join(sorted(wanted))} to compare with; ask for another --subtype, or more pictures (--num)"
        )
    steps = NUM_STEPS.value or model.settings.num_steps
    drawn = chain_report.draw(model, asked, steps, SEED.value, progress=True)
    what = {
        "model": name,
        "images": None,
        "subtype": SUBTYPE.value,
        "num_steps": steps,
        "seed": SEED.value,
    }
    record = what | reported(drawn.images, asked, real, out)
    record["chains"] = chain_report.report(model, drawn, asked, real, steps, HOLD_STEPS.value, SEED.value)
    return record


def of_folder(path: str) -> dict[str, Any]:
    """Report on a folder of pictures."""
    images, asked = read_folder(Path(path).expanduser())
    out = report_folder()
    real = evaluation.real_pictures(TrainSettings(height=images.shape[1], width=images.shape[2]), PART.value)
    what = {"model": None, "images": path, "subtype": None, "num_steps": None, "seed": None}
    return what | reported(images, asked, real, out) | {"chains": None}


def report_folder() -> Path:
    """The folder of --out; an `InputError` if it holds numbered pictures, which the report's own would replace, and no
    report of ours that they could belong to.
    """
    out = cli.output_folder(OUT.value)
    if numbered(out / "samples") and not any((out / name).exists() for name in (REPORT, PAGE)):
        raise InputError(f"--out={out}: its samples/ holds pictures of no evaluation of ours; name another folder")
    return out


def numbered(folder: Path) -> list[Path]:
    """The pictures that are named by numbers, as those of a report are."""
    return [path for path in folder.glob("*.png") if path.stem.isdecimal()]


def read_folder(root: Path) -> tuple[np.ndarray, list[str | None]]:
    """The pictures of a folder, uint8 [N, H, W], and the sub-type that each sub-folder is named after."""
    flat = pictures.find_loose_pictures(root)
    groups = {"": flat} if flat else pictures.find_pictures(root)
    files = [file for group in groups.values() for file in group]
    names = [name if name in data.bridges.SUBTYPES else None for name, group in groups.items() for _ in group]
    height, width = size_of(files[0])
    return pictures.read_pictures(files, height, width, progress=True), names


def size_of(path: Path) -> tuple[int, int]:
    """Height and width of a picture, at least those of the smallest data set and at most 128 x 512."""
    width, height = pictures.open_image(path).size
    return min(max(height, SMALLEST), raster.HEIGHT), min(max(width, SMALLEST), raster.WIDTH)


def reported(images: np.ndarray, asked: list[str | None], real: evaluation.Real, out: Path) -> dict[str, Any]:
    """Write the pictures, and report on them together and one by one."""
    files = write_samples(out, images)
    judged = evaluation.judge(images, real.skeletons, progress=True)
    each = [
        {
            "file": file,
            "asked": name,
            "nearest": novelty.nearest,
            "mismatch": novelty.mismatch,
            "verdict": verdict,
            "sharp": bool(sharp),
        }
        for file, name, novelty, verdict, sharp in zip(
            files, asked, judged.novelty, judged.verdicts, judged.sharp, strict=True
        )
    ]
    size = {"pictures": len(images), "height": images.shape[1], "width": images.shape[2]}
    return size | evaluation.report(images, asked, judged, real) | {"each": each}


def write_samples(out: Path, images: np.ndarray) -> list[str]:
    """Write samples/0000.png ... and the sheet; pictures of an earlier run are removed. Returns the names."""
    names = [f"samples/{index:04d}.png" for index in range(len(images))]
    if not processes.is_first():
        return names
    count, columns = SHEET
    # First, because by it `report_folder` knows that the pictures are ours.
    save_png(out / PAGE, sheet(data.to_unit(images[:count]), min(columns, len(images))))
    folder = out / "samples"
    folder.mkdir(exist_ok=True)
    for old in numbered(folder):
        old.unlink()
    pictures.write_pictures(out, zip(names, images, strict=True), len(names))
    return names


def finite(value: Any) -> Any:
    """`value` for JSON: a number that is not finite becomes null."""
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table(record: dict[str, Any]) -> str:
    """The report as text."""
    reference = record["reference"]
    kind = (
        "mirror-symmetric ones, moved to their middle, of the" if reference["mirror_symmetric_part_only"] else "of the"
    )
    trained = "" if reference["held_out_from_training"] else ", which this model was TRAINED on"
    lines = [
        f"{record['pictures']} pictures of {record['height']} x {record['width']} beside {reference['part_pictures']} "
        f"real ones ({kind} {reference['part']} part{trained})",
        f"{'':30}{'value':>7}{'95% interval':>20}{'ceiling':>10}",
    ]
    rows = {name: record["definition"][name] for name in ("sharp", *evaluation.metrics.Definition._fields)}
    rows |= {f"verdict {name}": row for name, row in record["verdicts"].items()}
    rows |= {"drawn as asked": record["class_accuracy"]} if record["class_accuracy"] else {}
    rows |= record["fidelity"] or {}
    rows |= {"memorised": record["memorisation"]} if record["memorisation"] else {}
    rows |= {"novel": record["novelty"]["novel"]}
    rows |= {f"share of {name}": row for name, row in record["classes"].items()}
    lines += [_row(name, row) for name, row in rows.items()]
    novelty = record["novelty"]
    lines.append(
        f"novel, sharp and of verdict A: {novelty['novel_sharp_A']}, "
        f"of which mutually distinct: {novelty['novel_sharp_A_distinct']}"
    )
    if not record["definition"]["blends_decidable"]:
        lines.append("Whether a picture is a blend of two is not decidable by definition at this size.")
    return "\n".join([*lines, *_chain_lines(record["chains"])])


def _row(name: str, row: dict[str, Any]) -> str:
    ceiling = row.get("ceiling_value", row.get("held_out_value"))
    interval = f"{row['low']:.3f} .. {row['high']:.3f}"
    mirrored = f"   {row['ceiling_mirrored']:.3f} of exact mirror images" if "ceiling_mirrored" in row else ""
    return f"{name:30}{row['value']:7.3f}{interval:>20}" + ("" if ceiling is None else f"{ceiling:10.3f}") + mirrored


def _chain_lines(chains: dict[str, Any] | None) -> list[str]:
    if chains is None:
        return []
    along, hold = chains["along_the_chain"], chains["hold"]
    energies = " ".join(f"{value:.3g}" for value in along["mean_energy"])
    lines = [
        f"mean energy from the start to step {along['steps'][-1]}, by tenths: {energies}",
        f"chains that end lower than they started: {along['chains_that_fell']:.1%}; "
        f"tenths of a chain that fell: {along['tenths_that_fell']:.1%}",
        "energy order (AUC): "
        + ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in chains["energy_auc"].items()),
    ]
    if hold:
        lines.append(
            f"ink that {hold['pictures']} held-out pictures keep in {hold['steps']} steps: {hold['mean_ink_kept']:.1%} "
            f"on average, {hold['worst_ink_kept']:.1%} at worst; {hold['same_subtype']:.1%} stay of their sub-type"
        )
    return lines


if __name__ == "__main__":
    cli.run(main)
