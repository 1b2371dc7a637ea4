"""Several processes that run one program together, by JAX's own runtime: who they are, and what they agree on.

One process without any of this is the first of one, and waits for nobody.
"""

import itertools
import json
import os
import re
from collections.abc import Sequence
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint.multihost import get_barrier_sync_fn

from bridge_ebm.errors import InputError

# A process that is not heard of for so long is taken for dead: the others must end within a minute.
HEARTBEAT = 30
_DAY = 24 * 3600 * 1000  # milliseconds
_places = itertools.count()  # no barrier may be waited at twice

T = TypeVar("T")

_LOST = re.compile(r"gloo|nccl|coordination|barrier|connection|peer|socket|UNAVAILABLE|ABORTED|DEADLINE", re.IGNORECASE)


def join(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Join the other processes, before anything else is asked of JAX; without arguments as Slurm or a TPU pod say.

    The coordinator is HOST:PORT of the process 0. Raises an `InputError` that names the flag.
    """
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if len(missing) == 3 and not _in_a_cluster():
        return
    if 0 < len(missing) < 3:
        raise InputError(f"{', '.join(missing)}: missing; give all of --coordinator, --num_processes and --process_id")
    if coordinator is not None and not re.fullmatch(r".+:\d+", coordinator):
        raise InputError(f"--coordinator={coordinator}: must be HOST:PORT of process 0")
    if num_processes is not None and process_id is not None and not 0 <= process_id < num_processes:
        raise InputError(f"--process_id={process_id}: must be from 0 to {num_processes - 1}")
    if num_processes == 1:
        return
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            # Who says all of it is not asked about Kubernetes, and uses all devices that it sees.
            cluster_detection_method=None if coordinator is None else "deactivate",
            heartbeat_timeout_seconds=HEARTBEAT,
        )
    except (RuntimeError, ValueError) as error:
        if coordinator is None and not several():  # a TPU's machine that is no part of a pod, such as Colab's
            return
        reason = str(error).splitlines()[0][:200]
        raise InputError(f"--coordinator={coordinator}: the processes do not find each other ({reason})") from None


def _in_a_cluster() -> bool:
    """Whether Slurm started several tasks, or this is a worker of a TPU pod."""
    on_tpu = os.environ.get("TPU_ML_PLATFORM") == "JAX"  # JAX says so itself, on a TPU's own machine
    return on_tpu or ("SLURM_PROCID" in os.environ and int(os.environ.get("SLURM_NTASKS", "1")) > 1)


def joined() -> bool:
    """Whether `join` has found others."""
    return jax.distributed.is_initialized() and several()


def several() -> bool:
    """Whether other processes run with this one."""
    return jax.process_count() > 1


def number() -> int:
    """Which of the processes this is, from 0."""
    return jax.process_index()


def is_first() -> bool:
    """Whether it is this process that writes logs, pictures and reports."""
    return number() == 0


def share(items: Sequence[T]) -> Sequence[T]:
    """What falls to this process where all divide `items` among themselves: every so many-th."""
    return items[number() :: jax.process_count()]


def wait_for_all(where: str) -> None:
    """Go on when all processes have come to the place of this name, however long one takes.

    Collectives of CPUs give a peer half a minute, so this comes before those that processes do not reach together.
    """
    if several():
        get_barrier_sync_fn()(key=f"{where} ({next(_places)})", timeout_ms=_DAY)


def agreed_to_stop(step: int) -> bool:
    """Whether to stop after update `step`, because one of the processes got a SIGTERM; to be called by all after each
    update, and the same for all.
    """
    return multihost_utils.reached_preemption_sync_point(step)


def merged(records: Sequence[T]) -> list[T]:
    """JSON objects, the `share` of every process, in the order that they had before, on every process."""
    if not several():
        return list(records)
    wait_for_all("records are merged")
    text = np.frombuffer(json.dumps(list(records)).encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.array(len(text)))
    padded = np.zeros(lengths.max(), np.uint8)
    padded[: len(text)] = text
    texts = zip(multihost_utils.process_allgather(padded), lengths, strict=True)
    shares = [json.loads(text[:length].tobytes()) for text, length in texts]
    return [shares[k % len(shares)][k // len(shares)] for k in range(sum(map(len, shares)))]


def added(array: np.ndarray) -> np.ndarray:
    """The sum of every process's `array` of numbers that float32 holds, on every process."""
    if not several():
        return array
    wait_for_all("arrays are added")
    return multihost_utils.process_allgather(array).sum(axis=0).astype(array.dtype)


def lost(error: BaseException) -> str | None:
    """One line for an error of JAX's that another process's end has caused; None for any other error."""
    if several() and isinstance(error, RuntimeError | ValueError | TimeoutError) and _LOST.search(str(error)):
        reason = str(error).splitlines()[0]
        return (
            f"another process of this run has ended or is out of reach ({reason[:200]}); if it has not said why, start "
            "all again with the same command to continue"
        )
    return None
