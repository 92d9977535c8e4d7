"""Puts off what is needed in a later pass alone, if it can be made there from what that pass finds in any case.

A value that outlives its pass is written to memory and read again, for every system. The derivative 1 − y² of a layer
tanh is known as soon as y is, but y is kept anyhow: so it is worked out when it is wanted. Arrays that are the same for
all systems are put off as well, into the loop that uses them.
"""

from .native_graph import SUMS, Node, Program

_DEAR = frozenset(("div", "sqrt", "exp", "log", "tanh", "sin", "cos", "pow", "layer", "dot", "sum"))
_FIXED = frozenset(("load", "item", "constant", "argument", "fold", "sum_batch", "outer", "assemble", "panel"))
_DEEPEST = 8  # operations that are put off for the sake of one


def delay(program: Program) -> Program:
    """The same program, with some of its nodes on a later level.

    Args:
        program: from `build_program`.

    Returns:
        A `Program` with as many nodes.
    """
    levels = {node.serial: node.level for node in program.nodes}
    users: dict[int, list[Node]] = {node.serial: [] for node in program.nodes}
    for node in program.nodes:
        for arg in node.nodes:
            users[arg.serial].append(node)
    results = {node.serial for result in program.results for node, _ in result.elements}

    def wanted(node: Node, level: int = 0, going: frozenset[int] = frozenset()) -> int:
        """The level at which a node is used first, if these users are put off to that one."""
        return min(
            (level if user.serial in going else levels[user.serial])
            - (not node.spread and (user.spread or user.op in SUMS))
            for user in users[node.serial]
        )

    def is_there(node: Node, level: int) -> bool:
        """Whether a pass finds this in any case."""
        if not node.spread or node.op == "load" or levels[node.serial] == level:
            return True
        return any(levels[user.serial] >= level for user in users[node.serial])

    def can_wait(node: Node, level: int, going: frozenset[int]) -> bool:
        """Whether a node can be put off to this level, together with those that need it."""
        if node.op in _FIXED or node.serial in results or len(going) > _DEEPEST or wanted(node, level, going) < level:
            return False
        if node.spread and node.op in _DEAR:
            return False
        more = going | {node.serial}
        return all(is_there(arg, level) or can_wait(arg, level, more) for arg in node.nodes)

    for node in reversed(program.nodes):
        if users[node.serial] and node.op not in _FIXED and node.serial not in results:
            level = wanted(node)
            if level > node.level and can_wait(node, level, frozenset()):
                levels[node.serial] = level
    new: dict[int, Node] = {}
    for node in program.nodes:
        args = tuple(new[arg.serial] if isinstance(arg, Node) else arg for arg in node.args)
        new[node.serial] = node._replace(args=args, level=levels[node.serial])
    moved = [
        result._replace(elements=[(new[node.serial], at) for node, at in result.elements]) for result in program.results
    ]
    return program._replace(nodes=list(new.values()), results=moved)
