"""What `benchmark.py` measures, one function for each part of its record."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm.auto import tqdm

import bridge_ebm
from bridge_ebm import bridges, convolution, energy
from bridge_ebm.errors import InputError
from bridge_ebm.settings import TrainSettings
from peers import BFLOAT16_TOLERANCE, FLOAT32_TOLERANCE, Peer, regression_network
from peers.timing import Spread, interleaved

HERE = Path(__file__).parent
PRECISIONS: tuple[convolution.Precision, ...] = ("float32", "bfloat16")


class Series(NamedTuple):
    """Chains along which one size grows: `what` names it, `runs` are (batch, height, width, steps)."""

    what: str
    runs: tuple[tuple[int, int, int, int], ...]


class Plan(NamedTuple):
    """The sizes of a benchmark."""

    settings: TrainSettings
    repeats: int
    series: tuple[Series, ...]
    regression_batch: int
    updates_per_turn: int
    matrix: int


# One update takes 10 Langevin steps here, for every peer alike: the paper's 360 take most of a minute.
FULL = Plan(
    TrainSettings(langevin_steps=10),
    5,
    (
        Series(
            "batch", ((1, 48, 192, 100), (8, 48, 192, 100), (32, 48, 192, 40), (128, 48, 192, 10), (512, 48, 192, 5))
        ),
        Series(
            "batch", ((1, 128, 512, 100), (8, 128, 512, 20), (32, 128, 512, 5), (128, 128, 512, 2), (512, 128, 512, 2))
        ),
        Series("steps", ((8, 48, 192, 1), (8, 48, 192, 10), (8, 48, 192, 100), (8, 48, 192, 300))),
        Series("area", ((8, 24, 96, 100), (8, 48, 192, 100), (8, 96, 384, 20), (8, 128, 512, 20))),
    ),
    64,
    4,
    2048,
)
QUICK = Plan(
    TrainSettings(height=16, width=32, langevin_steps=2, batch_size=4, buffer_size=8),
    2,
    (
        Series("batch", ((1, 16, 32, 2), (4, 16, 32, 2))),
        Series("steps", ((1, 16, 32, 2), (1, 16, 32, 8))),
        Series("area", ((1, 16, 32, 2), (1, 32, 64, 2))),
    ),
    2,
    1,
    64,
)


def pictures(height: int, width: int) -> np.ndarray:
    """The 128 base pictures, uint8 [128, height, width]."""
    return np.stack([bridges.render(name, index, height, width) for name in bridges.SUBTYPES for index in range(16)])


def check_peers(peers: list[Peer], images: np.ndarray) -> None:
    """Raise an `InputError` unless all compute the first peer's energies of `images`, and its noise-free chain."""
    expected, moved = peers[0].energies(images), peers[0].chain(images, 3, 0.0) - images
    for peer in peers[1:]:
        energies = _relative(peer.energies(images), expected)
        path = np.linalg.norm(peer.chain(images, 3, 0.0) - images - moved) / np.linalg.norm(moved)
        for what, difference in (("energies", energies), ("chains", float(path))):
            if not difference <= peer.tolerance:
                raise InputError(
                    f"{peer.name} computes other {what} than {peers[0].name} (relative difference {difference:.1e}, "
                    f"at most {peer.tolerance:.0e} allowed): nothing was timed; leave it out with --peers"
                )


def langevin_speed(peers: list[Peer], plan: Plan) -> dict[str, Spread]:
    """Image-steps per second of every peer at the plan's batch and size."""
    settings = plan.settings
    shape = (settings.batch_size, settings.height, settings.width, 1)
    starts = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    steps = settings.langevin_steps

    def run(peer: Peer) -> Callable[[], object]:
        return lambda: peer.chain(starts, steps, settings.noise)

    units = {peer.name: settings.batch_size * steps for peer in peers}
    return interleaved({peer.name: run(peer) for peer in peers}, units, plan.repeats, "Langevin")


