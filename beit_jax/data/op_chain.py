"""A chain of ops, taken apart as text. Nothing here needs TensorFlow."""

import ast
from collections.abc import Sequence


def split_chain(ops: str) -> list[ast.expr]:
    """The ops of a chain, which is a Python expression with the operator `|`, in order.

    Raises:
      SyntaxError: the text is no Python.
    """
    node, nodes = ast.parse(ops.strip(), mode="eval").body, []
    while isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        nodes.append(node.right)
        node = node.left
    return [node, *reversed(nodes)]


def join_chain(nodes: Sequence[ast.expr]) -> str:
    """The inverse of `split_chain`."""
    return " | ".join(map(ast.unparse, nodes))


def name_of(node: ast.expr) -> str:
    """The name of an op; empty if it is none."""
    called = node.func if isinstance(node, ast.Call) else node
    return called.id if isinstance(called, ast.Name) else ""


def arguments_of(node: ast.expr, names: Sequence[str]) -> dict[str, ast.expr]:
    """The arguments of an op by name.

    Args:
      node: the op.
      names: of its positional arguments, in order.
    """
    if not isinstance(node, ast.Call):
        return {}
    given = dict(zip(names, node.args, strict=False))
    return given | {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}


def call(name: str, arguments: dict[str, ast.expr]) -> ast.expr:
    """An op with arguments by name."""
    keywords = [ast.keyword(key, value) for key, value in arguments.items()]
    return ast.Call(ast.Name(name), [], keywords) if keywords else ast.Name(name)
