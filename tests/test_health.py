"""The doctor: each diagnosis on a run that has exactly this fault, and none on a healthy one."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

from bridge_ebm import bridges, data, health, lock
from bridge_ebm.errors import InputError
from bridge_ebm.settings import TrainSettings

PAPER = TrainSettings(batch_size=32, alpha=0.1)
FINISH = TrainSettings(
    network="multiscale", mirror=True, objective="equilibrium", finish_after=100, buffer_size=256, batch_size=64
)
PICTURES = np.stack(
    [data.to_unit(bridges.render(name, width, 48, 192))[..., 0] for width in (0, 8, 15) for name in bridges.SUBTYPES]
)
OWNER = lock.Owner(1, "here", "today")


def row(step, **changes):
    """A logged update of a healthy contrastive run."""
    values = {"loss": 0.1, "reg": 0.2, "cdiv": -0.1, "real": -2.0, "fake": -1.5, "regression": None}
    values |= {"gradient_norm": 1.0, "moved": 0.2, "replaced": 0.0, "skipped": 0.0, "images_per_second": 50.0}
    return {"step": step, "epoch": 2, **values, **changes}


def a_run(settings=PAPER, **changes):
    """A healthy run that is being trained, with some of it replaced."""
    healthy = health.Run(settings, [row(k) for k in range(1, 201)], [], PICTURES, [100, 200], {}, OWNER, 3.0)
    return healthy._replace(**changes)


def rows_of(**changes):
    return [row(k, **changes) for k in range(1, 201)]


def finish_rows(gap, moved=0.1):
    """Energies of default.cfg's finish: their level is far below 0, and moves by hundreds."""
    levels = -15_000 + 400 * np.sin(np.arange(200) / 7)
    rows = [row(k, regression=0.2, moved=moved, reg=None) for k in range(1, 201)]
    for one, level, noise in zip(rows, levels, np.random.default_rng(0).normal(0, 60, 200), strict=True):
        one |= {"real": level, "fake": level - gap - noise}
    return rows


def test_healthy_runs_have_no_findings():
    assert health.diagnose(a_run()) == []
    assert health.diagnose(a_run(FINISH, rows=finish_rows(0))) == []
    only_regression = rows_of(real=None, fake=None, moved=None, replaced=None, regression=0.3)
    assert health.diagnose(a_run(FINISH, rows=only_regression, pictures=None)) == []
    assert health.diagnose(a_run(rows=[], pictures=None, steps=[])) == []
    stopped = [{"step": 200, "kind": "stopped", "text": "a signal asked for it"}]
    assert health.diagnose(a_run(owner=None, quiet=1e6, happened=stopped)) == []
    one_mended = [{"step": 150, "kind": "rollback", "text": "back to update 100"}]
    assert health.diagnose(a_run(happened=one_mended)) == []


BLACK = np.full_like(PICTURES, -1.0)
SICK = {
    "diverged": {"happened": [{"step": 200, "kind": "gave up", "text": "beyond 500"}]},
    "not finite": {"rows": [*rows_of()[:-2], row(199, loss=None, skipped=1.0), row(200)]},
    "diverging": {"happened": [{"step": k, "kind": "rollback", "text": "back"} for k in (150, 180)]},
    "drift": {"rows": [row(k, real=-2.0 * 1.03**k, fake=-2.0 * 1.03**k + 0.5) for k in range(1, 201)]},
    "saturated pixels": {"rows": rows_of(replaced=12.0)},
    "collapse": {"pictures": PICTURES[:1] + np.random.default_rng(0).normal(0, 0.005, PICTURES.shape)},
    "buffer frozen": {"rows": rows_of(moved=1e-4)},
    "chain too cold": {"rows": rows_of(moved=0.01, real=-30.0, fake=30.0)},
    "energies apart": {"rows": rows_of(real=30.0, fake=-30.0)},
    "stalled": {"quiet": 3600.0},
    "damaged checkpoints": {"damaged": {100: "checkpoints/100: damaged"}},
}


@pytest.mark.parametrize("kind", SICK)
def test_each_fault_is_found_and_nothing_else(kind):
    findings = health.diagnose(a_run(**SICK[kind]))
    assert [finding.kind for finding in findings] == [kind]
    assert findings[0].what and findings[0].change


@pytest.mark.parametrize("lost", [BLACK, -BLACK, 0.3 * BLACK, np.where(PICTURES > 0, np.nan, PICTURES)])
def test_a_buffer_that_shows_nothing_is_saturated(lost):
    mixed = np.concatenate([PICTURES[:16], lost[:8]])
    assert [finding.kind for finding in health.diagnose(a_run(pictures=mixed))] == ["saturated pixels"]


@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        (finish_rows(3000), "energies apart"),
        (finish_rows(-3000), "energies apart"),
        (finish_rows(-3000, moved=0.01), "chain too cold"),
    ],
)
def test_the_finish_is_judged_by_its_own_scale(rows, kind):
    assert [finding.kind for finding in health.diagnose(a_run(FINISH, rows=rows))] == [kind]


def test_every_diagnosis_has_its_sick_run():
    assert len(health._CHECKS) == len(SICK)


def test_a_folder_without_a_training_is_refused(tmp_path):
    with pytest.raises(InputError, match="no training in it"):
        health.read_run(tmp_path)
    (tmp_path / "settings.json").write_text(json.dumps({"training": 3, "model": {"subtypes": []}}))
    with pytest.raises(InputError, match=r"settings\.json"):
        health.read_run(tmp_path)


def test_the_doctor_needs_no_accelerator_which_the_training_beside_may_hold():
    shown = "import doctor, jax; print(jax.local_devices()[0].platform)"
    environment = os.environ | {"JAX_PLATFORMS": "tpu", "PYTHONPATH": str(ROOT / "experiments")}
    done = subprocess.run([sys.executable, "-c", shown], env=environment, capture_output=True, text=True, timeout=300)
    assert done.stdout == "cpu\n", done.stderr


def test_the_summary_names_the_best_checkpoint():
    rows = [row(k, real=-2.0, fake=-2.0 + (5.0 if k > 150 else 0.1)) for k in range(1, 201)]
    lines = health.summary(a_run(rows=rows))
    assert lines[0] == "update 200, trained by process 1 on here since today; checkpoints 100, 200"
    assert lines[1].startswith("best checkpoint: 100, energy gap 0.1")
