"""Run by test_parallel.py in a process of its own, which has eight devices: prints what it found as JSON."""

import dataclasses
import json
import os
import re
import sys
from pathlib import Path

# Before JAX starts. Unoptimised code is compiled three times as fast and does the same.
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 "
    f"--xla_llvm_disable_expensive_passes=true {os.environ.get('XLA_FLAGS', '')}"
)

import jax
import jax.numpy as jnp
import numpy as np

from bridge_ebm import data, parallel, replay, runs
from bridge_ebm.settings import TrainSettings
from bridge_ebm.state import init_state
from bridge_ebm.train import make_train_step
from bridge_ebm.workdir import read_metrics

SMALL = TrainSettings(
    network="multiscale",
    channels=2,
    height=16,
    width=32,
    per_type=4,
    split="all",
    batch_size=8,
    buffer_size=28,
    langevin_steps=3,
    restart=0.25,
    step_size=0.01,
    gradient_clip=100.0,
)
# Chains of a number that eight devices cannot share begin afresh: two of them from noise.
FINISHED = dataclasses.replace(
    SMALL,
    conditional=True,
    mirror=True,
    objective="equilibrium",
    replay="rounded",
    buffer_size=32,
    finish_after=1,
    finish_chains=16,
    finish_arrival=3,
    finish_level=0.1,
    finish_hold=1.0,
    blend=True,
    noise=0.0,
    ema=0.9,
    norm_clip=1.0,
)
COLLECTIVE = re.compile(r"= (.+) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")


def leaves(state):
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(state)}


def largest_difference(a, b):
    """Of two states, relative to the largest entry of each array, or to 0.01: the last bias is nothing but rounding."""
    a, b = leaves(a), leaves(b)
    assert a.keys() == b.keys()
    return max(float(np.abs(a[k].astype(float) - b[k]).max() / max(np.abs(a[k]).max(), 0.01)) for k in a)


def collectives(step, state, examples):
    """Every collective of the compiled step: what it does, and the types and shapes of what it gives."""
    text = step.lower(state, examples).compile().as_text()
    found = COLLECTIVE.findall(text)
    return [[name, re.findall(r"[a-z]+\d+\[[\d,]*\]", result)] for result, name in found]


def stepped(settings, dataset, count, updates):
    """The state after some updates on `count` devices, and the traffic of one."""
    mesh = parallel.data_mesh(settings.shared, jax.devices()[:count])
    classes = len(dataset.subtypes)
    step, examples = make_train_step(settings, classes, mesh), data.examples(dataset, mesh, settings.blend)
    state = init_state(settings, classes, mesh)
    traffic = collectives(step, state, examples) if count > 1 else []
    for _ in range(updates):
        state, _ = step(state, examples)
    return state, traffic


def trained(dataset, workdir, parts):
    """The last state of a training of which each part (devices, updates in all) continues the one before."""
    workdir.mkdir()
    for count, updates in parts:
        state = runs.run_training(SMALL, dataset, workdir, max_updates=updates, devices=jax.devices()[:count])
    return state


def draws():
    """Starts drawn from a buffer that is cut and from one that is not, and the buffers after an insertion."""
    mesh = parallel.data_mesh({"chains": 8})
    key = jax.random.key(3)
    insert = jax.jit(replay.insert, static_argnums=(2, 3))
    draw = jax.jit(replay.draw, static_argnums=(2, 3, 4))
    found = {}
    for choice in ("whole", "rounded", "own"):
        ends = []
        for where in (None, mesh):
            buffer = replay.init(key, 28, 8, (2, 3, 1), where)
            for k in range(5):
                new = jax.random.uniform(jax.random.fold_in(key, k), (8, 2, 3, 1), minval=-1)
                buffer = insert(buffer, new, 28, where)
            ends.append([np.asarray(draw(key, buffer, 0.2, choice, where)), np.asarray(buffer.images)])
        found[choice] = all(np.array_equal(a, b) for a, b in zip(*ends, strict=True))
    return found


def lowered(dataset):
    """Whether the step on eight devices of other makes lowers, with its collectives and library convolutions."""
    mesh = parallel.data_mesh(SMALL.shared)
    step, arguments = make_train_step(SMALL, 8, mesh), (init_state(SMALL, 8, mesh), data.examples(dataset, mesh))
    text = jax.export.export(step, platforms=("cuda", "tpu"))(*arguments).mlir_module()
    return [name in text for name in ("stablehlo.reduce_scatter", "stablehlo.all_reduce", "stablehlo.convolution")]


def main(folder):
    dataset = data.procedural(16, 32, per_type=4)
    halves = data.mirror_halves(dataset)
    one = trained(dataset, folder / "one", [(1, 4)])
    moved = trained(dataset, folder / "moved", [(8, 2), (2, 4)])
    rows = [[row["loss"] for row in read_metrics(folder / name)] for name in ("one", "moved")]
    whole, traffic = stepped(SMALL, dataset, 8, 4)
    finished, finished_traffic = stepped(FINISHED, halves, 8, 3)
    own = dataclasses.replace(SMALL, replay="own")
    report = {
        "eight_and_one": largest_difference(one, whole),
        "eight_then_two_and_one": largest_difference(one, moved),
        "losses": float(np.abs(np.subtract(*rows)).max()),
        "finished": largest_difference(stepped(FINISHED, halves, 1, 3)[0], finished),
        "buffer_shares": sorted({tuple(s.data.shape) for s in whole.buffer.images.addressable_shards}),
        "parameters_whole": all(x.sharding.is_fully_replicated for x in jax.tree.leaves(whole.params)),
        "parameters": sum(x.size for x in jax.tree.leaves(whole.params)),
        "finished_parameters": sum(x.size for x in jax.tree.leaves(finished.params)),
        "traffic": {
            "whole": traffic,
            "own": stepped(own, dataset, 8, 0)[1],
            "finished": finished_traffic,
        },
        "draws": draws(),
        "lowered": lowered(dataset),
        "of_six": parallel.data_mesh({"batch_size": 8, "buffer_size": 12}, jax.devices()[:6]).size,
        "of_another": parallel.data_mesh({"batch_size": 8}, jax.devices()[1:2]).size,
        "of_none": parallel.data_mesh({"batch_size": 11}) is None,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    assert jnp.zeros(()).devices() <= set(jax.devices())
    main(Path(sys.argv[1]))
