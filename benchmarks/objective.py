"""Time and memory of the objective's head against the published full-vocabulary math, in one interleaved run.

Prints the ratio ours / published for one forward and backward of per-token log-probs and KL: response rows of a batch,
float32, one thread. Run by `make bench`.
"""

import os
import statistics
import time

import torch
import torch.nn.functional as F

from sparsepo.objective.terms import Head, token_terms

ROWS, WIDTH, VOCABULARY, REPEATS = 512, 576, 49_152, 5  # SmolLM2-135M, four pairs of a hundred and some tokens


def published(hidden, weight, ref_hidden, ref_weight, labels):
    """Log-probs and forward KL with every (rows, vocabulary) tensor held, as the released code computes them."""
    log_p = F.linear(hidden, weight).log_softmax(-1)
    log_q = F.linear(ref_hidden, ref_weight).log_softmax(-1)
    kl = (log_q.exp() * (log_q - log_p)).sum(-1)
    ratio = log_p.gather(1, labels[:, None])[:, 0] - log_q.gather(1, labels[:, None])[:, 0]
    return (ratio + kl).sum()


def ours(hidden, weight, ref_hidden, ref_weight, labels):
    """The same sum from `token_terms`, which gives the reverse KL as well."""
    terms = token_terms(hidden, ref_hidden, Head(weight), Head(ref_weight), labels)
    return (terms.logps - terms.ref_logps + terms.forward_kl).sum()


def seconds(function, *inputs) -> float:
    for tensor in inputs[:2]:
        tensor.grad = None
    start = time.perf_counter()
    function(*inputs).backward()
    return time.perf_counter() - start


def saved_megabytes(function, *inputs) -> float:
    """Bytes that the forward keeps for the backward, weights and inputs left out."""
    known, kept = {tensor.untyped_storage().data_ptr() for tensor in inputs}, {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        function(*inputs)
    return sum(size for pointer, size in kept.items() if pointer not in known) / 2**20


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    hidden, weight = torch.randn(ROWS, WIDTH), torch.randn(VOCABULARY, WIDTH) * 0.04
    inputs = (
        hidden.clone().requires_grad_(),
        weight.clone().requires_grad_(),
        hidden + 0.05 * torch.randn(ROWS, WIDTH),
        weight,
        torch.randint(VOCABULARY, (ROWS,)),
    )
    pairs = [(seconds(ours, *inputs), seconds(published, *inputs)) for _ in range(REPEATS + 1)][1:]
    ratio = statistics.median(a / b for a, b in pairs)
    kept = saved_megabytes(ours, *inputs), saved_megabytes(published, *inputs)
    print(f"rows {ROWS}, width {WIDTH}, vocabulary {VOCABULARY}, float32, 1 thread, {os.cpu_count()} cores")
    print(f"time    ours / published: {ratio:.2f} (median of {REPEATS} pairs)")
    print(f"memory  kept for backward: {kept[0]:.1f} MB, published {kept[1]:.1f} MB")


if __name__ == "__main__":
    main()
