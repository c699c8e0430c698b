"""The changes that ``mutants.py`` makes to a file, one at a time.

A comparison, an arithmetic or a logical operator, a sign, a number, a condition, a keyword that is left out, two
arguments in each other's place, a statement that is dropped. Left alone: docstrings, annotations, texts, imports,
``assert`` and ``strict=`` (they test the code itself), what can only raise at once (a plain variable that is never
set), and ``device=``, which only a GPU would notice.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

KEPT_KEYWORDS = ("strict", "device", "non_blocking")
SYMMETRIC = ("max", "min", "maximum", "minimum", "isclose")
_SWAPPED = (
    *((ast.Lt, ast.LtE), (ast.Gt, ast.GtE), (ast.Eq, ast.NotEq), (ast.Is, ast.IsNot), (ast.In, ast.NotIn)),
    *((ast.And, ast.Or), (ast.Add, ast.Sub), (ast.Mult, ast.Div), (ast.BitAnd, ast.BitOr)),
)
_CONTEXT = 24
OPERATORS: dict[type[ast.AST], type[ast.AST]] = dict(_SWAPPED) | {new: old for old, new in _SWAPPED}
OPERATORS |= {ast.FloorDiv: ast.Div, ast.Mod: ast.Mult, ast.Pow: ast.Mult}
Site = tuple[ast.AST, str, Any]
"""(node, field, what to put there)."""


class Mutant(NamedTuple):
    """One change: ``name`` is the function and what became of what; it outlives edits elsewhere in the file."""

    path: str
    name: str
    source: str

    @property
    def key(self) -> str:
        return f"{self.path}: {self.name}"


def sites(tree: ast.AST) -> Iterator[Site]:
    """All changes to the body of a module."""
    for node in ast.walk(tree):
        for field, value in ast.iter_fields(node):
            if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
                for i, statement in enumerate(value):
                    if _can_go(statement):
                        yield node, field, [*value[:i], ast.Pass(), *value[i + 1 :]]
        yield from _of_expression(node)


def _can_go(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Assign):
        return not any(isinstance(target, ast.Name | ast.Tuple) for target in statement.targets)
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Call)
    return isinstance(statement, ast.AugAssign | ast.Raise)


def _of_expression(node: ast.AST) -> Iterator[Site]:
    if isinstance(node, ast.If | ast.While | ast.IfExp) and not _is_negatable(node.test):
        yield node, "test", ast.UnaryOp(ast.Not(), node.test)
    elif isinstance(node, ast.comprehension) and node.ifs:
        yield node, "ifs", []
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in OPERATORS:
        yield node, "ops", [OPERATORS[type(node.ops[0])](), *node.ops[1:]]
    elif isinstance(node, ast.BoolOp | ast.BinOp | ast.AugAssign) and type(node.op) in OPERATORS:
        yield node, "op", OPERATORS[type(node.op)]()
    elif isinstance(node, ast.UnaryOp):  # ``not not x`` is x
        yield node, "operand", ast.UnaryOp(node.op, node.operand)
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
        yield node, "value", _other(node.value)
    elif isinstance(node, ast.Call):
        name = ast.unparse(node.func).split(".")[-1]
        symmetric = name in SYMMETRIC or (name == "transpose" and len(node.args) == 2)
        if len(node.args) > 1 and not symmetric and not isinstance(node.args[1], ast.Starred):
            yield node, "args", [node.args[1], node.args[0], *node.args[2:]]
        for i, keyword in enumerate(node.keywords):
            if keyword.arg and keyword.arg not in KEPT_KEYWORDS:
                yield node, "keywords", [*node.keywords[:i], *node.keywords[i + 1 :]]


def _is_negatable(test: ast.expr) -> bool:
    """Whether another operator is its negation, which is then one change and not two."""
    return isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.Eq | ast.NotEq | ast.Is | ast.IsNot | ast.In)


def _other(value: float) -> float:
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int) else 2 * value or 1.0


def mutants_of(path: str, source: str) -> list[Mutant]:
    """Every change to the file at ``path``, which holds ``source``."""
    tree = ast.parse(source)
    parts = _unparsed(tree)
    before = "\n".join(parts).splitlines()
    place = {id(inner): i for i, statement in enumerate(tree.body) for inner in ast.walk(statement)}
    ignored = _ignored(tree)
    mutants, names = list[Mutant](), Counter[str]()
    for node, field, new in list(sites(tree)):
        if id(node) in ignored:
            continue
        old, i = getattr(node, field), place.get(id(node))
        setattr(node, field, new)
        ast.fix_missing_locations(node)  # type: ignore[type-var]
        after = _unparsed(tree) if i is None else [*parts[:i], ast.unparse(tree.body[i]), *parts[i + 1 :]]
        setattr(node, field, old)
        if after == parts:  # two equal arguments in each other's place
            continue
        changed = "\n".join(after)
        name = _difference(before, changed.splitlines())
        names[name] += 1
        mutants.append(Mutant(path, name if names[name] == 1 else f"{name} #{names[name]}", changed))
    return mutants


def _unparsed(tree: ast.Module) -> list[str]:
    """The text of each statement of a module: after a change only one of them needs to be written again."""
    return [ast.unparse(statement) for statement in tree.body]


def _ignored(tree: ast.AST) -> set[int]:
    """Ids of the nodes that are left alone."""
    ids: set[int] = set()
    for node in ast.walk(tree):
        roots: list[ast.AST | None] = []
        if isinstance(node, ast.FunctionDef):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg]
            roots += [node.returns, *(a.annotation for a in arguments if a), *node.decorator_list]
        elif isinstance(node, ast.AnnAssign):
            roots.append(node.annotation)
        elif isinstance(node, ast.Assert | ast.JoinedStr) or _is_left_alone(node):
            roots.append(node)
        ids.update(id(inner) for root in roots if root for inner in ast.walk(root))
    return ids


def _is_left_alone(node: ast.AST) -> bool:
    if isinstance(node, ast.keyword):
        return node.arg in KEPT_KEYWORDS
    if isinstance(node, ast.ClassDef):
        return any("Protocol" in ast.unparse(base) for base in node.bases)
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def _difference(before: list[str], after: list[str]) -> str:
    """``function: old -> new`` of the first line that changed, with a little of what stands around the change."""
    at = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), len(after) - 1)
    scope = next((x.split("(")[0].split()[-1] for x in reversed(before[: at + 1]) if "def " in x), "")
    old, new = before[at].strip(), after[at].strip()
    shared = _shared(old, new)
    first = max(0, shared - _CONTEXT)
    left = min(_shared(old[::-1], new[::-1]), len(old) - shared, len(new) - shared)
    cut = [text[first : len(text) - left + _CONTEXT] for text in (old, new)]
    return f"{scope}: {cut[0]} -> {cut[1]}"


def _shared(a: str, b: str) -> int:
    """How many characters they begin with in common."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
