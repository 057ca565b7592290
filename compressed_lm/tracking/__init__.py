"""Trackers of the numbers of a run, and progress bars (`tracking.progress`)."""

from compressed_lm.tracking.json_lines import JSONLines, read_json_lines
from compressed_lm.tracking.trackers import TRACKERS, TensorBoard, Terminal, Tracker, Wandb

__all__ = ["TRACKERS", "JSONLines", "TensorBoard", "Terminal", "Tracker", "Wandb", "read_json_lines"]
