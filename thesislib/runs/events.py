"""A run's event file for TensorBoard: its epochs as scalars, and its fields for the table of hyperparameters.

Without torch's SummaryWriter: it takes a second to import, and has a thread of its own, for which a process that is
told to stop waits up to two minutes.
"""

from __future__ import annotations

import io
import os
import socket
import time
from pathlib import Path
from typing import Any

from thesislib.config import Run
from thesislib.system import files


class Events:
    """Writes one event file, an event at a time; TensorBoard shows them while the run trains."""

    def __init__(self, folder: Path, run: Run, epoch: int) -> None:
        """Begin a file in the run's folder; what others there logged after that epoch is void."""
        self._path = folder / f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
        self._tell(epoch + 1, file_version="brain.Event:2")
        self._tell(epoch + 1, session_log={"status": "START"})
        fields = {name: value for name, value in run.model_dump(mode="json").items() if value is not None}
        kinds = {bool: "bool_value", str: "string_value", int: "number_value", float: "number_value"}
        hparams = {name: {kinds[type(value)]: value} for name, value in fields.items()}
        # Which columns there are TensorBoard finds out itself, and shows those first that differ.
        self._tell_hparams(epoch, "session_start_info", hparams=hparams, start_time_secs=time.time())

    def _tell(self, step: int, **event: Any) -> None:
        # Imported here and below: only writers need it.
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        record = io.BytesIO()
        RecordWriter(record).write(Event(wall_time=time.time(), step=step, **event).SerializeToString())
        files.append(self._path, record.getvalue())

    def _tell_hparams(self, step: int, name: str, **content: Any) -> None:
        from tensorboard.plugins.hparams import metadata
        from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

        told = metadata.create_summary_metadata(HParamsPluginData(**{name: content}))
        value = {"tag": f"_hparams_/{name}", "metadata": told, "tensor": metadata.NULL_TENSOR}
        self._tell(step, summary={"value": [value]})

    def row(self, values: dict[str, float]) -> None:
        """Log one epoch."""
        scalars = [{"tag": name, "simple_value": value} for name, value in values.items() if name != "epoch"]
        self._tell(values["epoch"], summary={"value": scalars})

    def end(self, epoch: int, well: bool) -> None:
        """Say how it ended."""
        status = "STATUS_SUCCESS" if well else "STATUS_FAILURE"
        self._tell_hparams(epoch, "session_end_info", status=status, end_time_secs=time.time())
