"""Classifier guidance that a tracer can hold: the gradient written out as plain tensor operations.

torch.jit.trace records what is computed forwards; a call of autograd.grad it can't record. But what autograd computes
are tensor operations too. torch.fx runs the gradient once, beside the tracer, and keeps the list of them, which is then
called in place of autograd and is traced like everything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch._decomp import get_decompositions
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel

from bundle.diffusion.guidance import ClassifierGuidance

aten = torch.ops.aten


class TraceableGuidance(ClassifierGuidance):
    """:class:`ClassifierGuidance` of a classifier that is a module; in torch.jit.trace it is written out.

    Elsewhere it is `ClassifierGuidance` itself. What was traced holds for the traced batch size and side only.
    """

    def gradient(self, latents: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        if not torch.jit.is_tracing():
            return super().gradient(latents, timesteps)
        if not hasattr(self, "written_out"):
            # A thread of its own: the tracer of this one would record the making of the list as well.
            with ThreadPoolExecutor(1) as executor:
                self.written_out = executor.submit(self.write_out, [int(side) for side in latents.shape]).result()
        # Without the module's call, which the tracer would take for a layer that nobody registered.
        return self.written_out.forward(latents, timesteps, self.labels, *self.classifier.parameters())

    def write_out(self, shape: Sequence[int]) -> torch.fx.GraphModule:
        """(latents of this shape, timesteps, labels, the classifier's parameters) -> gradient, without autograd."""
        names = [name for name, _ in self.classifier.named_parameters()]
        device = next(self.classifier.parameters()).device

        def differentiate(
            latents: torch.Tensor, timesteps: torch.Tensor, labels: torch.Tensor, *parameters: torch.Tensor
        ) -> torch.Tensor:
            weights = dict(zip(names, parameters))

            def classifier(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
                return functional_call(self.classifier, weights, (noisy, timesteps))

            with sdpa_kernel(SDPBackend.MATH):  # the fused kernels hand their backward a random state
                return self.differentiate(classifier, latents, timesteps, labels)

        # Each a tensor of its own: the list tells its inputs apart by that.
        latents = torch.zeros(tuple(shape), device=device)
        timesteps, labels = (torch.zeros(shape[0], dtype=torch.int64, device=device) for _ in range(2))
        weights = [torch.zeros_like(parameter) for parameter in self.classifier.parameters()]
        return make_fx(differentiate, decomposition_table=written_by_others())(latents, timesteps, labels, *weights)


def written_by_others() -> dict:
    """For the backward operations that TorchScript has no name for, what they are made of."""
    norms = get_decompositions([aten.native_group_norm_backward, aten.native_layer_norm_backward])
    return {**norms, aten.convolution_backward.default: convolution_backward}


def convolution_backward(
    gradient: torch.Tensor,
    inputs: torch.Tensor,
    weight: torch.Tensor,
    bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    *others: Any,
) -> tuple[torch.Tensor, None, None]:
    """The gradient of a convolution with respect to its input: the transposed convolution.

    The arguments are those of torch's `aten::convolution_backward`, in its order.

    Raises:
        NotImplementedError: another gradient, or that of a transposed convolution.
    """
    transposed, _, groups, output_mask = others
    if transposed or list(output_mask) != [True, False, False]:
        raise NotImplementedError("only the gradient of a convolution with respect to its input is written out")
    # What the forward division by the stride cut off at the far side.
    rest = [
        (size - 1 + 2 * pad - spread * (kernel - 1)) % step
        for size, pad, spread, kernel, step in zip(inputs.shape[2:], padding, dilation, weight.shape[2:], stride)
    ]
    return aten.convolution(gradient, weight, None, stride, padding, dilation, True, rest, groups), None, None
