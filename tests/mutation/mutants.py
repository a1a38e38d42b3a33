"""All mutants of a module: its syntax tree with one small change.

Comparisons and operators are exchanged, conditions negated, numbers and truth values changed, and
statements with only side effects removed. Docstrings, messages and annotations are unchanged.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

_COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
_CALCULATED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
}


class _Changer(ast.NodeTransformer):
    """Walks a tree and changes its place number `at`; `places` are (line, what is changed)."""

    def __init__(self, at: int | None = None):
        self._at, self.places = at, list[tuple[int, str]]()

    def _is(self, node: ast.expr | ast.stmt, what: str) -> bool:
        self.places.append((node.lineno, what))
        return len(self.places) - 1 == self._at

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        # Defaults are visited, annotations are not.
        node.args.defaults = [self.visit(default) for default in node.args.defaults]
        node.args.kw_defaults = [d and self.visit(d) for d in node.args.kw_defaults]
        node.body = self._body(node.body)
        return node

    def _body(self, body: list[ast.stmt]) -> list[ast.stmt]:
        found: list[ast.stmt] = []
        for statement in body:
            changed = self.visit(statement)
            found += changed if isinstance(changed, list) else [changed]
        return found

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is not None:
            node.value = self.visit(node.value)
        return node

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        return node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        for number, operator in enumerate(node.ops):
            other = _COMPARED[type(operator)]
            if self._is(node, f"{type(operator).__name__} becomes {other.__name__}"):
                node.ops[number] = other()
        return self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        other = ast.Or if isinstance(node.op, ast.And) else ast.And
        if self._is(node, f"{type(node.op).__name__} becomes {other.__name__}"):
            node.op = other()
        return self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        if isinstance(node.op, ast.Not | ast.USub) and self._is(
            node, f"without {type(node.op).__name__}"
        ):
            return self.visit(node.operand)
        return self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        texts = (ast.Constant, ast.JoinedStr)
        other = _CALCULATED.get(type(node.op))
        of_text = any(
            isinstance(part, texts) and not isinstance(getattr(part, "value", ""), int | float)
            for part in (node.left, node.right)
        )
        if (
            other
            and not of_text
            and self._is(node, f"{type(node.op).__name__} becomes {other.__name__}")
        ):
            node.op = other()
        return self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if isinstance(node.value, bool):
            if self._is(node, f"{node.value} becomes {not node.value}"):
                return ast.copy_location(ast.Constant(not node.value), node)
        elif isinstance(node.value, int | float) and self._is(
            node, f"{node.value} becomes {node.value + 1}"
        ):
            return ast.copy_location(ast.Constant(node.value + 1), node)
        return node

    def _negated(self, node: ast.If | ast.IfExp | ast.While) -> ast.AST:
        # A comparison or a negation is changed by itself.
        if not isinstance(node.test, ast.Compare | ast.UnaryOp | ast.Constant) and self._is(
            node.test, "condition is negated"
        ):
            node.test = ast.copy_location(ast.UnaryOp(ast.Not(), node.test), node.test)
        return self.generic_visit(node)

    visit_If = visit_IfExp = visit_While = _negated

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        if isinstance(node.value, ast.Call) and self._is(node, "call is left out"):
            return ast.copy_location(ast.Pass(), node)
        return node if isinstance(node.value, ast.Constant) else self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        if self._is(node, "raise is left out"):
            return ast.copy_location(ast.Pass(), node)
        return node

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        if self._is(node, "assignment is left out"):
            return ast.copy_location(ast.Pass(), node)
        return self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        kept = isinstance(node.targets[0], ast.Attribute | ast.Subscript)
        if kept and self._is(node, "assignment is left out"):
            return ast.copy_location(ast.Pass(), node)
        node.value = self.visit(node.value)
        return node


def places(source: str) -> list[tuple[int, str]]:
    """Returns (line, what is changed) of every mutant."""
    changer = _Changer()
    changer.visit(ast.parse(source))
    return changer.places


def mutant(source: str, number: int) -> ast.Module:
    """Returns the syntax tree of a module with its change `number`."""
    tree = _Changer(number).visit(ast.parse(source))
    return ast.fix_missing_locations(tree)


def changed_texts(source: str) -> Iterator[str]:
    """Yields the source of each mutant; for tests."""
    for number in range(len(places(source))):
        yield ast.unparse(mutant(source, number))
