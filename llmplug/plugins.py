"""Find the installed plugins, load each alone, check them against each other, report.

`load_all` does all of it; `llmplug.plugin_clashes` has the check. No plugin can stop the program,
shadow another or leave half of itself behind: each gets one state (`llmplug.plugin_report.State`),
with the reason and the traceback. The only caller of pluggy besides the hook marker.
"""

from __future__ import annotations

import inspect
import re
import time
import traceback
from dataclasses import replace
from importlib import metadata
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, cast, get_args, get_type_hints

import pluggy

from llmplug import __version__, hookspecs
from llmplug.did_you_mean import did_you_mean
from llmplug.errors import PluginError
from llmplug.plugin_clashes import refuse_clashes
from llmplug.plugin_report import Found, Offer, Plugin, PluginReport, State, noun_of
from llmplug.spec_check import find_settings_problem, find_spec_problem
from llmplug.specs import KernelSpec, ModelSpec, SamplerSpec, SourceSpec
from llmplug.types import SamplingParams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from pydantic import BaseModel

    ReadSettings = Callable[[Found, type[BaseModel]], BaseModel]

GROUP = "llmplug"
PREFIX = f"{hookspecs.PROJECT}_"

SETTINGS = f"{PREFIX}settings"
REQUEST_FIELD = "request field"
SHARED_FIELDS = frozenset(SamplingParams.__struct_fields__)  # any sampler may read `temperature`
# Hook -> the spec class of its list, read from the hook's own signature.
HOOKS: dict[str, type] = {
    name: get_args(get_type_hints(function)["return"])[0]
    for name, function in vars(hookspecs).items()
    if name.startswith(PREFIX) and name != SETTINGS and inspect.isfunction(function)
}


class _IncompatibleError(Exception):
    """A plugin does not keep to the hooks; `file` is where."""

    def __init__(self, reason: str, file: str | None = None) -> None:
        super().__init__(reason)
        self.file = file


class _Collected(NamedTuple):
    """What a plugin said when it was loaded."""

    hooks: tuple[str, ...]
    settings: BaseModel | None
    offers: tuple[Offer, ...]


def take_defaults(found: Found, model: type[BaseModel]) -> BaseModel:
    """Make the settings of a plugin that no config says anything to."""
    del found
    return model()


def load_all(
    block: Sequence[str] = (),
    entry_points: Iterable[EntryPoint] | None = None,
    read_settings: ReadSettings = take_defaults,
) -> PluginReport:
    """Find, load and check every plugin but those in `block`, which are never imported.

    Args:
        block: short or long plugin names.
        entry_points: in place of the installed ones.
        read_settings: a plugin, the model of its settings -> these. If it raises, so does the
            plugin, for the report.

    Raises:
        PluginError: a name in `block` is not installed, or ambiguous.
    """
    found = find(entry_points)
    blocked = {_find_blocked(name, found).long_name for name in block}
    return refuse_clashes(
        skip(one) if one.long_name in blocked else load(one, read_settings) for one in found
    )


def find(entry_points: Iterable[EntryPoint] | None = None) -> tuple[Found, ...]:
    """Read the entry points of the group, sorted; imports nothing.

    Args:
        entry_points: in place of the installed ones.
    """
    points = _installed() if entry_points is None else entry_points
    found = [
        Found(
            name=point.name,
            value=point.value,
            distribution=(point.dist.name if point.dist else None) or "unknown",
            version=(point.dist.version if point.dist else None) or "unknown",
            entry_point=point,
        )
        for point in points
    ]
    return tuple(sorted(found, key=lambda one: (one.name, one.distribution, one.value)))


def skip(found: Found) -> Plugin:
    """Report a plugin as blocked, without importing it."""
    return Plugin(found=found, state=State.BLOCKED, reason="blocked by the config")


def load(found: Found, read_settings: ReadSettings = take_defaults) -> Plugin:
    """Import one plugin and call its hooks, alone; whatever it raises is kept in the report.

    Raises:
        KeyboardInterrupt: the user wants to stop; nothing else passes, SystemExit included.
    """
    started = time.perf_counter()
    try:
        collected = _collect(found, read_settings)
        plugin = Plugin(found=found, state=State.OK, **collected._asdict())
    except KeyboardInterrupt:
        raise
    except _IncompatibleError as error:
        plugin = Plugin(found=found, state=State.INCOMPATIBLE, reason=str(error), file=error.file)
    except BaseException as error:  # noqa: BLE001 - a stranger's code may raise anything; it is kept
        plugin = _describe_failure(found, error)
    return replace(plugin, load_s=time.perf_counter() - started)


