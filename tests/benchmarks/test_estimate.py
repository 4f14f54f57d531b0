"""Estimates from the text of compiled programs, by hand."""

import pytest

from beit_jax.benchmarks import chips, collectives, estimate, hlo

V5E, H200 = (next(chip for chip in chips.CHIPS if chip.name == name) for name in ("v5e", "h200"))
NAME = "jit(step)/{}/while/body/closed_call/blocks/mlp/fc1/dot_general"
TPU = """
%condition (p: (s32[], f32[4])) -> pred[] {
  %limit = s32[]{:T(128)} constant(12)
  %p = (s32[]{:T(128)}, f32[4]{0}) parameter(0)
  %count = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %less = pred[]{:T(512)} compare(%count, %limit), direction=LT
}

%body (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %p = (s32[]{:T(128)}, f32[4]{0}) parameter(0)
  ROOT %work = (s32[]{:T(128)}, f32[4]{0}) fusion(%p), kind=kLoop, calls=%inside, metadata={op_name="FORWARD"}, \
backend_config={"window_config":{"estimated_cycles":"1500"}}
}

%inside (p: f32[4]) -> f32[4] {
  ROOT %never = f32[4]{0} add(%p, %p), backend_config={"window_config":{"estimated_cycles":"9999999"}}
}

ENTRY %main (x: f32[4]) -> f32[4] {
  %x = f32[4]{0} parameter(0)
  %loop = (s32[]{:T(128)}, f32[4]{0}) while(%x), condition=%condition, body=%body
  %kernel = bf16[4]{0} custom-call(%x), custom_call_target="tpu_custom_call", metadata={op_name="BACKWARD"}, \
backend_config={"custom_call_config":{"cost_estimate":{"flops":"197000000","bytes_accessed":"8190000"}}}
  ROOT %last = f32[4]{0} copy(%x), backend_config={"window_config":{"estimated_cycles":"3000"}}
}
""".replace("FORWARD", NAME.format("jvp(Model)/encoder")).replace(
    "BACKWARD", NAME.format("transpose(jvp(Model))/encoder")
)
GPU = """
%product (a: bf16[1024,512], b: bf16[512,2048]) -> bf16[1024,2048] {
  %a = bf16[1024,512]{1,0} parameter(0)
  %b = bf16[512,2048]{1,0} parameter(1)
  ROOT %dot = bf16[1024,2048]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%fill (stack: f32[12,64,64], row: f32[64,64]) -> f32[12,64,64] {
  %stack = f32[12,64,64]{2,1,0} parameter(0)
  %row = f32[64,64]{1,0} parameter(1)
  ROOT %put = f32[12,64,64]{2,1,0} dynamic-update-slice(%stack, %row)
}

ENTRY %main (x: bf16[1024,512]) -> bf16[1024,2048] {
  %x = bf16[1024,512]{1,0} parameter(0)
  %w = bf16[512,2048]{1,0} parameter(1)
  %s = f32[12,64,64]{2,1,0} parameter(2)
  %r = f32[64,64]{1,0} parameter(3)
  %layer = f32[12,64,64]{2,1,0} fusion(%s, %r), kind=kLoop, calls=%fill
  ROOT %y = bf16[1024,2048]{1,0} fusion(%x, %w), kind=kCustom, calls=%product
}
"""


def test_cycles_and_stated_costs_of_a_tpu():
    found = estimate.kernels(hlo.Program(TPU), V5E)
    assert [(kernel.name, kernel.direction) for kernel in found] == [
        ("encoder/blocks/mlp/fc1", "backward"),
        ("copies", "update"),
        ("encoder/blocks/mlp/fc1", "forward"),
    ]
    # 8.19 MB at 819 GB/s take longer than 0.197 GFLOP at 197 TFLOP/s; a loop that its condition ends after 12 times.
    assert [kernel.seconds for kernel in found] == pytest.approx([1e-5, 3000 / 1.5e9, 12 * 1500 / 1.5e9])
    assert next(estimate.by_part(found))[:2] == ("forward", "encoder/blocks/mlp/fc1")


def test_lower_bound_of_a_gpu():
    layer, product = (kernel.seconds - estimate.LAUNCH_S for kernel in estimate.kernels(hlo.Program(GPU), H200))
    # Of a stack one layer is read, as the row, and written in place.
    assert layer == pytest.approx(3 * 64 * 64 * 4 / (0.8 * 4.8e12))
    flops, moved = 2 * 1024 * 512 * 2048, 2 * (1024 * 512 + 512 * 2048 + 1024 * 2048)
    assert product == pytest.approx(max(flops / (0.8 * 989.5e12), moved / (0.8 * 4.8e12)))


OVERLAPPED = """
%start (p: bf16[1,128]) -> (bf16[1,128], bf16[8,128], u32[]) {
  %p = bf16[1,128]{1,0} parameter(0)
  ROOT %gather = bf16[8,128]{1,0} all-gather(%p), replica_groups=[4,8]<=[32], dimensions={0}
}

%product (a: u32[], b: bf16[8,128]) -> bf16[8,128] {
  %a = u32[]{:S(2)} parameter(0)
  %b = bf16[8,128]{1,0} parameter(1)
  ROOT %again = bf16[8,128]{1,0} all-gather(%b), replica_groups=[4,8]<=[32], dimensions={0}
}

%scatter (c: f32[64,128]) -> f32[8,128] {
  %c = f32[64,128]{1,0} parameter(0)
  ROOT %sum = f32[64,128]{1,0} all-reduce(%c), replica_groups=[4,8]<=[32], to_apply=%add
}

%add (x: f32[], y: f32[]) -> f32[] {
  ROOT %z = f32[] add(%x, %y)
}

ENTRY %main (w: bf16[1,128], g: f32[64,128]) -> bf16[8,128] {
  %w = bf16[1,128]{1,0} parameter(0)
  %g = f32[64,128]{1,0} parameter(1)
  %async-collective-start = (bf16[1,128]{1,0}, bf16[8,128]{1,0}, u32[]{:S(2)}) fusion(%w), kind=kCustom, calls=%start
  %array = bf16[8,128]{1,0} get-tuple-element(%async-collective-start), index=1
  %semaphore = u32[]{:S(2)} get-tuple-element(%async-collective-start), index=2
  %reduced = f32[8,128]{1,0} fusion(%g), kind=kCustom, calls=%scatter
  ROOT %done = bf16[8,128]{1,0} fusion(%semaphore, %array), kind=kCustom, calls=%product
}
"""


def test_a_collective_that_several_kernels_of_a_tpu_share_counts_once():
    found = collectives.count_collectives(OVERLAPPED, 32)
    assert found["all-gather"] == {"count": 1, "bytes": 8 * 128 * 2 * 7 // 8}
    assert found["all-reduce"] == {"count": 1, "bytes": 2 * 64 * 128 * 4 * 7 // 8}
