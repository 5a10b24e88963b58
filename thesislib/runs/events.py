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

#: What stands beside the hyperparameters.
METRICS = ("accuracy", "test_loss", "d_0")


class Events:
    """Writes one event file, an event at a time; TensorBoard shows them while the run trains."""

    def __init__(self, folder: Path, run: Run, epoch: int) -> None:
        """Begin a file in the run's folder; what others there logged after that epoch is void."""
        # Imported here and below: only writers need it.
        from tensorboard.plugins.hparams.summary_v2 import HParam, Metric, hparams_config_pb, hparams_pb

        self._path = folder / f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
        self._tell(epoch + 1, file_version="brain.Event:2")
        self._tell(epoch + 1, session_log={"status": "START"})
        fields = {name: value for name, value in run.model_dump(mode="json").items() if value is not None}
        shown = [Metric(name) for name in METRICS if name != "d_0" or run.minimum_epochs]
        self._tell(epoch, summary=hparams_config_pb(map(HParam, fields), shown))
        self._tell(epoch, summary=hparams_pb(fields, trial_id=folder.name))

    def _tell(self, step: int, **event: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        record = io.BytesIO()
        RecordWriter(record).write(Event(wall_time=time.time(), step=step, **event).SerializeToString())
        files.append(self._path, record.getvalue())

    def row(self, values: dict[str, float]) -> None:
        """Log one epoch."""
        scalars = [{"tag": name, "simple_value": value} for name, value in values.items() if name != "epoch"]
        self._tell(values["epoch"], summary={"value": scalars})

    def end(self, epoch: int, well: bool) -> None:
        """Say how it ended."""
        from tensorboard.plugins.hparams import api_pb2, metadata
        from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo

        status = api_pb2.STATUS_SUCCESS if well else api_pb2.STATUS_FAILURE
        ended = HParamsPluginData(session_end_info=SessionEndInfo(status=status, end_time_secs=time.time()))
        value = {"tag": metadata.SESSION_END_INFO_TAG, "metadata": metadata.create_summary_metadata(ended)}
        self._tell(epoch, summary={"value": [value | {"tensor": metadata.NULL_TENSOR}]})
