"""Collectives are read from compiled programs in every syntax of the compilers, with their trip counts."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from compressed_lm import training
from compressed_lm.dry_run.collectives import collectives, totals

ADD = """
%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}
"""


def program(body, *, before=""):
    """Returns the text of a program with some instructions in its main computation."""
    return f"HloModule jit_f, is_scheduled=true\n{ADD}{before}\nENTRY %main (p: f32[4,8]) -> f32[4,8] {{\n{body}\n}}\n"


def only(text):
    """Returns the only collective of a program for 16 devices."""
    (found,) = collectives(text, n_devices=16)
    return found


@pytest.mark.parametrize(
    ("groups", "first", "size"),
    [
        ("{{0,2},{1,3}}", (0, 2), 2),
        ("[4,4]<=[16]", (0, 1, 2, 3), 4),
        ("[4,4]<=[8,2]T(1,0)", (0, 2, 4, 6), 4),
        ("[8,2]<=[2,4,2]T(2,1,0)", (0, 8), 2),
        ("mesh['axis_0'=4,'axis_1'=4] {'axis_1'}", (0, 1, 2, 3), 4),
        ("mesh['axis_0'=4,'axis_1'=4] {'axis_0'}", (0, 4, 8, 12), 4),
        ("mesh['axis_0'=4,'axis_1'=4] {'axis_0','axis_1'}", tuple(range(16)), 16),
        ("mesh['axis_0'=4,'axis_1'=4] {'axis_0':(1)2,'axis_1'}", (0, 1, 2, 3, 8, 9, 10, 11), 8),
        ("mesh['axis_0'=4,'axis_1'=4] {'axis_1':(2)2}", (0, 1), 2),
        ("mesh['a'=2,'b'=8], device_ids=([8,2]T(1,0)) {'b'}", (0, 2, 4, 6, 8, 10, 12, 14), 8),
        ("{}", (), 16),
    ],
)
def test_groups_are_read_in_every_notation(groups, first, size):
    """Explicit lists, iota notation and mesh axes give the same first group."""
    text = (
        f"  ROOT %all-reduce.1 = f32[4,8]{{1,0}} all-reduce(%p), channel_id=1, replica_groups={groups}, to_apply=%add"
    )
    found = only(program(text))
    assert (found.group, found.size) == (first, size)


@pytest.mark.parametrize(
    ("instruction", "kind", "shape", "n_bytes", "sent"),
    [
        ("bf16[16,8]{1,0} all-gather(%p), replica_groups=[4,4]<=[16], dimensions={0}", "all-gather", (16, 8), 256, 192),
        (
            "(f32[4,8], f32[16,8]) all-gather-start(%p), replica_groups=[4,4]<=[16], dimensions={0}",
            *("all-gather", (16, 8), 512, 384),
        ),
        (
            "f32[1,8] reduce-scatter(%p), replica_groups=[4,4]<=[16], dimensions={0}, to_apply=%add",
            *("reduce-scatter", (4, 8), 128, 96),
        ),
        ("f32[4,8] all-reduce(%p), replica_groups=[4,4]<=[16], to_apply=%add", "all-reduce", (4, 8), 128, 192),
        ("f32[4,8] all-reduce-start(%p), replica_groups=[4,4]<=[16], to_apply=%add", "all-reduce", (4, 8), 128, 192),
        ("f32[4,8] all-to-all(%p), replica_groups=[4,4]<=[16], dimensions={0}", "all-to-all", (4, 8), 128, 96),
        (
            "(f32[4,8], f32[4,8], u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%p), "
            "source_target_pairs={{0,1},{1,0}}",
            *("collective-permute", (4, 8), 128, 128),
        ),
    ],
)
def test_bytes_are_those_of_the_whole_array(instruction, kind, shape, n_bytes, sent):
    """Gathered bytes and bytes sent per device in a ring are read from synchronous and asynchronous forms."""
    found = only(program(f"  ROOT %c.1 = {instruction}"))
    assert (found.kind, found.shapes, found.bytes, found.sent) == (kind, (shape,), n_bytes, sent)


def test_several_arrays_in_one_collective_add_up():
    """A combined all-reduce counts all its arrays, with comments and layouts in its tuple."""
    text = (
        "  ROOT %c = (f32[4,8]{1,0:T(8,128)S(1)}, /*index=1*/bf16[2]{0}) all-reduce(%p, %q), "
        "replica_groups={{0,1}}, to_apply=%add"
    )
    assert (only(program(text)).shapes, only(program(text)).bytes) == (((4, 8), (2,)), 132)


LOOP = """
%condition (t: (s32[], f32[4,8])) -> pred[] {
  %t = (s32[], f32[4,8]) parameter(0)
  %bound = s32[] constant(12)
  %i = s32[] get-tuple-element(%t), index=0
  ROOT %less = pred[] compare(%i, %bound), direction=LT
}

