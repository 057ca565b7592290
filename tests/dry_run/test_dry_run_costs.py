"""Costs are counted with their loop counts and in the place where they arise."""

import jax
import jax.numpy as jnp
import pytest

from compressed_lm.dry_run import costs

X, W = jax.ShapeDtypeStruct((4, 8), "float32"), jax.ShapeDtypeStruct((3, 8, 8), "float32")


def test_products_in_a_scan_count_each_time():
    """3 layers of [4, 8] @ [8, 8] are 3 * 2 * 4 * 8 * 8 FLOPs, and a batched product counts its batch."""
    layers = jax.make_jaxpr(lambda x, w: jax.lax.scan(lambda x, w: (x @ w, None), x, w)[0])(X, W)
    assert costs.matrix_flops(layers) == 3 * 2 * 4 * 8 * 8
    batched = jax.make_jaxpr(lambda w: jnp.einsum("lij,ljk->lik", w, w))(W)
    assert costs.matrix_flops(batched) == 3 * 2 * 8 * 8 * 8


def test_what_is_computed_again_counts_again():
    """The gradient of two products adds four; remat adds the forward products once more."""

    def loss(w, remat):
        layer = lambda x, w: (jnp.tanh(x @ w), None)  # noqa: E731
        return jnp.sum(jax.lax.scan(jax.checkpoint(layer) if remat else layer, jnp.ones((4, 8)), w)[0])

    plain, again = (costs.matrix_flops(jax.make_jaxpr(jax.grad(lambda w, r=r: loss(w, r)))(W)) for r in (False, True))
    forward = 3 * 2 * 4 * 8 * 8
    assert (plain, again) == (3 * forward, 4 * forward)


def test_traffic_of_a_program_without_loops_is_that_of_the_compiler():
    """Memory traffic counts operands and results once each, like XLA's own cost analysis."""
    compiled = jax.jit(lambda x, w: jnp.tanh(x @ w) + 1).lower(X, jax.ShapeDtypeStruct((8, 16), "float32")).compile()
    assert costs.memory_traffic(compiled.as_text()) == pytest.approx(
        compiled.cost_analysis()["bytes accessed"], rel=0.1
    )


LOOP = """HloModule jit_f

%slice (a: f32[6,100], i: s32[]) -> f32[100] {
  %a = f32[6,100] parameter(0)
  %i = s32[] parameter(1)
  %part = f32[1,100] dynamic-slice(%a, %i), dynamic_slice_sizes={1,100}
  ROOT %flat = f32[100] bitcast(%part)
}

%write (b: f32[6,100], v: f32[100], i: s32[]) -> f32[6,100] {
  %b = f32[6,100] parameter(0)
  %v = f32[100] parameter(1)
  %i = s32[] parameter(2)
  %row = f32[1,100] bitcast(%v)
  ROOT %new = f32[6,100] dynamic-update-slice(%b, %row, %i)
}

%condition (t: (s32[], f32[6,100], f32[6,100])) -> pred[] {
  %t = (s32[], f32[6,100], f32[6,100]) parameter(0)
  ROOT %true = pred[] constant(true)
}

%body (t: (s32[], f32[6,100], f32[6,100])) -> (s32[], f32[6,100], f32[6,100]) {
  %t = (s32[], f32[6,100], f32[6,100]) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %a = f32[6,100] get-tuple-element(%t), index=1
  %b = f32[6,100] get-tuple-element(%t), index=2
  %x = f32[100]{0:S(1)} fusion(%a, %i), kind=kLoop, calls=%slice
  %y = f32[100]{0:S(1)} negate(%x)
  %z = f32[6,100] fusion(%b, %y, %i), kind=kLoop, calls=%write
  ROOT %out = (s32[], f32[6,100], f32[6,100]) tuple(%i, %a, %z)
}

ENTRY %main (p: (s32[], f32[6,100], f32[6,100])) -> (s32[], f32[6,100], f32[6,100]) {
  %p = (s32[], f32[6,100], f32[6,100]) parameter(0)
  ROOT %w = (s32[], f32[6,100], f32[6,100]) while(%p), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"6"}}
}
"""  # noqa: E501


def test_a_loop_moves_slices_and_not_whole_arrays():
    """6 iterations that read a row of 400 bytes and write one.

    Intermediate values stay on the chip; each read of the index adds 4 bytes.
    """
    assert costs.memory_traffic(LOOP) == 6 * (400 + 400 + 4 + 4)
