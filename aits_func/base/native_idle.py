"""Which systems a later pass over the batch may leave out: those that add nothing to any of its sums.

The gradient of a loss over some samples is a sum in which every other sample stands with the factor 0, put there by
``where(mask, x, 0)``. A product with that factor is 0 again, and so on to the end; so from the masks one can tell
beforehand which systems the pass is about. 0 · ∞, 0 · NaN and 0 / 0 are taken for 0 in this, as they are by whoever
leaves a sample out himself: a system that does not count cannot spoil a gradient.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from .native_graph import SUMS, Node, Program

_ZEROS = ("real(0x0.0p+0)", "real(-0x0.0p+0)", "false", "INT64_C(0)")
_ZERO_IF_ONE_IS = ("mul", "and", "outer")
_ZERO_IF_THE_FIRST_IS = ("div", "neg", "convert", "abs", "tanh", "sin", "layer", "dot", "sum", "element", "sum_batch")
_ZERO_IF_ALL_ARE = ("add", "sub", "or", "max", "min", "assemble")


class Idle(NamedTuple):
    """Systems for which a mask, a lane of truth values, has this value."""

    mask: Node
    value: bool


_Known = frozenset[Idle] | None
"""Where a node is 0, or false, for sure: in each of these cases; None: everywhere."""


def find_idle(program: Program, level: int) -> list[Idle]:
    """The systems that add nothing to any sum over the batch of one pass.

    Args:
        program: the program.
        level: of the pass.

    Returns:
        Cases, each of which is enough; only masks that are known before the pass. An empty list if there are none, or
        if the pass leaves behind something for every system.
    """
    mine = [node for node in program.nodes if node.level == level]
    left = {element.serial for result in program.results for element, _ in result.elements}
    left |= {arg.serial for node in program.nodes if node.level > level for arg in node.nodes}
    if any(node.spread and node.serial in left for node in mine):
        return []
    zeros = _zeros(program)
    common = _all_of([zeros[node.serial] for node in mine if node.op in SUMS])
    return [case for case in sorted(common or (), key=lambda case: case.mask.serial) if case.mask.level < level]


def _zeros(program: Program) -> dict[int, _Known]:
    zeros: dict[int, _Known] = {}
    for node in program.nodes:
        if node.spread or node.op in SUMS:
            # That a system adds nothing to a sum does not make the sum 0.
            args = [frozenset() if arg.op in SUMS else zeros[arg.serial] for arg in node.nodes]
            zeros[node.serial] = _zeros_of(node, args)
        else:
            zeros[node.serial] = None if node.op == "constant" and node.args[0] in _ZEROS else frozenset()
    return zeros


def _zeros_of(node: Node, args: Sequence[_Known]) -> _Known:
    known: _Known = frozenset()
    if node.op == "where":
        mask, chosen, other = node.nodes[0], args[1], args[2]
        known = _all_of([chosen, other])
        if chosen is None and mask.kind == "lane":
            known = _any_of([known, frozenset({Idle(mask, True)}), other])
        if other is None and mask.kind == "lane":
            known = _any_of([known, frozenset({Idle(mask, False)}), args[0], chosen])
    elif node.op in _ZERO_IF_ONE_IS:
        known = _any_of(args)
    elif node.op in _ZERO_IF_THE_FIRST_IS or (node.op == "fold" and node.args[0] in ("add", "or")):
        known = args[0]
    elif node.op in _ZERO_IF_ALL_ARE:
        known = _all_of(args)
    elif node.op == "not" and node.kind == "lane" and node.dtype == torch.bool:
        known = frozenset({Idle(node.nodes[0], True)})
    if node.kind == "lane" and node.dtype == torch.bool and known is not None:
        known |= {Idle(node, False)}
    return known


def _any_of(sets: Sequence[_Known]) -> _Known:
    return None if any(each is None for each in sets) else frozenset().union(*(each for each in sets if each))


def _all_of(sets: Sequence[_Known]) -> _Known:
    some = [each for each in sets if each is not None]
    return frozenset.intersection(*some) if some else None
