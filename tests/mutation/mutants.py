"""Small faults that could have been made in a source file: one change of its syntax tree each.

mutmut changes what stands in functions alone.  Here tables of module level are
half of the program (every state machine is one literal), so that they are
changed too: an entry is left out, a number is another.  Not changed: messages,
annotations, decorators, `__repr__`, `__all__` and what type checkers read.
"""

from __future__ import annotations

import ast
import copy
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

SWAPS: Final[dict[type[ast.AST], type[ast.AST]]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitOr,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.Break: ast.Continue,
    ast.Continue: ast.Break,
}
UNTOUCHED: Final = {"__repr__", "__all__", "__str__", "__slots__"}
"""Names whose definitions say something to people or to tools."""


@dataclass(frozen=True)
class Mutant:
    """One change.  `key` names it by what it changes, not by a line number."""

    path: Path
    module: str
    place: str
    lines: tuple[int, int]
    before: str
    after: str
    key: str
    index: int
    """Which of the changes of `path` it is, in the order of `changes`."""

    def __str__(self) -> str:
        return (
            f"{self.key} {self.module}:{self.lines[0]} {self.place}: {self.before} → {self.after}"
        )


def mutants(path: Path, root: Path) -> list[Mutant]:
    """Every mutant of a source file below `root`."""
    module = ".".join(path.relative_to(root).with_suffix("").parts)
    found: list[Mutant] = []
    seen: dict[tuple[str, str, str], int] = {}
    for index, (node, place, after) in enumerate(changes(ast.parse(path.read_text()))):
        what = (place, *described(node, after))
        seen[what] = seen.get(what, 0) + 1
        name = "\0".join((module, *what, str(seen[what])))
        key = hashlib.sha256(name.encode()).hexdigest()[:10]
        first = node.lineno
        last = first if isinstance(node, ast.If | ast.While) else node.end_lineno or first
        found.append(Mutant(path, module, place, (first, last), what[1], what[2], key, index))
    return found


def mutated(path: Path, index: int) -> ast.Module:
    """The syntax tree of the file with the change of this number in it."""
    tree = ast.parse(path.read_text())
    for at, (node, _place, after) in enumerate(changes(tree)):
        if at == index:
            replaced = _Replace(node, after).visit(tree)
            return ast.fix_missing_locations(replaced)
    raise LookupError(f"{path} has no mutant {index}")


class _Replace(ast.NodeTransformer):
    def __init__(self, node: ast.AST, after: ast.AST) -> None:
        self._node, self._after = node, after

    def visit(self, node: ast.AST) -> Any:
        if node is self._node:
            return ast.copy_location(self._after, node)
        return super().visit(node)


def shown(node: ast.AST) -> str:
    """Source of a node; of a statement with a body its head."""
    return ast.unparse(node).splitlines()[0]


def described(node: ast.AST, after: ast.AST) -> tuple[str, str]:
    """What stands there, and what stands there instead."""
    if isinstance(node, ast.Dict) and isinstance(after, ast.Dict):
        kept = {id(value) for value in after.values}
        (at,) = (at for at, value in enumerate(node.values) if id(value) not in kept)
        return "table", f"without {shown(node.keys[at] or node.values[at])}"
    return shown(node), shown(after)


def changes(tree: ast.Module) -> Iterator[tuple[Any, str, ast.AST]]:
    """`(node, name of what it stands in, what could stand in its place)`."""
    yield from _within(tree, "", inside=False)


def _within(node: ast.AST, place: str, *, inside: bool) -> Iterator[tuple[Any, str, ast.AST]]:
    for child in _children(node):
        for after in _instead(child, inside=inside):
            yield child, place, after
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            if child.name not in UNTOUCHED:
                name = f"{place}.{child.name}" if place else child.name
                function = isinstance(child, ast.FunctionDef)
                yield from _within(child, name, inside=inside or function)
        else:
            yield from _within(child, place, inside=inside)


def _children(node: ast.AST) -> Iterator[ast.AST]:
    """Those of which a change would be a fault of the program."""
    if isinstance(node, ast.JoinedStr | ast.Raise | ast.Import | ast.ImportFrom | ast.Global):
        return
    if isinstance(node, ast.If) and shown(node.test).endswith("TYPE_CHECKING"):
        return
    if isinstance(node, ast.Assign | ast.AnnAssign) and _names(node) & UNTOUCHED:
        return
    for field, value in ast.iter_fields(node):
        if field in {"annotation", "returns", "decorator_list", "type_comment", "type_params"}:
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not isinstance(child, ast.expr_context):
                yield child


def _names(node: ast.Assign | ast.AnnAssign) -> set[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def _swapped(operator: ast.AST) -> ast.AST | None:
    other = SWAPS.get(type(operator))
    return other() if other else None


def _instead(node: ast.AST, *, inside: bool) -> Iterator[ast.AST]:
    match node:
        case ast.Compare(ops=[first]) if (other := _swapped(first)) is not None:
            yield _with(node, ops=[other])
        case ast.Compare(ops=[first, *rest]) if (other := _swapped(first)) is not None:
            yield _with(node, ops=[other, *rest])
            if (last := _swapped(rest[-1])) is not None:
                yield _with(node, ops=[first, *rest[:-1], last])
        case ast.BoolOp(op=op) | ast.BinOp(op=op) | ast.AugAssign(op=op):
            if (other := _swapped(op)) is not None:
                yield _with(node, op=other)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield operand
        case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test):
            named = isinstance(test, ast.Name | ast.Attribute | ast.Call)
            if named and not shown(test).endswith("TYPE_CHECKING"):
                yield _with(node, test=ast.UnaryOp(ast.Not(), test))
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield ast.Constant(value + 1)
        case ast.Constant(value=bytes(value)):
            yield ast.Constant(bytes((value[0] ^ 1,)) + value[1:] if value else b"\xff")
        case ast.Break() | ast.Continue():
            yield SWAPS[type(node)]()
        case ast.Raise() | ast.Expr(value=ast.Call()) if inside:
            yield ast.Pass()
        case ast.Return(value=ast.AST() as value) if not isinstance(value, ast.Constant):
            yield ast.Return(ast.Constant(None))
        case ast.Assign(targets=[ast.Attribute()], value=value) if inside:
            if not (isinstance(value, ast.Constant) and not value.value):  # None is as false
                yield _with(node, value=ast.Constant(None))
        case ast.Dict(keys=keys, values=values) if len(keys) > 1:
            for left_out in range(len(keys)):
                yield _with(
                    node,
                    keys=keys[:left_out] + keys[left_out + 1 :],
                    values=values[:left_out] + values[left_out + 1 :],
                )


def _with(node: ast.AST, **fields: Any) -> ast.AST:
    """A copy with other fields; what stays is the same nodes."""
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed
