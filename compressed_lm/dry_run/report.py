"""Report of a dry run: tables of the model, memory, collectives and time."""

import collections
import re

from rich.console import Console
from rich.table import Table

from compressed_lm.dry_run.program import DryRun
from compressed_lm.formatting import byte_size, duration

# Parts of an operation's path that are not names of parameters.
_SCAFFOLD = {"while", "body", "closed_call", "checkpoint", "rematted_computation", "Block"}


def show(run: DryRun, *, console: Console | None = None) -> None:
    """Prints a dry run."""
    console = console or Console()
    if not console.is_terminal:
        console.width = max(console.width, 140)
    axes = ", ".join(f"{axis} {size}" for axis, size in run.mesh.items())
    known = f" ({run.chip.name})" if run.chip else ""
    where = f"{run.n_devices} x {run.device_kind}{known}, mesh {axes}"
    console.print(f"Dry run on {where}. No data was read, and nothing was executed.", soft_wrap=True, highlight=False)
    for table in (_model(run), _memory(run), _collectives(run), _time(run)):
        if table is not None:
            console.print(table)
    console.print(verdict(run), soft_wrap=True, highlight=False)
    effort = " with low effort (the real program needs less memory)" if run.quick else ""
    console.print(f"Compiled in {run.compile_seconds:.0f} s{effort}.")


def verdict(run: DryRun) -> str:
    """Returns whether the program fits the device, and if not, what to change."""
    memory = run.memory
    if memory.limit is None:
        return f"The memory of {run.device_kind} is not known; the program needs {byte_size(memory.peak)} per device."
    share = f"{byte_size(memory.peak)} of {byte_size(memory.limit)} per device"
    if memory.fits:
        return f"It fits: {share}, {memory.peak / memory.limit:.0%}."
    return f"It does not fit: it needs {share}. Fix: {'; '.join(remedies(run))}."


def remedies(run: DryRun) -> list[str]:
    """Returns changes that reduce memory, the cheapest first."""
    config, mesh, found = run.config, run.mesh, []
    if run.model_config.remat != "full":
        found.append("model.remat=full recomputes activations instead of storing them")
    parts = 2 * max(config.micro_batches, 1)
    if config.batch_size % (parts * mesh["data"] * mesh["fsdp"]) == 0:
        found.append(f"train.micro_batches={parts} processes the batch in parts")
    if mesh["data"] > 1:
        shape = f"1,{mesh['data'] * mesh['fsdp']},{mesh['tensor']}"
        found.append(f"--mesh {shape} splits parameters and optimizer state over the devices that now hold copies")
    found.append("use a larger topology, or a tensor axis, which also splits activations")
    return found


def _model(run):
    c, params = run.config, run.params
    table = _table("model and run", "")
    table.add_row("parameters", f"{params.total:,} ({params.embedding:,} in embeddings, {params.non_embedding:,} not)")
    if run.frozen:
        table.add_row("trained", f"{run.trainable:,}, and {run.frozen:,} frozen")
    table.add_row("forward FLOPs per token", f"{run.forward_flops(softmax=False):.4g} (2 N, as the paper counts)")
    table.add_row("  with the output layer", f"{run.forward_flops(softmax=True):.4g}")
    table.add_row("training FLOPs per token", f"{run.training_flops:.4g} (forward and backward, attention included)")
    if run.projections:
        share = run.projection_flops / (run.training_flops * run.tokens_per_step)
        table.add_row(
            "projection FLOPs per step", f"{run.projection_flops:.4g}, {share:.1%} of the FLOPs of its tokens"
        )
    if run.bytes_per_token:
        per_byte = run.forward_flops(softmax=False) / run.bytes_per_token
        table.add_row("forward FLOPs per byte", f"{per_byte:.4g} at {run.bytes_per_token:.3f} bytes per token")
    tokens = c.steps * run.tokens_per_step
    text = f", {byte_size(tokens * run.bytes_per_token)} of text" if run.bytes_per_token else ""
    table.add_row("run", f"{c.steps:,} steps of {c.batch_size} x {c.seq_len} tokens: {tokens:,} tokens{text}")
    table.add_row("training FLOPs, total", f"{run.training_flops * tokens:.4g}")
    return table


