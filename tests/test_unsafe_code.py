"""What runs what it reads is found, however it is spelled; what looks like it is not."""

from __future__ import annotations

import ast

import pytest

from .unsafe_code import find_asserted_input, find_unsafe_code


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "import pickle as harmless",
        "def f():\n    import dill",
        "from pickle import loads",
        "from cloudpickle.cloudpickle import loads",
        "import os, marshal",
        "import joblib",
        "import shelve",
        "if TYPE_CHECKING:\n    import jsonpickle",
        "eval(text)",
        "x = [exec(each) for each in texts]",
        "compile(text, '', 'exec')",
        "__import__(name)",
        "builtins.eval(text)",
        "from builtins import eval",
        "yaml.load(text)",
        "yaml.load(text, Loader=yaml.SafeLoader)",
        "from yaml import unsafe_load",
        "torch.load(path)",
        "torch.load(path, weights_only=True)",
        "from torch import load as read",
        "torch.jit.load(path)",
        "load(path, allow_pickle=True)",
        "socket.recv_pyobj()",
        "self.socket.send_pyobj(x)",
        "os.system(text)",
        "from os import system",
        "subprocess.run(text, shell=True)",
        "subprocess.run(text, shell=is_wanted)",
        "AutoModel.from_pretrained(path, trust_remote_code=True)",
    ],
)
def test_unsafe_code_is_found(code: str) -> None:
    assert len(list(find_unsafe_code(ast.parse(code)))) == 1


@pytest.mark.parametrize(
    "code",
    [
        "import json, pickletools_of_ours",
        "from . import pickle_jar",
        "from .pickle import loads",
        "model.eval()",
        "re.compile(pattern)",
        "yaml.safe_load(text)",
        "torch.save(x, path)",
        "json.load(file)",
        "subprocess.run([program, text], shell=False)",
        "x = 'eval(text)'",
        "load_file(path)",
        "np.load(path)",
        "np.load(path, allow_pickle=False)",
    ],
)
def test_safe_code_is_not(code: str) -> None:
    assert list(find_unsafe_code(ast.parse(code))) == []


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("def f(x):\n    assert x > 0", ["f"]),
        ("async def f(*, x):\n    assert isinstance(x, int)\n    return x", ["f"]),
        ("class A:\n    def f(self, x):\n        assert len(x.y) == 2", ["f"]),
        ("def f(x):\n    '''Doc.'''\n    y = 1\n    assert y == x", ["f"]),
        ("def f(self):\n    assert self.is_open", []),
        ("def f(x):\n    y = make()\n    assert y", []),
        ("def f(x):\n    if x <= 0:\n        raise ValueError", []),
    ],
)
def test_asserts_that_guard_input_are_found(code: str, names: list[str]) -> None:
    assert [name for _, name in find_asserted_input(ast.parse(code))] == names