%body (u: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %u = (s32[], f32[4,8]) parameter(0)
  %one = s32[] constant(STEP)
  %j = s32[] get-tuple-element(%u), index=0
  %x = f32[4,8] get-tuple-element(%u), index=1
  %next = s32[] add(%j, %one)
  %c = f32[4,8] all-reduce(%x), channel_id=3, replica_groups={{0,1}}, to_apply=%add
  ROOT %out = (s32[], f32[4,8]) tuple(%next, %c)
}
"""
RUN = """
  %p = f32[4,8] parameter(0)
  %zero = s32[] constant(FIRST)
  %start.1 = s32[] copy(%zero)
  %start = (s32[], f32[4,8]) tuple(%start.1, %p)
  %w = (s32[], f32[4,8]) while(%start), condition=%condition, body=%body
  ROOT %r = f32[4,8] get-tuple-element(%w), index=1"""


@pytest.mark.parametrize(("first", "step", "rounds"), [(0, 1, 12), (0, 2, 6), (4, 1, 8), (0, 5, 3)])
def test_a_loop_counts_its_rounds(first, step, rounds):
    """The trip count of a loop in a TPU program is read from its counter."""
    text = program(RUN.replace("FIRST", str(first)), before=LOOP.replace("STEP", str(step)))
    assert only(text).count == rounds


def test_a_loop_says_how_often_it_runs():
    """The trip count of a loop in a CPU or GPU program is read from its annotation."""
    run = RUN.replace("FIRST", "0").replace(
        "body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"7"},"known_init_step":{"init":"0"}}'
    )
    assert only(program(run, before=LOOP.replace("STEP", "1"))).count == 7


def test_a_collective_that_runs_beside_fusions_counts_once():
    """An asynchronous collective that a TPU program repeats in fusions is counted once, by its channel."""
    fused = """
%async_collective_fusion.N (q: f32[4,8]) -> f32[16,8] {
  %q = f32[4,8] parameter(0)
  ROOT %g.N = f32[16,8] all-gather(%q), channel_id=26, replica_groups=[4,4]<=[16], dimensions={0}
}
"""
    body = """
  %p = f32[4,8] parameter(0)
  %f.1 = f32[16,8] fusion(%p), kind=kOutput, calls=%async_collective_fusion.1, metadata={op_name="jit(f)/up/dot"}
  ROOT %f.2 = f32[16,8] fusion(%p), kind=kOutput, calls=%async_collective_fusion.2, metadata={op_name="jit(f)/b/dot"}"""
    found = only(program(body, before=fused.replace("N", "1") + fused.replace("N", "2")))
    assert (found.kind, found.count) == ("all-gather", 1)


def test_a_sum_of_which_a_slice_is_kept_is_a_reduce_scatter():
    """An all-reduce followed by a slice, as in TPU programs, is a reduce-scatter with the name of its fusion."""
    fused = """
%all-reduce-scatter.1 (q: f32[4,8]) -> f32[1,8] {
  %q = f32[4,8] parameter(0)
  %sum.1 = f32[4,8] all-reduce(%q), channel_id=9, replica_groups=[4,4]<=[16], to_apply=%add
  ROOT %slice = f32[1,8] dynamic-slice(%sum.1), dynamic_slice_sizes={1,8}
}
"""
    body = """
  %p = f32[4,8] parameter(0)
  ROOT %f = f32[1,8] fusion(%p), kind=kCustom, calls=%all-reduce-scatter.1, metadata={op_name="jit(f)/embed/take"}"""
    found = only(program(body, before=fused))
    assert (found.kind, found.shapes, found.op_name) == ("reduce-scatter", ((4, 8),), "jit(f)/embed/take")


def test_an_asynchronous_wrapper_counts_what_it_wraps_once():
    """A collective inside the computation of `async-start` is counted once."""
    wrapped = """
%wrapped (q: f32[4,8]) -> f32[1,8] {
  %q = f32[4,8] parameter(0)
  ROOT %s = f32[1,8] reduce-scatter(%q), channel_id=5, replica_groups=[4,4]<=[16], dimensions={0}, to_apply=%add
}
"""
    body = """
  %p = f32[4,8] parameter(0)
  %start = ((f32[4,8]), f32[1,8], u32[]) async-start(%p), calls=%wrapped
  ROOT %done = f32[1,8] async-done(%start)"""
    found = only(program(body, before=wrapped))
    assert (found.kind, found.count, found.bytes) == ("reduce-scatter", 1, 128)


def test_a_real_program_gathers_each_layer_in_its_loop():
    """A scan over 5 layers split by fsdp on 8 devices gathers one matrix at a time.

    It is gathered 5 times forward and 5 times backward, and the stack of all layers never.
    """
    mesh = training.make_mesh((2, 4, 1))

    def loss(stack, x):
        return jnp.sum(jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, stack)[0])

    stack = jax.ShapeDtypeStruct((5, 64, 64), "float32", sharding=NamedSharding(mesh, P(None, "fsdp")))
    x = jax.ShapeDtypeStruct((256, 64), "float32", sharding=NamedSharding(mesh, P(("data", "fsdp"))))
    text = jax.jit(jax.grad(loss), out_shardings=stack.sharding).lower(stack, x).compile().as_text()
    found = collectives(text, n_devices=8)
    gathers = [c for c in found if c.kind == "all-gather"]
    assert {c.shapes for c in gathers} == {((64, 64),)}
    assert {(c.size, c.group) for c in gathers} == {(4, (0, 1, 2, 3))}
    assert sum(c.count for c in gathers) == 10
    assert totals(found)["all-gather"] == (10, 10 * 64 * 64 * 4, 10 * 64 * 64 * 4 * 3 / 4)
