"""Speed beside the peers, in one run: who samples and trains Table 1's network fastest on this machine.

    python experiments/benchmark.py --out=runs/benchmark

takes about a quarter of an hour on 2 cores with all peers (pip install ".[bench]": TensorFlow and PyTorch; a peer whose
package is missing is left out). All run the same weights and the same chain, which is checked before anything is timed,
and take turns, so that a change of the machine's mood meets them all. Use a machine that does nothing else.

In the folder: benchmark.json, scaling.png (cost against batch, steps and image area, with the fitted exponents).
"""

import functools
import importlib.util
import json
from collections.abc import Callable
from typing import Any

import cli
import jax
import numpy as np
from absl import flags
from peers import Peer, flax_peer, machine, measure, our_peer, report
from peers.measure import FULL, QUICK, Plan

from bridge_ebm import energy
from bridge_ebm.errors import InputError
from bridge_ebm.files import write_atomically
from bridge_ebm.settings import TrainSettings

OURS = ("ours_float32", "ours_bfloat16")
NEEDS = {
    "keras_eager": "tensorflow",
    "keras_function": "tensorflow",
    "keras_xla": "tensorflow",
    "torch_float32": "torch",
    "torch_bfloat16": "torch",
    "torch_compile": "torch",
    "flax_conv": "flax",
}
# These need a compiler of their own, which may not be there.
MAY_FAIL = ("keras_xla", "torch_compile")
REGRESSION = ("ours_float32", "ours_bfloat16", "torch_float32", "torch_bfloat16")

OUT = flags.DEFINE_string("out", "runs/benchmark", "Folder for benchmark.json and scaling.png.")
PEERS = flags.DEFINE_string("peers", "all", f"'all', 'none', or some of {','.join(NEEDS)}.")
REPEATS = flags.DEFINE_integer(
    "repeats", FULL.repeats, "Turns of every contender, after one that warms up.", lower_bound=1
)
QUICK_RUN = flags.DEFINE_bool("quick", False, "Tiny sizes, only to see that everything runs; the figures mean nothing.")


def main() -> None:
    """Measure, write, print."""
    plan = (QUICK if QUICK_RUN.value else FULL)._replace(repeats=REPEATS.value)
    names = read_peers(PEERS.value)
    out = cli.output_folder(OUT.value)
    record = run(plan, names)
    write_atomically(out / "benchmark.json", json.dumps(record, indent=1, allow_nan=False) + "\n")
    report.plot_scaling(out / "scaling.png", record["scaling"])
    report.print_table(record)
    print(f"\n  {out / 'benchmark.json'}\n  {out / 'scaling.png'}")


def read_peers(text: str) -> list[str]:
    """The peers that --peers names, in the order of the table."""
    chosen = {"all": list(NEEDS), "none": []}.get(text, text.split(","))
    unknown = [name for name in chosen if name not in NEEDS]
    if unknown:
        raise InputError(f"--peers={text}: no peer {unknown[0]!r}; 'all', 'none', or some of {','.join(NEEDS)}")
    return [name for name in NEEDS if name in chosen]


def run(plan: Plan, names: list[str]) -> dict[str, Any]:
    """Check the contenders, measure everything, and return the record that becomes benchmark.json."""
    settings = plan.settings
    variables = make_variables(settings.height, settings.width)
    peers = make_peers(variables, plan, names)
    with_torch = any(peer.name.startswith("torch") for peer in peers)
    chain = measure.langevin_speed(peers, plan)
    update = measure.update_speed(peers, plan)
    regression = measure.regression_speed(with_torch, plan)
    scaling = measure.scaling(make_variables, plan)
    gflops = measure.matmul_gflops(plan)
    operations = measure.operations_per_image_step(variables["params"], settings.height, settings.width)
    return {
        "langevin_images_per_second": {name: chain.get(name) for name in (*OURS, *NEEDS)},
        "update_per_second": {name: update.get(name) for name in (*OURS, *NEEDS)},
        "regression_update_per_second": {name: regression.get(name) for name in REGRESSION},
        "scaling": scaling,
        "matmul_gflops": gflops,
        "first_picture_seconds": measure.first_picture_seconds(plan),
        "peak_memory_mib": measure.peak_memory_mib(plan),
        "machine": machine.machine(),
        "versions": machine.versions(),
        "conditions": {
            "batch": settings.batch_size,
            "height": settings.height,
            "width": settings.width,
            "langevin_steps_per_chain": settings.langevin_steps,
            "langevin_steps_per_update": settings.langevin_steps,
            "regression_batch": plan.regression_batch,
            "repeats": plan.repeats,
            "operations_per_image_step": operations,
            "share_of_peak": {
                name: chain[f"ours_{name}"]["median"] * operations / (1e9 * gflops[name])
                for name in ("float32", "bfloat16")
            },
            "exponents": report.exponents(scaling),
        },
    }


def make_variables(height: int, width: int) -> dict[str, Any]:
    """The weights that all contenders share."""
    init = jax.jit(energy.init_variables, static_argnums=(0, 2, 3))
    return init(energy.PaperEnergy(), jax.random.key(0), height, width)


def make_peers(variables: dict[str, Any], plan: Plan, names: list[str]) -> list[Peer]:
    """Our two precisions and every named peer that is installed; an `InputError` if one computes something else."""
    settings, pictures = plan.settings, measure.pictures(plan.settings.height, plan.settings.width)
    noise = np.random.default_rng(1).uniform(-1, 1, (4, *pictures.shape[1:], 1)).astype(np.float32)
    images = np.concatenate([noise, pictures[::32, ..., None] / np.float32(127.5) - np.float32(1.0)])
    peers: list[Peer] = []
    for name in (*OURS, *names):
        if name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None:
            print(f'{name}: left out, {NEEDS[name]} is not installed (pip install ".[bench]")', flush=True)
            continue
        try:
            peer = maker(name, settings)(variables, settings, pictures)
            measure.check_peers([*peers[:1], peer], images)
        except Exception as error:
            if name not in MAY_FAIL or isinstance(error, InputError):
                raise
            print(f"{name}: left out, {type(error).__name__}: {str(error).strip().splitlines()[0]}", flush=True)
            continue
        print(f"{name}: same energies, same chain", flush=True)
        peers.append(peer)
    return peers


def maker(name: str, settings: TrainSettings) -> Callable[..., Peer]:
    """The function (variables, settings, pictures) -> Peer of a contender; imports its framework only now."""
    family, variant = name.split("_")
    if family == "ours":
        ours = TrainSettings(**{**vars(settings), "precision": variant})
        return lambda variables, _, pictures: our_peer.make_peer(variables, ours, pictures)
    if family == "flax":
        return flax_peer.make_peer
    if family == "keras":
        from peers import keras_peer

        return functools.partial(keras_peer.make_peer, mode=variant)
    from peers import torch_peer

    dtype = "float32" if variant == "compile" else variant
    return functools.partial(torch_peer.make_peer, dtype_name=dtype, compiled=variant == "compile")


if __name__ == "__main__":
    cli.run(main)
