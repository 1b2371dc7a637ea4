"""The benchmark's own arithmetic, its refusals, and the file it promises."""

import json
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT

from bridge_ebm.errors import InputError

CONTENDERS = {
    "ours_float32",
    "ours_bfloat16",
    "keras_eager",
    "keras_function",
    "keras_xla",
    "torch_float32",
    "torch_bfloat16",
    "torch_compile",
    "flax_conv",
}
SPREAD = {"median", "min", "max"}
pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.fixture(autouse=True)
def _experiments_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))


def numbers(value):
    """All numbers in a JSON value."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for part in value for number in numbers(part)]
    return [value] if isinstance(value, int | float) else []


def test_a_quick_run_writes_what_the_contract_says(run_script, tmp_path):
    done = run_script("benchmark", "--quick", "--repeats=1", "--peers=none", f"--out={tmp_path}")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "benchmark.json").read_text())
    assert set(record) == {
        "langevin_images_per_second",
        "update_per_second",
        "regression_update_per_second",
        "scaling",
        "matmul_gflops",
        "first_picture_seconds",
        "peak_memory_mib",
        "machine",
        "versions",
        "conditions",
    }
    for key in ("langevin_images_per_second", "update_per_second"):
        assert set(record[key]) == CONTENDERS
        measured = {name for name, speed in record[key].items() if speed is not None}
        assert measured == {"ours_float32", "ours_bfloat16"}
        assert all(set(record[key][name]) == SPREAD for name in measured)
    regression = record["regression_update_per_second"]
    assert set(regression) == {"ours_float32", "ours_bfloat16", "torch_float32", "torch_bfloat16"}
    assert regression["torch_float32"] is None and set(regression["ours_bfloat16"]) == SPREAD
    assert all(set(row) == {"what", "batch", "height", "width", "steps", "per_second"} for row in record["scaling"])
    assert set(record["matmul_gflops"]) == {"float32", "bfloat16"}
    assert set(record["first_picture_seconds"]) == {"cold", "warm"}
    assert record["conditions"]["langevin_steps_per_update"] == 2
    assert len(numbers(record)) > 40
    assert all(math.isfinite(number) and number >= 0 for number in numbers({**record, "conditions": {}}))
    assert (tmp_path / "scaling.png").stat().st_size > 5000
    assert "flax_conv" in done.stdout and str(tmp_path / "benchmark.json") in done.stdout


def test_an_unknown_peer_is_one_clear_line(run_script, tmp_path):
    done = run_script("benchmark", "--peers=torch_float16", f"--out={tmp_path}")
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1 and "torch_float16" in done.stderr and "--peers" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_peer_with_other_weights_is_refused(load_command):
    from peers import flax_peer, measure, our_peer

    settings = measure.QUICK.settings
    pictures = measure.pictures(settings.height, settings.width)[::32]
    variables = load_command("benchmark").make_variables(settings.height, settings.width)
    images = pictures[..., None] / np.float32(127.5) - np.float32(1)
    ours = our_peer.make_peer(variables, settings, pictures)
    measure.check_peers([ours, flax_peer.make_peer(variables, settings, pictures)], images)

    altered = jax.tree.map(jnp.copy, variables)
    altered["params"]["Conv_2"]["kernel"] *= 1.01
    with pytest.raises(InputError, match=r"flax_conv computes other energies .* nothing was timed"):
        measure.check_peers([ours, flax_peer.make_peer(altered, settings, pictures)], images)

    backwards = ours._replace(name="backwards", chain=lambda *chain: 2 * chain[0] - ours.chain(*chain))
    with pytest.raises(InputError, match="backwards computes other chains"):
        measure.check_peers([ours, backwards], images)


def test_the_fitted_exponent_of_a_power_law_is_its_own():
    from peers.report import exponents
    from peers.timing import exponent

    sizes = np.array([1.0, 8.0, 32.0, 512.0])
    p, factor = exponent(sizes, 3.0 * sizes**0.75)
    assert (p, factor) == pytest.approx((0.75, 3.0), rel=1e-9)
    # A cost in proportion is a constant speed, along batch, steps and area alike.
    rows = [
        {"what": what, "batch": 8 * n, "height": 48 * n, "width": 192, "steps": 10 * n, "per_second": speed(n)}
        for what, speed in (("steps", lambda n: 700.0), ("area", lambda n: 700.0 / n))
        for n in (1, 2, 4)
    ]
    # `steps` grows with the batch here too, so that its chains cost n^2.
    assert exponents(rows) == pytest.approx({"steps": 2.0, "area": 1.0})
    rows = [row | {"what": "batch", "height": 48} for row in rows[:3]]
    assert exponents(rows) == pytest.approx({"batch at 48 x 192": 1.0})


def test_interleaved_runs_take_turns_and_the_first_turn_is_not_counted():
    from peers.timing import interleaved

    calls = []
    runs = {name: partial(calls.append, name) for name in "abc"}
    speeds = interleaved(runs, {"a": 1, "b": 2, "c": 3}, 7, "test")
    rounds = [tuple(calls[first : first + 3]) for first in range(0, 24, 3)]
    assert len(calls) == 24 and all(sorted(one) == ["a", "b", "c"] for one in rounds)
    assert len({one[0] for one in rounds}) == 3 and list(speeds) == ["a", "b", "c"]  # no one always comes first
    assert all(set(speed) == SPREAD and speed["min"] <= speed["median"] <= speed["max"] for speed in speeds.values())


def test_operations_are_those_of_table_1(load_command):
    from peers import measure

    layers = (24 * 96 * 25 * 32, 12 * 48 * 9 * 32 * 64, 6 * 24 * 9 * 64 * 128, 3 * 12 * 9 * 128 * 128, 4608 * 128, 128)
    params = load_command("benchmark").make_variables(48, 192)["params"]
    assert measure.operations_per_image_step(params, 48, 192) == 4 * sum(layers)


def test_the_regression_network_is_that_of_the_benchmark():
    from peers.regression_network import HalfPictureEnergy, regression_loss, target_scale

    network, key = HalfPictureEnergy(), jax.random.key(0)
    params = jax.eval_shape(network.init, key, jnp.zeros((1, 48, 96, 1)))["params"]
    assert sum(value.size for value in jax.tree.leaves(params)) == 1_551_553
    np.testing.assert_allclose(target_scale(np.array([0.0, 0.8, 0.9, 1.0])), [4.0, 4.0, 2.0, 0.0], atol=1e-12)
    # Flat energy: the loss is the mean square of the target.
    images = jnp.ones((2, 16, 32, 1))
    flat = jax.tree.map(jnp.zeros_like, jax.jit(network.init)(key, images)["params"])
    loss = jax.jit(partial(regression_loss, network))(flat, 0 * images, images, jnp.array([0.5, 0.9]))
    assert float(loss) == pytest.approx((16 + 4) / 2)
