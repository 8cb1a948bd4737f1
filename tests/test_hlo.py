"""What is read from the text of compiled programs."""

import jax
import jax.numpy as jnp

from metriclt_jax.hlo import summarize

# As compilers for TPU write it: layouts with parentheses, and a loop whose condition has its end.
TPU = """HloModule jit_step, entry_computation_layout={(f32[64]{0:T(128)})->f32[64]{0:T(128)}}

%body.1 (p: (s32[], f32[64])) -> (s32[], f32[64]) {
  %fusion.1 = f32[64]{0:T(128)S(1)} fusion(%p), kind=kLoop, calls=%inner, metadata={op_name="jit(step)/metric_loss/while/body/add"}, backend_config={"estimated_cycles":"10"}
  ROOT %psum.1 = f32[64]{0:T(128)} all-reduce(%fusion.1), replica_groups={{0,1}}, to_apply=%add
}

%condition.1 (p.2: (s32[], f32[64])) -> pred[] {
  %constant.7 = s32[]{:T(128)} constant(7)
  ROOT %lt = pred[]{:T(512)} compare(%p.2, %constant.7), direction=LT
}

%branch (p.3: f32[64]) -> f32[64] {
  ROOT %fusion.2 = f32[64]{0:T(128)} fusion(%p.3), kind=kLoop, calls=%inner, metadata={op_name="jit(step)/transpose(jvp(Classifier))/dot"}, backend_config={"estimated_cycles":"500"}
}

ENTRY %main.3 (param: f32[64]) -> f32[64] {
  %while.1 = (s32[]{:T(128)}, f32[64]{0:T(128)}) while(%param), condition=%condition.1, body=%body.1
  %both = (f32[64]{0:T(8,128)(2,1)}, bf16[2,8]{1,0:T(8,128)(2,1)S(1)}) all-gather-start(%while.1, %param), dimensions={0}
  %conditional.1 = f32[64]{0} conditional(%param), branch_computations={%branch, %absent}
  %gather.1 = u8[32,32,3]{2,1,0} gather(%param, %param), offset_dims={2}, slice_sizes={1,1,3}
  ROOT %gather.2 = f32[1023,3]{1,0} gather(%param, %param), offset_dims={1}, slice_sizes={1,3}, backend_config={"estimated_cycles":"3"}
}
"""  # noqa: E501


def test_a_program_for_tpu():
    summary = summarize(TPU, pixels=1024)
    assert summary.collectives == {'all-reduce': 1, 'all-gather': 1}
    assert summary.collective_bytes == {'all-reduce': 7 * 64 * 4, 'all-gather': 64 * 4 + 16 * 2}
    assert summary.pixel_gathers == 1
    assert summary.estimated_cycles == {'metric_loss': 70, 'backward': 500, 'other': 3}


def test_a_program_that_this_machine_compiled():
    def step(image, rows):
        def add(total, _):
            return jax.lax.psum(total, 'batch') / 4, None

        total, _ = jax.lax.scan(add, image[rows], length=5)
        return total

    image = jax.ShapeDtypeStruct((4, 8, 16), jnp.float32)
    rows = jax.ShapeDtypeStruct((4, 6), jnp.int32)
    on_four = jax.pmap(step, axis_name='batch', devices=jax.devices()[:4])
    text = on_four.lower(image, rows).compile().as_text()
    for pixels, gathers in ((6, 1), (7, 0)):  # rows
        summary = summarize(text, pixels)
        assert summary.collectives == {'all-reduce': 1}
        assert summary.collective_bytes == {'all-reduce': 5 * 6 * 16 * 4}
        assert summary.pixel_gathers == gathers
        assert summary.estimated_cycles == {}
