"""Whether a plugin filled the fields of a spec with what they are for.

A dataclass checks nothing, and a string where a tuple of strings is due fails much later, far from
the plugin that wrote it.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
from typing import TYPE_CHECKING, Any, get_args

from llmplug.specs import KernelSpec, ModelSpec, SamplerSpec, Stage

if TYPE_CHECKING:
    from pydantic import BaseModel


def find_spec_problem(spec: Any) -> str | None:
    """Return what is wrong with the fields of a spec, worded to follow its name, or None."""
    for field in dataclasses.fields(spec):
        value = getattr(spec, field.name)
        expected = _expected(str(field.type), value)
        if expected is not None:
            return f"whose {field.name!r} is {value!r}, not {expected}"
        for count in _count_arguments(spec, field.name, str(field.type)) if value else ():
            if not _takes(value, count):
                return f"whose {field.name!r} cannot be called with {count} arguments"
    if isinstance(spec, ModelSpec) and not spec.architectures and not spec.claims:
        return f"{spec.name!r} that claims no architecture"
    if isinstance(spec, SamplerSpec):
        return _sampler_problem(spec)
    return None


def find_settings_problem(model: Any) -> str | None:
    """Return what is wrong with the model of a plugin's settings, or None."""
    if not _is_pydantic_model(model):
        return f"returned {model!r}, not a pydantic model"
    required = _list_required(model)
    if required:
        return f"returned {model.__name__}, whose {required[0]!r} has no default"
    return None


def _expected(annotation: str, value: Any) -> str | None:
    """Return what the annotation asks for if `value` is not that."""
    if annotation.endswith("| None") and value is None:
        return None
    if annotation == "str":
        return None if isinstance(value, str) and value else "text"
    if annotation == "int":
        return None if isinstance(value, int) else "a whole number"
    if annotation.startswith("Callable"):
        return None if callable(value) else "a function"
    if annotation.startswith("tuple[str"):
        is_right = isinstance(value, tuple) and all(isinstance(item, str) for item in value)
        return None if is_right else "a tuple of texts"
    return None


def _count_arguments(spec: Any, name: str, annotation: str) -> tuple[int, ...]:
    """Return with how many arguments a function of a spec is called; empty: it is none."""
    if isinstance(spec, SamplerSpec) and name == "make":
        return (4 if spec.reads_vocabulary else 3,)
    if isinstance(spec, KernelSpec) and name == "load":
        return (0, 1) if spec.tunables else (0,)
    if annotation == "Detect":
        return (3,)
    return _read_arguments(annotation)


@functools.cache
def _read_arguments(annotation: str) -> tuple[int, ...]:
    """Read the length of the list in `Callable[[str, int], bool] | None`."""
    lists = [node for node in ast.walk(ast.parse(annotation)) if isinstance(node, ast.List)]
    return (len(lists[0].elts),) if annotation.startswith("Callable[[") else ()


def _takes(function: Any, count: int) -> bool:
    try:
        inspect.signature(function).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:  # some functions written in C do not say
        return True
    return True


def _sampler_problem(spec: SamplerSpec) -> str | None:
    if spec.stage not in get_args(Stage):
        return f"{spec.name!r} of stage {spec.stage!r}, not one of {', '.join(get_args(Stage))}"
    if not _is_pydantic_model(spec.params):
        return f"{spec.name!r} whose 'params' is no pydantic model"
    required = _list_required(spec.params)
    if required:
        return f"{spec.name!r} whose parameter {required[0]!r} has no neutral default"
    return None


def _is_pydantic_model(thing: Any) -> bool:
    return isinstance(thing, type) and hasattr(thing, "model_fields")


def _list_required(model: type[BaseModel]) -> list[str]:
    return [name for name, field in model.model_fields.items() if field.is_required()]
