"""Small faults put into a module, one at a time, from its syntax tree: mutants, which the tests should notice."""

import ast
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

_COMPARISONS = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
}
_OPERATORS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mod,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
_FUNCTIONS = {"min": "max", "max": "min", "any": "all", "all": "any"}
_METHODS = _FUNCTIONS | {"maximum": "minimum", "minimum": "maximum", "sum": "mean", "mean": "sum", "zeros": "ones"}
_BEFORE, _AFTER = 50, 25  # characters around a fault that name it
# What has no effect when the program runs: types, and what decorates.
_NOT_RUN = {"annotation", "returns", "decorator_list", "format_spec"}


class Mutant(NamedTuple):
    """A module with one fault: its name says where and what it is, `source` is the whole mutated module."""

    module: str
    name: str
    kind: str
    source: str


def mutants_of(path: Path) -> list[Mutant]:
    """All mutants of a module, in the order of its text, each once."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    original, found = ast.unparse(tree), {}
    for place, kind, put, undo in _sites(tree, "module"):
        put()
        source = ast.unparse(ast.fix_missing_locations(tree))
        undo()
        name = f"{path.stem}.{place}: {_difference(original, source)}"
        found.setdefault(source, Mutant(path.stem, name, kind, source + "\n"))
    return list(found.values())


def chosen(mutants: Sequence[Mutant], count: int, seed: int) -> list[Mutant]:
    """`count` mutants at random (all, if there are fewer), in order; a larger count takes the same and more."""
    order = list(range(len(mutants)))
    random.Random(seed).shuffle(order)
    return [mutants[k] for k in sorted(order[:count])]


def _difference(original: str, mutated: str) -> str:
    """What was changed into what, with some of the text around it."""
    first = next(k for k, (a, b) in enumerate(zip(original, mutated, strict=False)) if a != b)
    both = zip(reversed(original[first:]), reversed(mutated[first:]), strict=False)
    same = next((k for k, (a, b) in enumerate(both) if a != b), min(len(original), len(mutated)) - first)
    start = max(first - _BEFORE, original.rfind("\n", 0, first) + 1)
    stop = min(same, max(same - _AFTER, len(original) - original.find("\n", len(original) - same)))
    parts = [text[start : len(text) - stop] for text in (original, mutated)]
    return " -> ".join(" ".join(part.split()) for part in parts)


def _sites(node: ast.AST, place: str) -> Iterator:
    """Every place below `node` for a fault: in which function, its kind, a function that puts it there, one that
    removes it.
    """
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        place = node.name
    for name, value in ast.iter_fields(node):
        if name in _NOT_RUN or (isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal"):
            continue
        children = value if isinstance(value, list) else [value]
        for k, child in enumerate(children):
            if not isinstance(child, ast.AST) or _is_text(node, child):
                continue
            for kind, other in _replacements(child, node, name, children):
                yield place, kind, *_exchange(node, name, k, other)
            yield from _sites(child, place)


def _is_text(parent: ast.AST, node: ast.AST) -> bool:
    """Docstrings, and what an f-string says between its values."""
    if isinstance(parent, ast.JoinedStr):
        return isinstance(node, ast.Constant)
    return isinstance(parent, ast.Module | ast.ClassDef | ast.FunctionDef) and (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    )


def _exchange(parent: ast.AST, name: str, k: int, other: ast.AST | None) -> tuple:
    """Two functions: one puts `other` (None: nothing) at child `k` of a field, one restores it."""
    value = getattr(parent, name)
    if not isinstance(value, list):
        return lambda: setattr(parent, name, other), lambda: setattr(parent, name, value)
    changed = [*value[:k], *([] if other is None else [other]), *value[k + 1 :]]
    return lambda: setattr(parent, name, changed), lambda: setattr(parent, name, value)


def _replacements(node: ast.AST, parent: ast.AST, field: str, siblings: list) -> Iterator[tuple[str, ast.AST | None]]:
    """What could stand in the place of `node` by mistake."""
    if isinstance(node, ast.stmt):
        yield from _statements(node, siblings)
    elif isinstance(node, ast.keyword):
        yield "keyword dropped", None
    elif field == "ifs":
        yield "condition dropped", None
    elif isinstance(node, ast.expr):
        yield from _expressions(node)
        if isinstance(parent, ast.If | ast.IfExp) and field == "test":
            yield "condition negated", ast.UnaryOp(ast.Not(), node)


def _statements(node: ast.stmt, siblings: list) -> Iterator[tuple[str, ast.AST | None]]:
    """A statement left out, where the names that the others use stay known."""
    again = isinstance(node, ast.Assign) and all(
        isinstance(target, ast.Name) and target.id in _names(node.value) for target in node.targets
    )
    if again or isinstance(node, ast.Expr | ast.AugAssign | ast.If | ast.Continue | ast.For | ast.Raise):
        yield "statement dropped", ast.Pass()


def _names(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


def _expressions(node: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    match node:
        case ast.Compare():
            for k, operator in enumerate(node.ops):
                for other in _COMPARISONS[type(operator)]:
                    operators = [*node.ops[:k], other(), *node.ops[k + 1 :]]
                    yield "comparison", ast.Compare(node.left, operators, node.comparators)
        case ast.BinOp() if type(node.op) in _OPERATORS:
            yield "operator", ast.BinOp(node.left, _OPERATORS[type(node.op)](), node.right)
        case ast.UnaryOp():
            yield "sign", node.operand
        case ast.BoolOp():
            yield "and/or", ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
        case ast.Constant():
            yield from _constants(node.value)
        case ast.Call(func=ast.Name(id=name)) if name in _FUNCTIONS:
            yield "function", ast.Call(ast.Name(_FUNCTIONS[name]), node.args, node.keywords)
        case ast.Call(func=ast.Attribute(owner, name)) if name in _METHODS:
            yield "function", ast.Call(ast.Attribute(owner, _METHODS[name]), node.args, node.keywords)
        case ast.Call(func=ast.Name(id="abs" | "sorted"), args=[inner]):
            yield "function dropped", inner


def _constants(value: object) -> Iterator[tuple[str, ast.expr]]:
    match value:
        case bool():
            yield "constant", ast.Constant(not value)
        case int():
            yield "constant", ast.Constant(value + 1)
        case float():
            yield "constant", ast.Constant(2 * value or 1.0)
        case str():
            yield "text", ast.Constant(value + "!")
