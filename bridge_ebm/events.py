"""What happened in a training besides its updates: events.jsonl, one object per line with step, kind, text and time."""

import json
import time
from pathlib import Path
from typing import Any

EVENTS_FILE = "events.jsonl"


def record(workdir: Path, step: int, kind: str, text: str) -> None:
    """Append an event of update `step`."""
    row = {"step": step, "kind": kind, "text": text, "time": time.strftime("%F %T")}
    path = workdir / EVENTS_FILE
    cut_short = path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
    with path.open("a", encoding="utf-8") as file:
        file.write(("\n" if cut_short else "") + json.dumps(row) + "\n")


def read(workdir: Path) -> list[dict[str, Any]]:
    """The events in order; lines that are damaged or cut short by a kill are left out."""
    try:
        lines = (workdir / EVENTS_FILE).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [row for row in map(_parsed, lines) if row is not None]


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
        right = isinstance(row["step"], int) and all(isinstance(row[name], str) for name in ("kind", "text"))
        return row if right else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
