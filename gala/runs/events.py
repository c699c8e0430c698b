"""TensorBoard's event files, written by the thread that asks for it: an error is an exception here and now.

``torch.utils.tensorboard`` writes in a thread of its own. If that meets a full disk, it ends, and from the tenth point
on whoever adds one waits for ever.
"""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_LAYOUT_TAG = "custom_scalars__config__"
LAYOUT: dict[str, dict[str, tuple[str, ...]]] = {
    "learning": {
        "return of training episodes": ("charts/episodic_return",),
        "losses": ("losses/policy_loss", "losses/value_loss"),
        "entropy": ("losses/entropy",),
        "explained variance": ("losses/explained_variance",),
    },
    "gossip": {
        "distance of the learners to their mean": ("gossip/consensus_distance", "gossip/epsilon_bound"),
        "age of messages": ("gossip/message_age_mean", "gossip/message_age_max"),
        "weights": ("gossip/weight_min", "gossip/weight_max"),
    },
    "speed": {
        "env_steps per second": ("charts/SPS",),
        "share of a learner's time": (
            *("perf/simulate_share", "perf/act_share", "perf/learn_share", "perf/gossip_share", "perf/other_share"),
        ),
    },
}
"""Category -> chart -> tags: what TensorBoard shows under "Custom Scalars", for every run alike."""


class EventFile:
    """One new event file in ``folder``. Raises OSError where nothing can be written.

    Args:
        purge_step: TensorBoard is to hide the points from this step on that earlier files of the folder hold.
    """

    def __init__(self, folder: Path, purge_step: int | None) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder.mkdir(exist_ok=True)
        # TensorBoard reads a folder's files in the order of their names.
        second, rest_ns = divmod(time.time_ns(), 10**9)
        name = f"events.out.tfevents.{second:010d}.{rest_ns:09d}.{platform.node()}.{os.getpid()}"
        self._event = Event
        self._file = (folder / name).open("wb", buffering=0)
        self._records = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")
        if purge_step is not None:
            self._write(step=purge_step, session_log=SessionLog(status=SessionLog.START))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Tags and their values, as one point each."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        points = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        if points:
            self._write(step=step, summary=Summary(value=points))

    def layout(self, categories: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
        """Which curves TensorBoard's "Custom Scalars" draws together; tags by their whole names."""
        from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.plugins.custom_scalar import layout_pb2

        told = layout_pb2.Layout()
        for title, charts in categories.items():
            category = told.category.add(title=title)
            for name, tags in charts.items():
                category.chart.add(title=name).multiline.tag.extend(f"^{re.escape(tag)}$" for tag in tags)
        text = TensorProto(dtype="DT_STRING", string_val=[told.SerializeToString()])
        plugin = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="custom_scalars"))
        self._write(summary=Summary(value=[Summary.Value(tag=_LAYOUT_TAG, tensor=text, metadata=plugin)]))

    def histogram(self, tag: str, limits: list[float], counts: list[int], step: int) -> None:
        """``counts`` of bins that end at ``limits``, ascending and not empty."""
        from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary

        count, total, squares = (sum(n * x**k for n, x in zip(counts, limits, strict=True)) for k in range(3))
        moments = {"min": limits[0], "max": limits[-1], "num": count, "sum": total, "sum_squares": squares}
        histogram = HistogramProto(bucket_limit=limits, bucket=counts, **moments)
        self._write(step=step, summary=Summary(value=[Summary.Value(tag=tag, histo=histogram)]))

    def close(self) -> None:
        self._file.close()

    def _write(self, **fields: Any) -> None:
        self._records.write(self._event(wall_time=time.time(), **fields).SerializeToString())