def update_speed(peers: list[Peer], plan: Plan) -> dict[str, Spread]:
    """Whole contrastive-divergence updates per second: draw, chain, loss, Adam, insert."""
    units = {peer.name: 1.0 for peer in peers}
    return interleaved({peer.name: peer.make_update() for peer in peers}, units, plan.repeats, "update")


def regression_speed(with_torch: bool, plan: Plan) -> dict[str, Spread]:
    """Updates per second of gradient regression on half pictures; an `InputError` if the contenders differ."""
    height, width, batch = plan.settings.height, plan.settings.width // 2, plan.regression_batch
    halves = pictures(height, plan.settings.width)[:, :, :width].copy()
    images = jnp.zeros((1, height, width, 1))
    params = jax.jit(regression_network.HalfPictureEnergy().init)(jax.random.key(0), images)["params"]
    check_regression(params, halves[:: len(halves) // 8], with_torch)

    def turn(update: Callable[[], float]) -> Callable[[], object]:
        return lambda: [update() for _ in range(plan.updates_per_turn)]

    runs = {}
    for precision in PRECISIONS:
        runs[f"ours_{precision}"] = turn(regression_network.make_update(params, halves, batch, precision))
        if with_torch:
            from peers import regression_torch

            runs[f"torch_{precision}"] = turn(regression_torch.make_update(params, halves, batch, precision))
    return interleaved(runs, dict.fromkeys(runs, plan.updates_per_turn), plan.repeats, "regression")


def check_regression(params: Any, halves: np.ndarray, with_torch: bool) -> None:
    """Raise an `InputError` unless all contenders compute our float32 energies and loss on uint8 `halves` [N, H, W]."""
    random = np.random.default_rng(0)
    x1 = halves[..., None] / np.float32(127.5) - np.float32(1.0)
    x0, t = random.normal(size=x1.shape).astype(np.float32), random.uniform(size=len(x1)).astype(np.float32)

    def ours(precision: convolution.Precision) -> tuple[np.ndarray, float]:
        network = regression_network.HalfPictureEnergy(precision)
        loss = jax.jit(lambda *batch: regression_network.regression_loss(network, params, *batch))(x0, x1, t)
        return np.asarray(jax.jit(network.apply)({"params": params}, x1)), float(loss)

    expected = ours("float32")
    results = {"ours_bfloat16": (ours("bfloat16"), BFLOAT16_TOLERANCE)}
    if with_torch:
        from peers.regression_torch import energies_and_loss

        for name, tolerance in (("float32", FLOAT32_TOLERANCE), ("bfloat16", BFLOAT16_TOLERANCE)):
            results[f"torch_{name}"] = energies_and_loss(params, x0, x1, t, name), tolerance
    for name, (result, tolerance) in results.items():
        for what, value, reference in zip(("energies", "losses"), result, expected, strict=True):
            difference = _relative(np.asarray(value), np.asarray(reference))
            if not difference <= tolerance:
                raise InputError(
                    f"regression: {name} computes other {what} than ours_float32 (difference {difference:.1e}, "
                    f"at most {tolerance:.0e} allowed); leave it out with --peers"
                )


def scaling(variables: Callable[[int, int], dict[str, Any]], plan: Plan) -> list[dict[str, Any]]:
    """Our float32 image-steps per second along each series; `variables(height, width)` gives the network's."""
    network = energy.PaperEnergy()
    sizes = {run[1:3] for series in plan.series for run in series.runs}
    energies = {size: jax.tree_util.Partial(network.apply, variables(*size)) for size in sizes}

    def run(batch: int, height: int, width: int, steps: int) -> Callable[[], object]:
        starts = bridge_ebm.langevin.uniform_images(jax.random.key(0), (batch, height, width, 1))
        settings = bridge_ebm.LangevinSettings(num_steps=steps)
        chain = bridge_ebm.sample
        return lambda: jax.block_until_ready(chain(jax.random.key(1), starts, energies[height, width], settings))

    wanted = {run_sizes: run(*run_sizes) for series in plan.series for run_sizes in series.runs}
    names = {_name(sizes): sizes for sizes in wanted}
    units = {name: float(sizes[0] * sizes[3]) for name, sizes in names.items()}
    speeds = interleaved({name: wanted[sizes] for name, sizes in names.items()}, units, plan.repeats, "scaling")
    return [
        {"what": series.what, "batch": batch, "height": height, "width": width, "steps": steps}
        | {"per_second": speeds[_name((batch, height, width, steps))]["median"]}
        for series in plan.series
        for batch, height, width, steps in series.runs
    ]


def _name(sizes: tuple[int, int, int, int]) -> str:
    batch, height, width, steps = sizes
    return f"{batch} x {height} x {width}, {steps} steps"


def matmul_gflops(plan: Plan) -> dict[str, float]:
    """The peak of square matrix products, in 10^9 operations per second; a multiply-add counts as two."""
    size = plan.matrix
    a = jax.random.normal(jax.random.key(0), (size, size))
    multiply = jax.jit(convolution.product, static_argnums=(2, 3))

    def run(precision: convolution.Precision) -> Callable[[], object]:
        return lambda: [jax.block_until_ready(multiply(a, a, "ab", precision)) for _ in range(4)]

    runs: dict[str, Callable[[], object]] = {name: run(name) for name in PRECISIONS}
    speeds = interleaved(runs, dict.fromkeys(PRECISIONS, 4 * 2e-09 * size**3), plan.repeats, "matrix product")
    return {name: speed["max"] for name, speed in speeds.items()}


def operations_per_image_step(params: Any, height: int, width: int) -> float:
    """Operations of Table 1's products for an energy and its input gradient; a multiply-add counts as two."""
    total, area = 0, height * width
    for index, (filters, size) in enumerate(energy.PAPER_LAYERS):
        height, width = -(-height // 2), -(-width // 2)
        kernel = params[f"Conv_{index}"]["kernel"]
        assert kernel.shape[0] == size and kernel.shape[3] == filters and height * width <= area
        total += height * width * kernel.size
    total += params["Dense_0"]["kernel"].size + params["Dense_1"]["kernel"].size
    return 2.0 * 2.0 * total  # the way back to the image is as long as the way forward


def first_picture_seconds(plan: Plan) -> dict[str, float]:
    """From the start of a process to its first picture, with an empty and then a filled compilation cache."""
    size = [str(plan.settings.height), str(plan.settings.width)]
    results = {}
    with tempfile.TemporaryDirectory() as folder, tqdm(total=2, desc="first picture", dynamic_ncols=True) as bar:
        for name in ("cold", "warm"):
            began = time.time()
            written = _script(
                "first_picture.py", [str(Path(folder) / "picture.png"), *size], {"JAX_COMPILATION_CACHE_DIR": folder}
            )
            results[name] = written - began
            bar.update()
    return results


def peak_memory_mib(plan: Plan) -> float:
    """Peak resident memory of a process that does two of our float32 updates."""
    settings = plan.settings
    sizes = (settings.batch_size, settings.height, settings.width, settings.langevin_steps, settings.buffer_size)
    return _script("peak_memory.py", [str(size) for size in sizes], {})


def _script(name: str, arguments: list[str], extra: dict[str, str]) -> float:
    """The number that one of the scripts beside this file prints last, from a fresh process."""
    paths = [str(HERE.parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **extra}
    command = [sys.executable, str(HERE / name), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(
            f"{name} failed: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else done.returncode}"
        )
    return float(done.stdout.split()[-1])


def _relative(values: np.ndarray, expected: np.ndarray) -> float:
    return float(np.max(np.abs(values - expected)) / np.max(np.abs(expected)))
