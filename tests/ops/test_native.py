"""The native operations as torch sees them: values and gradients against `reference`, tracing, compilation, threads.

Letters: B batch, S sequence, D width, I inputs, O outputs, N tokens, V vocabulary.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from pyjpllm import _native, ops
from pyjpllm.errors import UserError
from pyjpllm.ops import native
from tests.ops.cases import CASES, as_tuple, run

MINE = [name for name, case in CASES.items() if case.operation in native.__all__]


def randn(*shape: int, grad: bool = True, seed: int = 0) -> torch.Tensor:
    made = torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))
    return made.requires_grad_(grad)


def values_and_gradients(function, inputs, seed=0):
    outputs = as_tuple(function(*inputs))
    grads = [randn(*y.shape, grad=False, seed=seed + i) for i, y in enumerate(outputs)]
    return outputs, torch.autograd.grad(outputs, [x for x in inputs if x.requires_grad], grads)


def assert_like_fp64(function, formula, *inputs):
    """Values and gradients equal those of ``formula`` in FP64 from the same numbers."""
    wide = [x.detach().double().requires_grad_(x.requires_grad) if x.is_floating_point() else x for x in inputs]
    got, want = values_and_gradients(function, inputs), values_and_gradients(formula, wide)
    for ours, exact in zip(got[0] + got[1], want[0] + want[1], strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, exact.float(), atol=2e-5, rtol=1e-5)


def test_the_backend_is_registered_and_names_what_it_lacks():
    assert "native" in ops.available_backends()
    assert set(ops.missing_operations("native")).isdisjoint(native.__all__)


@pytest.mark.parametrize("name", MINE)
def test_equals_the_reference(name):
    with ops.use_backend("reference"):
        expected = run(CASES[name], torch.float32)
    with ops.use_backend("native"):
        actual = run(CASES[name], torch.float32)
    torch.testing.assert_close(actual, expected, atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("lead", [(), (1,), (0,), (5,), (2, 3), (2, 0, 3), (2, 1, 3)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_takes_any_number_of_dimensions(lead, bias):
    inputs = [randn(*lead, 19), randn(33, 19)] + [randn(33)] * bias
    assert native.linear(*inputs).shape == (*lead, 33)
    assert_like_fp64(native.linear, torch.nn.functional.linear, *inputs)


@pytest.mark.parametrize("lead", [(), (1,), (0,), (5,), (2, 3), (2, 0, 3), (2, 1, 3)])
def test_norm_and_swiglu_take_any_number_of_dimensions(lead):
    def norm(x, w):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-3) * w

    assert_like_fp64(lambda x, w: native.rms_norm(x, w, 1e-3), norm, randn(*lead, 37), randn(37))
    formula = lambda g, u: torch.nn.functional.silu(g) * u  # noqa: E731
    assert_like_fp64(native.swiglu, formula, randn(*lead, 37), randn(*lead, 37, seed=1))


LAYOUTS = {
    "transposed": lambda x: x.t().contiguous().t(),
    "every second row": lambda x: torch.stack([x, x], 1).flatten(0, 1)[::2],
    "every second column": lambda x: torch.stack([x, x], 2).flatten(1, 2)[:, ::2],
    "part of a row": lambda x: torch.cat([x, x], 1)[:, x.shape[1] :],
    "row repeated": lambda x: x[:1].expand_as(x),
    "number repeated": lambda x: x[:1, :1].expand_as(x),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts(layout):
    def on(function, *shapes):
        leaves = [randn(*shape, seed=i) for i, shape in enumerate(shapes)]
        assert_like_fp64(
            lambda *xs: function(native, *[layout(x) for x in xs]),
            lambda *xs: function(plain, *[layout(x) for x in xs]),
            *leaves,
        )

    class plain:  # noqa: N801
        linear = staticmethod(torch.nn.functional.linear)
        swiglu = staticmethod(lambda g, u: torch.nn.functional.silu(g) * u)

        @staticmethod
        def rms_norm(x, w, eps):
            return torch.nn.functional.rms_norm(x, w.shape, w, eps)

        @staticmethod
        def linear_logsumexp(h, w, t):
            logits = h @ w.t()
            return logits.logsumexp(1), logits.gather(1, t[:, None])[:, 0]

    targets = torch.arange(14) % 6
    on(lambda m, x, w: m.linear(x, w, w[:, 0]), (14, 18), (6, 18))
    on(lambda m, x, w: m.rms_norm(x, w[0], 1e-2), (14, 18), (6, 18))
    on(lambda m, x, y: m.swiglu(x, y), (14, 18), (14, 18))
    on(lambda m, x, w: m.linear_logsumexp(x, w, targets), (14, 18), (6, 18))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts_of_the_output_gradient(layout):
    x, w, b = randn(14, 18), randn(6, 18), randn(6)
    gate, up, norm = randn(14, 6, seed=1), randn(14, 6, seed=2), randn(6, seed=3)
    grad = randn(14, 6, grad=False, seed=4)
    for function, inputs in (
        (native.linear, (x, w, b)),
        (native.swiglu, (gate, up)),
        (lambda a, c: native.rms_norm(a, c, 1e-5), (gate, norm)),
    ):
        same = torch.autograd.grad(function(*inputs), inputs, layout(grad).contiguous())
        for one, other in zip(torch.autograd.grad(function(*inputs), inputs, layout(grad)), same, strict=True):
            assert torch.equal(one, other)


def test_gradients_only_where_they_are_needed():
    x, w = randn(4, 5), randn(3, 5)
    for need in ((True, False), (False, True)):
        inputs = [t.detach().requires_grad_(wanted) for t, wanted in zip((x, w), need, strict=True)]
        for function in (native.linear, lambda h, v: native.linear_logsumexp(h, v, torch.arange(4) % 3)[0]):
            function(*inputs).sum().backward()
        assert [t.grad is not None for t in inputs] == list(need)


def test_second_derivatives_are_refused():
    x, w, vocabulary = randn(4, 5), randn(5), randn(3, 5)
    for name, function in {
        "linear_grad": lambda: native.linear(x, vocabulary),
        "rms_norm_backward": lambda: native.rms_norm(x, w, 1e-5),
        "swiglu_backward": lambda: native.swiglu(x, x),
        "linear_logsumexp_backward": lambda: native.linear_logsumexp(x, vocabulary, torch.arange(4))[0],
    }.items():
        (slope,) = torch.autograd.grad(function().square().sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match=f"jpllm::{name}.*: second derivatives are not implemented"):
            slope.sum().backward()


def test_only_one_output_of_the_logsumexp_used():
    h, w, t = randn(4, 5), randn(3, 5), torch.tensor([0, 2, -100, 7])
    for i in (0, 1):
        got = torch.autograd.grad(native.linear_logsumexp(h, w, t)[i].sum(), (h, w))
        logits = h @ w.t()
        safe = t.clamp(0, 2)
        want = logits.logsumexp(1) if i == 0 else torch.where(t == safe, logits.gather(1, safe[:, None])[:, 0], 0)
        torch.testing.assert_close(got, torch.autograd.grad(want.sum(), (h, w)))


def test_an_empty_batch_has_gradients_of_zero():
    h, w = randn(0, 5), randn(3, 5)
    lse, logit = native.linear_logsumexp(h, w, torch.empty(0, dtype=torch.int64))
    (lse.sum() + logit.sum() + native.linear(h, w).sum()).backward()
    assert lse.shape == logit.shape == (0,)
    assert torch.equal(w.grad, torch.zeros(3, 5))
    assert h.grad.shape == (0, 5)


def test_another_dtype_is_refused_by_name():
    x = torch.ones(4, 4, dtype=torch.float64)
    for operation, call in {
        "linear": lambda: native.linear(x, x),
        "linear_logsumexp": lambda: native.linear_logsumexp(x, x, torch.arange(4)),
        "adamw_step": lambda: adamw(x[0], x[1], x[2], x[3]),
    }.items():
        with pytest.raises(UserError, match=f"^{operation}: the native kernels compute in float32.* float64; "):
            call()


def test_mixed_types_are_refused_by_name():
    x, half = torch.ones(4, 4), torch.ones(4, 4, dtype=torch.bfloat16)
    with pytest.raises(UserError, match="linear: one type is needed, and x is float32, weight bfloat16"):
        native.linear(x, half)
    with pytest.raises(UserError, match="one type is needed, and hidden is bfloat16, weight float32"):
        native.linear_logsumexp(half, x, torch.arange(4))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", [1, 3, 40])
def test_linear_in_16_bits_is_rounded_once(rows, dtype):
    x, w, b = (randn(*shape).detach().to(dtype).requires_grad_() for shape in ((rows, 70), (33, 70), (33,)))
    wide = [t.detach().double().requires_grad_() for t in (x, w, b)]
    dy = randn(rows, 33, grad=False).to(dtype)
    y, exact = native.linear(x, w, b), torch.nn.functional.linear(*wide)
    got = (y, *torch.autograd.grad(y, (x, w, b), dy))
    want = (exact, *torch.autograd.grad(exact, wide, dy.double()))
    for ours, right in zip(got, want, strict=True):
        assert ours.dtype == dtype
        # Half a unit in the last place, and FP32's error of a sum of at most 70 products below 20 in size.
        torch.testing.assert_close(ours.double(), right, rtol=torch.finfo(dtype).eps / 2, atol=70 * 20 * 6e-8)


def test_another_device_is_refused_by_name():
    class Elsewhere(torch.Tensor):
        device = torch.device("cuda", 0)

    with pytest.raises(UserError, match="linear: the native kernels compute on the CPU and x is on cuda:0; set"):
        native.linear(torch.ones(2, 2).as_subclass(Elsewhere), torch.ones(2, 2))


def test_shapes_that_do_not_fit_are_refused():
    x = torch.ones(2, 3)
    for call, message in (
        (lambda: native.linear(x, torch.ones(4, 4)), r"linear: x \[..., I\].*got \(2, 3\), \(4, 4\)"),
        (lambda: native.linear(x, torch.ones(4, 3), torch.ones(3)), r"got \(2, 3\), \(4, 3\), \(3,\)"),
        (lambda: native.linear(torch.tensor(1.0), x), "linear"),
        (lambda: native.rms_norm(x, torch.ones(2), 1e-5), r"rms_norm: x \[..., D\] and weight \[D\]"),
        (lambda: native.swiglu(x, torch.ones(3)), "swiglu: gate and up of one shape"),
        (lambda: native.linear_logsumexp(x, x, torch.arange(3)), "linear_logsumexp: hidden"),
        (lambda: adamw(x[0], x[0], x[0], torch.ones(4)), "sizes of param, grad, exp_avg and exp_avg_sq differ"),
        (lambda: adamw(torch.ones(4)[::2], *[torch.ones(2)] * 3), "param must be contiguous"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def adamw(param, grad, exp_avg, exp_avg_sq, **changes):
    numbers = {"lr": 1e-2, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1, "step": 1}
    native.adamw_step(param, grad, exp_avg, exp_avg_sq, **(numbers | changes))


@pytest.mark.parametrize("copy", [None, torch.bfloat16, torch.float16, torch.float32])
def test_adamw_equals_torch(copy):
    start = randn(1001, grad=False)
    theirs = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.AdamW([theirs], lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    ours, exp_avg, exp_avg_sq = start.clone(), torch.zeros(1001), torch.zeros(1001)
    model = None if copy is None else torch.zeros(1001, dtype=copy)
    for step in range(1, 6):
        grad = randn(1001, grad=False, seed=step)
        theirs.grad = grad * 0.25
        optimizer.step()
        adamw(ours, grad, exp_avg, exp_avg_sq, step=step, grad_scale=0.25, model_param=model)
        torch.testing.assert_close(ours, theirs.data, atol=1e-6, rtol=1e-6)
        if model is not None:
            assert torch.equal(model, ours.to(model.dtype))


OPCHECKS = {
    "linear": lambda: (torch.ops.jpllm.linear, (randn(2, 3, 17), randn(9, 17), randn(9))),
    "linear without bias": lambda: (torch.ops.jpllm.linear, (randn(3, 17), randn(9, 17), None)),
    "linear_grad_input": lambda: (
        torch.ops.jpllm.linear_grad_input,
        (randn(3, 9, grad=False), randn(9, 5, grad=False)),
    ),
    "linear_grad_weight": lambda: (
        torch.ops.jpllm.linear_grad_weight,
        (randn(2, 3, 9, grad=False), randn(2, 3, 5, grad=False)),
    ),
    "linear_grad_bias": lambda: (torch.ops.jpllm.linear_grad_bias, (randn(2, 3, 9, grad=False),)),
    "rms_norm": lambda: (torch.ops.jpllm.rms_norm, (randn(2, 3, 17), randn(17), 1e-5)),
    "rms_norm_backward": lambda: (
        torch.ops.jpllm.rms_norm_backward,
        (randn(3, 17, grad=False), randn(3, 17, grad=False, seed=1), randn(17, grad=False), torch.ones(3), None),
    ),
    "swiglu": lambda: (torch.ops.jpllm.swiglu, (randn(2, 17), randn(2, 17, seed=1))),
    "swiglu_backward": lambda: (
        torch.ops.jpllm.swiglu_backward,
        tuple(randn(2, 17, grad=False, seed=i) for i in range(3)),
    ),
    "linear_logsumexp": lambda: (
        torch.ops.jpllm.linear_logsumexp,
        (randn(4, 17), randn(9, 17), torch.tensor([0, 8, -100, 9])),
    ),
    "linear_logsumexp_backward": lambda: (
        torch.ops.jpllm.linear_logsumexp_backward,
        (
            *(randn(4, 17, grad=False), randn(9, 17, grad=False), torch.tensor([0, 8, -100, 9])),
            *(torch.full((4,), 10.0), torch.ones(4), torch.ones(4), True, False),
        ),
    ),
    "adamw_step": lambda: (
        torch.ops.jpllm.adamw_step,
        (
            *(randn(33, grad=False, seed=i).abs() for i in range(4)),
            *(torch.zeros(33, dtype=torch.bfloat16), 1e-3, 0.9, 0.99, 1e-8, 0.1, 3, 1.0),
        ),
    ),
}


@pytest.mark.parametrize("name", OPCHECKS)
def test_opcheck(name):
    operator, inputs = OPCHECKS[name]()
    torch.library.opcheck(operator, inputs)


def block(x, w, up, down):
    hidden = native.rms_norm(x, w, 1e-5)
    return x + native.linear(native.swiglu(native.linear(hidden, up), native.linear(hidden, up)), down)


def loss(x, w, up, down, vocabulary):
    lse, logit = native.linear_logsumexp(block(x, w, up, down), vocabulary, torch.arange(x.shape[0]))
    return (lse - logit).sum()


def leaves():
    return randn(6, 16), randn(16), randn(40, 16), randn(16, 40), randn(11, 16)


def test_torch_compile_traces_the_whole_function():
    expected = values_and_gradients(loss, leaves())
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    actual = values_and_gradients(compiled, leaves())
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_torch_compile_builds_a_function(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    # No probing of this CPU, no pool of compiling processes: one call of the compiler.
    for name, value in {"cpp_cache_precompile_headers": False, "compile_threads": 1, "cpp.simdlen": 1}.items():
        monkeypatch.setattr(f"torch._inductor.config.{name}", value)
    x, w = randn(6, 16, grad=False), randn(16, grad=False)

    def function(x, w):
        return native.rms_norm(x * 2, w, 1e-5) + 1

    torch.testing.assert_close(torch.compile(function, fullgraph=True)(x, w), function(x, w), atol=1e-5, rtol=1e-5)


def test_activation_checkpointing_gives_the_same_bits():
    plain = values_and_gradients(block, leaves()[:4])
    again = values_and_gradients(lambda *xs: checkpoint(block, *xs, use_reentrant=False), leaves()[:4])
    for one, other in zip(plain[0] + plain[1], again[0] + again[1], strict=True):
        assert torch.equal(one, other)


def test_meta_tensors_give_shapes():
    made = [t.detach().to("meta").requires_grad_() for t in leaves()]
    outputs = native.linear_logsumexp(block(*made[:4]), made[4], torch.empty(6, dtype=torch.int64, device="meta"))
    grads = torch.autograd.grad(outputs, made, [torch.empty_like(y) for y in outputs])
    assert [g.shape for g in grads] == [t.shape for t in made]
    buffers = [torch.empty(5, device="meta") for _ in range(4)]
    adamw(*buffers, model_param=torch.empty(5, dtype=torch.bfloat16, device="meta"))


def step_bits() -> list[bytes]:
    """Outputs and gradients of a function large enough for a team of threads."""
    inputs = randn(300, 256), randn(256), randn(512, 256), randn(256, 512), randn(1200, 256)
    outputs, grads = values_and_gradients(loss, inputs)
    return [t.detach().numpy().tobytes() for t in outputs + grads]


def test_same_bits_on_any_number_of_threads():
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = step_bits()
        for count in (2, 3):
            torch.set_num_threads(count)
            assert step_bits() == expected
    finally:
        torch.set_num_threads(threads)


def _send_bits(queue) -> None:
    torch.set_num_threads(2)
    queue.put(step_bits())


def test_a_spawned_process_computes_the_same():
    expected = step_bits()
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_send_bits, args=(queue,))
    process.start()
    assert queue.get(timeout=120) == expected
    process.join()
    assert process.exitcode == 0


def test_two_python_threads_compute_at_once():
    from concurrent.futures import ThreadPoolExecutor

    expected = step_bits()
    with ThreadPoolExecutor(3) as pool:
        assert all(bits == expected for bits in pool.map(lambda _: step_bits(), range(6)))


def test_teams_come_from_torchs_own_openmp_runtime():
    info = _native.build_info()
    assert info["thread_runtime"].startswith("openmp: ")
    assert info["thread_runtime"].removeprefix("openmp: ") in info["openmp_runtimes"]


def test_without_the_compiled_module_the_reason_is_one_line():
    code = (
        "import sys; sys.modules['pyjpllm._native'] = None\n"
        "from pyjpllm import ops\n"
        "print('native' in ops.available_backends(), ops.unavailable_reason('native'))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True)
    assert result.stdout.startswith("False the native kernels are not built for this Python")
    assert "`pip install .`" in result.stdout