def _find_blocked(name: str, found: Sequence[Found]) -> Found:
    matches = [one for one in found if one.is_called(name)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        names = " or ".join(one.long_name for one in matches)
        raise PluginError(f"plugins.block: {name!r} is ambiguous; write {names}")
    hint = did_you_mean(name, [one.name for one in found])
    raise PluginError(f"plugins.block: no plugin {name!r} is installed{hint}")


# --- finding ------------------------------------------------------------------------------------
def _installed() -> Iterable[EntryPoint]:
    try:
        return metadata.entry_points(group=GROUP)
    except (TypeError, ValueError, OSError):
        # One distribution's entry_points.txt is damaged; the standard library gives up on all.
        return [point for dist in metadata.distributions() for point in _points_of(dist)]


def _points_of(dist: metadata.Distribution) -> Iterable[EntryPoint]:
    try:
        return dist.entry_points.select(group=GROUP)
    except (TypeError, ValueError, OSError):
        if f"[{GROUP}]" not in (dist.read_text("entry_points.txt") or ""):
            return ()
        # Its value is no object reference, so `load` reports it as broken.
        damaged = EntryPoint(name=dist.name, value="<damaged entry_points.txt>", group=GROUP)
        vars(damaged).update(dist=dist)
        return (damaged,)


# --- loading ------------------------------------------------------------------------------------
def _collect(found: Found, read_settings: ReadSettings) -> _Collected:
    """Import the plugin and call its hooks.

    Its pluggy manager is its own and thrown away, so there is nothing to roll back.
    """
    if not found.entry_point.pattern.match(found.value):
        raise _IncompatibleError(f"{found.value!r} is neither 'module' nor 'module:object'")
    _check_version(found)
    plugin = found.entry_point.load()
    if inspect.isclass(plugin):
        raise _IncompatibleError("the entry point names a class; name a module or an instance")
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    for name in dir(plugin):
        _check_hook(manager, plugin, name)
    try:
        manager.register(plugin, name=found.long_name)
    except pluggy.PluginValidationError as error:
        raise _IncompatibleError(_one_line(error), _source_of(plugin)) from error
    callers = {caller.name: caller for caller in manager.get_hookcallers(plugin) or ()}
    hooks = tuple(sorted(callers))
    if not hooks:
        raise _IncompatibleError("it implements no hook", _source_of(plugin))
    settings = None
    if SETTINGS in callers:
        settings = read_settings(found, _ask_for_settings(callers.pop(SETTINGS)))
    offers = tuple(
        offer for name in hooks if name in callers for offer in _call(callers[name], settings)
    )
    _refuse_twins(offers, plugin)
    return _Collected(hooks, settings, offers)


def _check_version(found: Found) -> None:
    """Refuse a plugin whose distribution asks for another version of llmplug."""
    dist = found.entry_point.dist
    lines = (dist.requires or ()) if dist is not None and found.distribution != GROUP else ()
    is_ours = re.compile(rf"{GROUP}(?![\w.-])(?!.*extra ==)")
    wanted = [line for line in lines if is_ours.match(line)]
    if not wanted:
        return
    from packaging.requirements import InvalidRequirement, Requirement

    for line in wanted:
        try:
            requirement = Requirement(line)
        except InvalidRequirement as error:
            reason = f"its distribution requires {line!r}: {_one_line(error)}"
            raise _IncompatibleError(reason) from None
        if not requirement.specifier.contains(__version__, prereleases=True):
            raise _IncompatibleError(
                f"its distribution requires {line}, and this is llmplug {__version__}"
            )


def _check_hook(manager: pluggy.PluginManager, plugin: object, name: str) -> None:
    """Refuse what pluggy passes over in silence: unknown hooks and forgotten markers."""
    options = manager.parse_hookimpl_opts(plugin, name)
    function = getattr(plugin, name, None) if name.startswith(PREFIX) or options else None
    hook = (options["specname"] if options else None) or name
    if options is None:
        if inspect.isroutine(function):
            hint = "" if name in HOOKS else did_you_mean(name, [*HOOKS, SETTINGS])
            raise _IncompatibleError(
                f"{name!r} lacks @llmplug.hookimpl{hint}", _source_of(function)
            )
    elif hook not in {*HOOKS, SETTINGS}:
        hint = did_you_mean(hook, [*HOOKS, SETTINGS])
        reason = f"llmplug {__version__} has no hook {hook!r}{hint}"
        raise _IncompatibleError(reason, _source_of(function))
    elif options["wrapper"] or options["hookwrapper"]:
        raise _IncompatibleError(f"{hook!r} cannot be a wrapper", _source_of(function))


def _ask_for_settings(caller: pluggy.HookCaller) -> type[BaseModel]:
    implementation = _only_implementation(caller)
    model = cast("type[BaseModel]", next(iter(caller()), None))
    problem = find_settings_problem(model)
    if problem is not None:
        raise _IncompatibleError(f"{SETTINGS} {problem}", _source_of(implementation.function))
    return model


def _only_implementation(caller: pluggy.HookCaller) -> pluggy.HookImpl:
    first, *others = caller.get_hookimpls()
    if others:
        raise _IncompatibleError(f"it implements {caller.name} twice", _source_of(first.function))
    return first


def _call(caller: pluggy.HookCaller, settings: BaseModel | None) -> Iterator[Offer]:
    implementation = _only_implementation(caller)
    file = _source_of(implementation.function)
    if settings is None and implementation.argnames:
        reason = f"{caller.name} takes settings, and the plugin has no {SETTINGS}"
        raise _IncompatibleError(reason, file)
    expected = HOOKS[caller.name]
    results = caller(settings=settings)
    specs = results[0] if results else None
    if not isinstance(specs, (list, tuple)):
        got = type(specs).__name__
        raise _IncompatibleError(
            f"{caller.name} returned {got}, not a list of {expected.__name__}", file
        )
    for spec in specs:
        if not isinstance(spec, expected):
            got = type(spec).__name__
            raise _IncompatibleError(
                f"{caller.name} returned a {got} in place of a {expected.__name__}", file
            )
        problem = find_spec_problem(spec)
        if problem is not None:
            raise _IncompatibleError(
                f"{caller.name} returned a {expected.__name__} {problem}", file
            )
        yield _offer(caller.name.removeprefix(PREFIX), spec)


def _offer(kind: str, spec: Any) -> Offer:
    if isinstance(spec, SourceSpec):
        name = spec.scheme
    elif isinstance(spec, KernelSpec):
        name = f"{spec.op}/{spec.name}"
    else:
        name = spec.name
    claims = [(noun_of(kind), name)]
    if isinstance(spec, ModelSpec):
        claims += [("architecture", architecture) for architecture in spec.architectures]
    if isinstance(spec, SamplerSpec) and not spec.fuses:
        own_fields = spec.params.model_fields.keys() - SHARED_FIELDS
        claims += [(REQUEST_FIELD, field) for field in sorted(own_fields)]
    return Offer(kind=kind, name=name, spec=spec, claims=tuple(claims))


def _refuse_twins(offers: Sequence[Offer], plugin: object) -> None:
    seen = set()
    for offer in offers:
        for noun, name in offer.claims:
            if (noun, name) in seen and noun != REQUEST_FIELD:
                raise _IncompatibleError(f"it offers {noun} {name!r} twice", _source_of(plugin))
            seen.add((noun, name))


# --- failures -----------------------------------------------------------------------------------
def _describe_failure(found: Found, error: BaseException) -> Plugin:
    state, kind = State.BROKEN, type(error).__name__
    reason = f"{kind}: {_one_line(error)}" if str(error) else kind
    if isinstance(error, ImportError) and (error.name or "").split(".")[0] == GROUP:
        state = State.INCOMPATIBLE
        reason = f"llmplug {__version__} lacks what it imports: {_one_line(error)}"
    return Plugin(
        found=found,
        state=state,
        reason=reason,
        file=_failing_line(found, error),
        exception=kind,
        traceback="".join(traceback.format_exception(error)),
    )


def _failing_line(found: Found, error: BaseException) -> str | None:
    """Return the innermost line of the plugin's own code, else of anybody's."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    package = found.value.partition(":")[0].split(".")[0]
    lines = [
        (frame.f_globals.get("__name__", ""), f"{frame.f_code.co_filename}:{line}")
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    own = [place for module, place in lines if module.split(".")[0] == package]
    # Without a line of its own the plugin was not found at all: no file to point at.
    return own[-1] if own else None


def _source_of(thing: object) -> str | None:
    if isinstance(thing, ModuleType):
        return thing.__file__
    try:
        source = inspect.unwrap(thing) if callable(thing) else type(thing)
        return f"{inspect.getsourcefile(source)}:{inspect.getsourcelines(source)[1]}"
    except (OSError, TypeError):  # made without a source file
        return None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
