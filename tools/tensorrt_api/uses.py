"""Follow the module ``tensorrt`` through the source of edge_ad and tell every name that is asked of it.

The source is read, not run: values are followed by their type as far as the bindings tell it (``trt.Builder(...)`` is a
Builder, its ``create_network`` gives an INetworkDefinition), through variables, attributes of ``self``, comprehensions,
lambdas and calls of functions of edge_ad. Conditions on the version are decided for one version at a time, by calling the
predicate itself with a stand-in of that version; code that this version does not reach is left out.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

from tensorrt_api.conditions import Table, holds, stand_in
from tensorrt_api.source import Source, methods, parameters
from tensorrt_api.values import MODULE, PARAMETER, Callable_, Env, Instance, Use, bound

_DEEPEST = 8


class Follower:
    """Follows one version's module through a source and collects its uses."""

    def __init__(self, source: Source, table: Table, version: str) -> None:
        self.uses: set[Use] = set()
        self._source, self._table = source, table
        self._stand_in = stand_in(table, version)
        self._file = ""
        self._active: list[str] = []

    def run(self) -> set[Use]:
        """Follow what takes the module as its parameter ``trt``, private functions only from their callers."""
        for file, function in self._source.functions.values():
            if PARAMETER in parameters(function) and not function.name.startswith("_"):
                self._function(file, function, {PARAMETER: MODULE})
        for file, node in self._source.classes.values():
            for method in methods(node):
                if PARAMETER in parameters(method):
                    instance = Instance(node)
                    self._function(file, method, {PARAMETER: MODULE, "self": instance})
                    self._all_methods(file, instance)
        return self.uses

    def _all_methods(self, file: str, instance: Instance) -> None:
        for _ in range(2):  # an attribute may be set by a method that comes later
            for method in methods(instance.node):
                self._function(file, method, {"self": instance})

    def _function(self, file: str, node: ast.FunctionDef | ast.Lambda, env: Env) -> Any:
        """Follow a body and return the type of what it gives, None when that is not known."""
        if len(self._active) >= _DEEPEST:
            return None
        before, self._file = self._file, file
        self._active.append(getattr(node, "name", ""))
        found: list[Any] = []
        if isinstance(node, ast.Lambda):
            found.append(self._type(node.body, env))
        else:
            self._block(node.body, dict(env), found)
        self._active.pop()
        self._file = before
        return next((value for value in found if value is not None), None)

    def _block(self, body: Sequence[ast.stmt], env: Env, found: list[Any]) -> bool:
        """Follow statements; return whether they always leave the function or the loop."""
        return any(self._statement(statement, env, found) for statement in body)

    def _statement(self, node: ast.stmt, env: Env, found: list[Any]) -> bool:
        if isinstance(node, ast.If):
            return self._if(node, env, found)
        if isinstance(node, ast.Return):
            found.append(self._type(node.value, env) if node.value else None)
            return True
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
            value = self._type(node.value, env) if node.value else None
            if isinstance(node.value, ast.Constant) and node.value.value is None:
                return False  # closed, or not there: it stays what it is elsewhere
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                self._assign(target, value, env)
        elif isinstance(node, ast.For):
            self._assign(node.target, self._type(node.iter, env), env)
            self._block([*node.body, *node.orelse], env, found)
        elif isinstance(node, ast.With):
            for item in node.items:
                value = self._type(item.context_expr, env)
                if item.optional_vars is not None:
                    self._assign(item.optional_vars, value, env)
            return self._block(node.body, env, found)
        elif isinstance(node, ast.Try):
            left = self._block(node.body, env, found)
            for handler in node.handlers:
                self._block(handler.body, env, found)
            self._block(node.orelse, env, found)
            return self._block(node.finalbody, env, found) or (left and not node.handlers)
        elif isinstance(node, ast.While):
            self._type(node.test, env)
            self._block([*node.body, *node.orelse], env, found)
        elif isinstance(node, ast.FunctionDef):
            self._function(self._file, node, env)
            env[node.name] = Callable_(("local", node, env))
        elif isinstance(node, ast.ClassDef):
            self._class(node, env)
        else:
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.expr):
                    self._type(child, env)
            return isinstance(node, ast.Raise | ast.Continue | ast.Break)
        return False

    def _if(self, node: ast.If, env: Env, found: list[Any]) -> bool:
        self._type(node.test, env)
        held = self._holds(node.test, env)
        left = [
            self._block(body, env, found)
            for body, taken in ((node.body, held is not False), (node.orelse, held is not True))
            if taken
        ]
        return all(left)

    def _class(self, node: ast.ClassDef, env: Env) -> None:
        """A class of ours on one of the module: its methods must exist there, for it is TensorRT that calls them."""
        bases = [self._type(base, env) for base in node.bases]
        base = next((base.gives for base in bases if isinstance(base, Callable_) and isinstance(base.gives, str)), None)
        for method in methods(node):
            if base is not None and not method.name.startswith("_"):
                self._use(method, base, method.name)
        instance = Instance(node, base=base)
        for part in ast.walk(node):
            if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store):
                instance.attributes[part.attr] = None
        for method in methods(node):
            self._function(self._file, method, {**env, **dict.fromkeys(parameters(method)), "self": instance})
        env[node.name] = Callable_(instance)

    def _assign(self, target: ast.expr, value: Any, env: Env) -> None:
        if isinstance(target, ast.Name):
            env[target.id] = value
        elif isinstance(target, ast.Attribute):
            owner = self._type(target.value, env)
            if isinstance(owner, Instance):
                if value is not None or target.attr not in owner.attributes:
                    owner.attributes[target.attr] = value
            elif isinstance(owner, str):
                self._use(target, owner, target.attr, assigned=True)
        elif isinstance(target, ast.Tuple | ast.List):
            for element in target.elts:
                self._assign(element, None, env)

    def _type(self, node: ast.expr | None, env: Env) -> Any:
        """Follow an expression and return its type: MODULE, the name of a class, a Callable_, an Instance, or None."""
        if isinstance(node, ast.Name):
            return env.get(node.id)
        if isinstance(node, ast.Attribute):
            return self._attribute(node, node.attr, self._type(node.value, env))
        if isinstance(node, ast.Call):
            return self._call(node, env)
        if isinstance(node, ast.Lambda):
            return Callable_(("local", node, env))
        if isinstance(node, ast.NamedExpr):
            value = self._type(node.value, env)
            self._assign(node.target, value, env)
            return value
        if isinstance(node, ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp):
            return self._comprehension(node, env)
        if isinstance(node, ast.IfExp):
            return self._either(node, env)
        found = (
            [self._type(child, env) for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)]
            if node
            else []
        )
        same = isinstance(node, ast.BoolOp | ast.Subscript | ast.List | ast.Tuple | ast.Starred)
        return next((value for value in found if value is not None), None) if same else None

    def _holds(self, test: ast.expr, env: Env) -> bool | None:
        """Decide a condition for this version; None when the version says nothing of it."""
        by_class = "hasattr" in {part.id for part in ast.walk(test) if isinstance(part, ast.Name)}
        kinds = {name: kind for name, kind in env.items() if kind == MODULE or by_class}
        known = {name: value for name, kind in kinds.items() if (value := self._concrete(kind)) is not None}
        return holds(test, known, [name for name in env if name not in known], self._source.modules[self._file])

    def _concrete(self, kind: Any) -> Any:
        if kind == MODULE:
            return self._stand_in
        return getattr(self._stand_in, kind, None) if isinstance(kind, str) else None

    def _either(self, node: ast.IfExp, env: Env) -> Any:
        self._type(node.test, env)
        held = self._holds(node.test, env)
        parts = [part for part, taken in ((node.body, held is not False), (node.orelse, held is not True)) if taken]
        found = [self._type(part, env) for part in parts]
        return next((value for value in found if value is not None), None)

    def _comprehension(self, node: Any, env: Env) -> Any:
        inner = dict(env)
        for generator in node.generators:
            self._assign(generator.target, self._type(generator.iter, inner), inner)
            for condition in generator.ifs:
                self._type(condition, inner)
        if isinstance(node, ast.DictComp):
            self._type(node.key, inner)
            return self._type(node.value, inner)
        return self._type(node.elt, inner)

    def _attribute(self, node: ast.AST, name: str, owner: Any) -> Any:
        if isinstance(owner, Instance):
            if owner.base is None or name in owner.attributes or bound(owner, name) is not None:
                return owner.attributes.get(name, bound(owner, name))
            owner = owner.base
        if isinstance(owner, Callable_) and owner.owner:  # a class itself: its members and enumerators
            return self._use(node, owner.owner, name)
        return self._use(node, owner, name) if isinstance(owner, str) else None

    def _use(self, node: ast.AST, owner: str, name: str, assigned: bool = False) -> Any:
        members = self._table.get("" if owner == MODULE else owner, {})
        told = members.get(name)
        if not (name.startswith("__") and owner != MODULE):
            there = told is not None and (not assigned or told.startswith("="))
            shown = "" if owner == MODULE else owner
            self.uses.add(Use(self._file, getattr(node, "lineno", 0), shown, name, there))
        if told is None:
            return None
        if told == "class":
            return Callable_(name, owner=name)
        gives = told.removeprefix("=").removesuffix("()") or None
        return Callable_(gives) if told.endswith("()") else gives

    def _call(self, node: ast.Call, env: Env) -> Any:
        named = node.func.id if isinstance(node.func, ast.Name) else ""
        if named in ("getattr", "hasattr") and len(node.args) >= 2:
            return self._by_name(node, named, env)
        arguments = [self._type(argument, env) for argument in node.args]
        keywords = {keyword.arg: self._type(keyword.value, env) for keyword in node.keywords}
        target = self._type(node.func, env)
        if isinstance(target, Callable_):
            return self._called(target.gives, arguments, keywords)
        if named in self._source.functions:
            file, function = self._source.functions[named]
            return self._inlined(file, function, arguments, keywords, {})
        if named in self._source.classes:
            return self._constructed(named, arguments, keywords)
        return None

    def _called(self, gives: Any, arguments: list[Any], keywords: Env) -> Any:
        if isinstance(gives, tuple):
            _, node, env = gives
            if isinstance(node, ast.Lambda):
                return self._function(self._file, node, env)
            return self._inlined(self._file, node, arguments, keywords, env)
        return gives

    def _inlined(self, file: str, node: ast.FunctionDef, arguments: list[Any], keywords: Env, env: Env) -> Any:
        """Follow a function with the types of this call, if one of them leads to TensorRT."""
        names = [name for name in parameters(node) if name != "self" or "self" not in env]
        given = {**dict(zip(names, arguments, strict=False)), **keywords}
        if all(value is None for value in given.values()) and "self" not in env:
            return None
        if self._active.count(node.name) > 1:
            return None
        return self._function(file, node, {**env, **dict.fromkeys(names), **given})

    def _constructed(self, name: str, arguments: list[Any], keywords: Env) -> Any:
        file, node = self._source.classes[name]
        instance = Instance(node)
        first = next((method for method in methods(node) if method.name == "__init__"), None)
        if first is not None:
            self._inlined(file, first, arguments, keywords, {"self": instance})
        else:
            fields = [
                item.target.id
                for item in node.body
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
            ]
            instance.attributes.update({**dict(zip(fields, arguments, strict=False)), **keywords})
        if any(value is not None for value in [*arguments, *keywords.values()]) and name not in self._active:
            self._active.append(name)
            self._all_methods(file, instance)
            self._active.pop()
        return instance

    def _by_name(self, node: ast.Call, named: str, env: Env) -> Any:
        """``getattr`` without a default asks for the name; with one, and ``hasattr``, it does without."""
        owner = self._type(node.args[0], env)
        owner = owner.owner if isinstance(owner, Callable_) else owner
        if not isinstance(owner, str) or named == "hasattr" or len(node.args) > 2:
            return None
        if isinstance(node.args[1], ast.Constant):
            return self._use(node, owner, str(node.args[1].value))
        for name in self._source.texts(self._file):
            if name in self._table.get(owner, {}):
                self._use(node, owner, name)
        return None
