"""CUDA graphs: a whole sequence of kernels launched as one, for work so small that launching would be most of it."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

LARGEST = 32 * 2**20
"""Bytes of arguments up to which a graph is captured: they are copied at every call, and large work hides launches."""


def capture(code: Callable[..., Sequence[Tensor]], example: Sequence[Tensor]) -> Callable[..., Any]:
    """Machine code as a CUDA graph: arguments are copied into fixed places, the graph replayed, its results copied out.

    Args:
        code: a function of tensors on one CUDA device that launches the same kernels at every call, without a look
            at the host.
        example: its arguments.

    Returns:
        The function as a graph; the function itself if the arguments are larger than `LARGEST`.
    """
    if sum(leaf.numel() * leaf.element_size() for leaf in example) > LARGEST:
        return code
    places = [leaf.clone() for leaf in example]
    device = places[0].device
    # Kernels are loaded and workspaces allocated outside the capture, on another stream, as CUDA demands.
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(2):
            code(*places)
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = code(*places)

    def replay(*arguments: Tensor) -> list[Tensor]:
        torch._foreach_copy_(places, list(arguments))
        graph.replay()
        return [leaf.clone() for leaf in results]

    return replay
