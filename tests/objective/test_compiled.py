"""Passes over logits that are compiled on a GPU: there, on a CPU and where nothing can be compiled, one result."""

import pytest
import torch

from sparsepo.objective import kernels
from sparsepo.objective.kernels import Compiled


class OnGpu(torch.Tensor):
    """A tensor that says it is on a GPU."""

    is_cuda = True


def double(values):
    return values.mul_(2)


def test_on_a_cpu_a_function_runs_as_it_is(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda _: pytest.fail("nothing is to be compiled"))
    assert Compiled(double)(torch.ones(3)).tolist() == [2.0] * 3


def test_where_compiling_fails_the_function_runs_and_a_line_says_why_once(monkeypatch, capsys):
    calls = []

    def fail(function):
        def run(*_):
            calls.append(function)
            raise torch._dynamo.exc.BackendCompilerFailed("inductor", RuntimeError("no C compiler"), None)

        return run

    monkeypatch.setattr(torch, "compile", fail)
    doubled, values = Compiled(double), torch.ones(3).as_subclass(OnGpu)
    assert doubled(values).tolist() == [2.0] * 3
    assert doubled(values).tolist() == [4.0] * 3
    assert calls == [double]
    said = capsys.readouterr().out
    assert said.count("double runs uncompiled") == 1 and "no C compiler" in said


def test_an_error_of_the_function_itself_is_not_taken_for_one_of_the_compiler(monkeypatch):
    def broken(values):
        raise ValueError("out of its domain")

    monkeypatch.setattr(torch, "compile", lambda function: function)
    with pytest.raises(ValueError, match="out of its domain"):
        Compiled(broken)(torch.ones(3).as_subclass(OnGpu))


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the compiler warns of its own parts
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_compiled_passes_give_the_numbers_of_plain_ones(softcap):
    """By the compiler for CPUs, which shares its front half with that for GPUs; gradients in place, as in use."""
    torch.manual_seed(0)
    rows, vocabulary = 9, 57
    raw, ref_raw = torch.randn(rows, vocabulary).bfloat16(), torch.randn(rows, vocabulary).bfloat16()
    raw[:, 3] = ref_raw[:, 3] = -torch.inf
    labels, term_grads = torch.arange(rows), list(torch.randn(3, rows))
    transforms = 0.5, softcap, 0.25, softcap

    def run(terms, gradient):
        values = terms(raw, ref_raw, labels, *transforms, ("reverse", "forward"))
        logit_grads = raw.clone()
        gradient(logit_grads, ref_raw, labels, values[4], values[5], values[2], *term_grads, *transforms)
        return [*values, logit_grads]

    functions = kernels._terms_of_rows.function, kernels._write_logit_grads.function
    for compiled, plain in zip(run(*map(torch.compile, functions)), run(*functions), strict=True):
        torch.testing.assert_close(compiled, plain, rtol=1e-5, atol=1e-6)
