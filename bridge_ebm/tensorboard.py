"""TensorBoard event files, written by the thread that logs.

tensorboardX's own SummaryWriter hands events to a thread: if that meets a full disk it dies, and the training then
waits for it for ever.
"""

from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar


class EventFile:
    """Appends scalars to a new event file of `folder`, in which those from update `first` on count anew."""

    def __init__(self, folder: Path, first: int):
        self._writer = EventsWriter(str(folder / "events"), f".{first}")
        self._writer.write_event(Event(step=first, session_log=SessionLog(status=SessionLog.START)))

    def add(self, step: int, values: dict[str, float], wall_time: float) -> None:
        """The named values of update `step`."""
        for name, value in values.items():
            self._writer.write_event(Event(wall_time=wall_time, step=step, summary=scalar(name, value)))

    def flush(self) -> None:
        """Put what was added on the disk."""
        self._writer.flush()

    def close(self) -> None:
        """Flush and close, in any case."""
        try:
            self._writer.flush()
        finally:
            self._writer.close()