def _memory(run):
    m = run.memory
    table = _table("memory per device", "")
    table.add_row("parameters", byte_size(m.params))
    if m.frozen:
        table.add_row("frozen", byte_size(m.frozen))
    table.add_row(f"optimizer ({run.config.optimizer})", byte_size(m.optimizer))
    table.add_row("batch", byte_size(m.batch))
    table.add_row("temporaries, as allocated", "not compiled" if m.temporaries is None else byte_size(m.temporaries))
    table.add_row("peak", byte_size(m.peak))
    if m.limit is not None:
        table.add_row("available", byte_size(m.limit))
    return table


def _collectives(run):
    if not run.collectives:
        return None
    seconds = run.network_seconds or (0.0,) * len(run.collectives)
    rows = collections.defaultdict(lambda: [0, 0.0, 0.0, {}])
    for c, time in zip(run.collectives, seconds, strict=True):
        kind = f"{c.part_of} in a ring" if c.part_of else c.kind
        where, what = _place(c.op_name)
        row = rows[kind, where, c.size]
        row[0], row[1], row[2] = row[0] + c.count, row[1] + c.sent, row[2] + time
        row[3][what] = row[3].get(what, 0) + c.sent
    table = _table("collective", "where", "of", "devices", "times per step", "sent per device", "estimated")
    for (kind, where, size), (count, sent, time, names) in sorted(rows.items(), key=lambda item: -item[1][1]):
        names = sorted(names, key=names.get, reverse=True)
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        table.add_row(
            *(kind, where, ", ".join(names[:4]) + more, str(size), f"{count:,}", byte_size(sent)),
            f"{1000 * time:.2f} ms" if run.network_seconds else "-",
        )
    total = sum(c.sent for c in run.collectives)
    time = f"{1000 * sum(seconds):.2f} ms" if run.network_seconds else "-"
    table.add_row("all", "", "", "", f"{sum(c.count for c in run.collectives):,}", byte_size(total), time)
    return table


def _time(run):
    if run.parts is None:
        return None
    c, parts = run.chip, run.parts
    again = run.executed_flops / (run.training_flops * run.tokens_per_step)
    table = _table("step at peak performance (estimates)", "with overlap", "without overlap")
    why = {
        "compute": f"{run.executed_flops / run.n_devices:.4g} FLOPs at {c.bf16_flops:.4g}/s; {again:.2f} x the model's",
        "memory": f"{byte_size(run.traffic)} at {byte_size(c.memory_bandwidth)}/s",
        "network": "collectives at the full speed of the links",
    }
    for name, seconds in parts.items():
        table.add_row(f"{name}: {why[name]}", f"{1000 * seconds:.2f} ms", "")
    best, worst = run.step_seconds
    table.add_row("step", f"{1000 * best:.2f} ms", f"{1000 * worst:.2f} ms")
    table.add_row("tokens per second", *(f"{run.tokens_per_step / seconds:,.0f}" for seconds in (best, worst)))
    table.add_row("MFU", *(f"{share:.1%}" for share in run.mfu))
    table.add_row("whole run", *(duration(run.config.steps * seconds) for seconds in (best, worst)))
    return table


def _place(op_name):
    """Returns (part of the step, parameter or layer) from an operation's path."""
    if not op_name:
        return "not named", "-"
    where = "backward" if "transpose(" in op_name else "forward" if "jvp(" in op_name else "update"
    if "rematted" in op_name:
        where = "recomputed"
    parts = [part for part in op_name.split("/")[:-1] if part not in _SCAFFOLD and not re.search(r"[()]", part)]
    parts = ["embed" if part == "Transformer._table" else part for part in parts]
    name = "/".join(part for part in parts if "." not in part)
    return where + (", each layer" if "/while/" in op_name else ""), name or "-"


def _table(*columns):
    table = Table(*columns)
    for column in table.columns[1:]:
        column.justify = "left" if column.header in ("", "where", "of") else "right"
    return table
