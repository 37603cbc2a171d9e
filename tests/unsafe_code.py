"""Finds code that runs what it reads, and checks that `python -O` takes away."""

from __future__ import annotations

import ast
from collections.abc import Iterator

# Modules that make objects, and so calls, of bytes.
UNSAFE_MODULES = {
    "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "jsonpickle", "marshal", "pickle",
    "pickle5", "shelve",
}  # fmt: skip
# By the name that they are called by; imported under another name they are found there.
UNSAFE_CALLS = {
    "__import__", "builtins.compile", "builtins.eval", "builtins.exec", "compile", "eval", "exec",
    "os.popen", "os.system", "pandas.read_pickle",
    "subprocess.getoutput", "subprocess.getstatusoutput", "torch.hub.load", "torch.jit.load",
    "torch.load", "yaml.full_load", "yaml.load", "yaml.load_all", "yaml.unsafe_load",
}  # fmt: skip
# Of whatever object: sockets of zmq, and loaders of arrays.
UNSAFE_METHODS = {"recv_pyobj", "send_pyobj", "read_pickle"}
# Arguments that open what is shut without them.
UNSAFE_ARGUMENTS = {"shell", "allow_pickle", "trust_remote_code"}

Found = tuple[ast.AST, str]


def find_unsafe_code(tree: ast.Module) -> Iterator[Found]:
    """Yield what could run what was read, and its name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, each.name) for each in node.names if _is_unsafe_module(each.name))
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            module = str(node.module)
            names = [f"{module}.{each.name}" for each in node.names]
            if _is_unsafe_module(module):
                yield node, module
            yield from ((node, name) for name in names if name in UNSAFE_CALLS)
        elif isinstance(node, ast.Call):
            yield from _find_unsafe_call(node)


def find_asserted_input(tree: ast.Module) -> Iterator[Found]:
    """Yield asserts at the head of functions that look at an argument, and the function's name."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        arguments = {each.arg for each in ast.walk(node.args) if isinstance(each, ast.arg)}
        arguments -= {"self", "cls"}
        for statement in node.body:
            if isinstance(statement, ast.Assert) and arguments & {
                each.id for each in ast.walk(statement.test) if isinstance(each, ast.Name)
            }:
                yield statement, node.name


def _is_unsafe_module(name: str) -> bool:
    return name.split(".", maxsplit=1)[0] in UNSAFE_MODULES


def _find_unsafe_call(node: ast.Call) -> Iterator[Found]:
    name = ast.unparse(node.func)
    is_method = isinstance(node.func, ast.Attribute) and node.func.attr in UNSAFE_METHODS
    if name in UNSAFE_CALLS or is_method:
        yield node, name
    for word in node.keywords:
        is_off = isinstance(word.value, ast.Constant) and word.value.value is False
        if word.arg in UNSAFE_ARGUMENTS and not is_off:
            yield node, f"{name}({word.arg})"
