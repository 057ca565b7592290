"""Where the numbers of a run go; progress bars are in `tracking.progress`."""

from compressed_lm.tracking.trackers import JSONLines, TensorBoard, Terminal, Tracker, Wandb, read_json_lines

__all__ = ["JSONLines", "TensorBoard", "Terminal", "Tracker", "Wandb", "read_json_lines"]
