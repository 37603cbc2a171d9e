"""Which samplers run for a request, in which order, and with which parameters.

A request may say it in `samplers`: a list of {"name": ..., and fields of that sampler}. What an
entry leaves out is the request's own field of that name; a field that begins with the sampler's
name may be said without it (`threshold` of `xtc` is `xtc_threshold`). Without a list, all run by
stage, each on the requests that it changes anything for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from llmplug.did_you_mean import did_you_mean
from llmplug.engine.ranges import RANGES, check_logit_bias, check_sampling_number
from llmplug.errors import InvalidRequest, UnsupportedParameter
from llmplug.types import SamplingParams

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pydantic import BaseModel

    from llmplug.specs import SamplerSpec

MAX_EXTRA = 64
MAX_CHAIN = 32
STAGES = ("bias", "scale", "filter", "choose")
_CORE_FIELDS = frozenset(SamplingParams.__struct_fields__)
_SAMPLER_FIELDS = frozenset({*RANGES, "logit_bias"})  # core fields that samplers take


class Link(NamedTuple):
    """One sampler of a request's chain."""

    spec: SamplerSpec
    params: BaseModel


def order_specs(specs: Iterable[SamplerSpec]) -> list[SamplerSpec]:
    """Sort samplers as they run when nobody says otherwise."""
    return sorted(specs, key=lambda spec: (STAGES.index(spec.stage), spec.order, spec.name))


def find_chain(specs: Sequence[SamplerSpec], filled: Mapping[str, Any]) -> list[Link]:
    """Return the samplers that change anything for a request, the one that chooses last.

    Args:
        specs: as `order_specs` sorts them.
        filled: the fields of a checked `SamplingParams`.
    Raises:
        UnsupportedParameter: none of them chooses a token.
        InvalidRequest: a sampler refuses its parameters.
    """
    chain = []
    for link in _list_links(specs, filled):
        if link.spec.is_active(link.params):
            chain.append(link)
            if link.spec.stage == "choose":
                return chain
    raise UnsupportedParameter(
        f"No sampler of this model serves temperature {filled['temperature']}.",
        param="temperature",
    )


def find_biases(specs: Sequence[SamplerSpec], filled: Mapping[str, Any]) -> list[Link]:
    """Return the samplers of a request that change what its tokens are worth."""
    return [
        link
        for link in _list_links(specs, filled)
        if link.spec.stage == "bias" and link.spec.is_active(link.params)
    ]


def _list_links(specs: Sequence[SamplerSpec], filled: Mapping[str, Any]) -> list[Link]:
    """Return the samplers that may run for a request, active or not."""
    offered = [spec for spec in specs if not spec.fuses]
    entries = filled["samplers"]
    values: dict[str, Any] = {name: filled[name] for name in _SAMPLER_FIELDS} | filled["extra"]
    if entries is None:
        return [Link(spec, _make_params(spec, values)) for spec in offered]
    by_name = {spec.name: spec for spec in offered}
    links = []
    for entry in entries:
        spec = by_name[entry["name"]]
        links.append(Link(spec, _make_params(spec, values, entry)))
    if not links or links[-1].spec.stage != "choose":
        for entry in entries:  # a temperature of 0 is greedy wherever it stands
            values |= {name: value for name, value in entry.items() if name != "name"}
        choosers = (spec for spec in offered if spec.stage == "choose")
        links += [Link(spec, _make_params(spec, values)) for spec in choosers]
    return links


def check_samplers(
    filled: dict[str, Any],
    said: SamplingParams,
    specs: Sequence[SamplerSpec] | None,
    vocab_size: int,
) -> None:
    """Refuse what no sampler serves, and values that the sampler's own model refuses.

    Args:
        filled: the request's fields with the model's defaults; `samplers` is written in full here,
            and defaults that belong to none of them are dropped.
        said: the request's fields as they came.
        specs: the engine's samplers; None: not known here, the engine will check.
    """
    extra = filled["extra"]
    if not isinstance(extra, dict) or len(extra) > MAX_EXTRA:
        raise InvalidRequest(f"at most {MAX_EXTRA} extra parameters are taken.", param="extra")
    entries = filled["samplers"]
    if entries is not None:
        filled["samplers"] = _check_shape(entries)
    if specs is None:
        return
    offered = [spec for spec in order_specs(specs) if not spec.fuses]
    _check_served(filled, extra, offered)
    if filled["samplers"] is not None:
        filled["samplers"] = _check_entries(filled["samplers"], offered, vocab_size)
        _check_listed(filled, said, offered)
    _list_links(offered, filled)


def _check_served(
    filled: Mapping[str, Any], extra: Mapping[str, Any], offered: Sequence[SamplerSpec]
) -> None:
    served = {name for spec in offered for name in spec.params.model_fields}
    for name in extra:
        if name not in served or name in _CORE_FIELDS:
            raise UnsupportedParameter(f"No sampler of this model takes {name!r}.", param=name)
    for name in sorted(_find_asked(filled) - served):
        raise UnsupportedParameter(f"No sampler of this model takes {name!r}.", param=name)


def _find_asked(filled: Mapping[str, Any]) -> set[str]:
    """Return the core's fields for samplers that are not neutral."""
    asked = {name for name, allowed in RANGES.items() if filled[name] != allowed.neutral}
    return asked | ({"logit_bias"} if filled["logit_bias"] else set())


def _check_shape(entries: Any) -> tuple[dict[str, Any], ...]:
    """Return entries that all are objects with a name."""
    if not isinstance(entries, tuple | list) or len(entries) > MAX_CHAIN:
        raise InvalidRequest(
            f"samplers must be a list of at most {MAX_CHAIN} names, or objects with a 'name'.",
            param="samplers",
        )
    shaped = []
    for place, entry in enumerate(entries):
        named = {"name": entry} if isinstance(entry, str) else entry
        if not isinstance(named, dict) or not isinstance(named.get("name"), str):
            raise InvalidRequest(
                f"samplers[{place}] must be a name, or an object with a 'name'.",
                param=f"samplers[{place}]",
            )
        shaped.append(named)
    return tuple(shaped)


def _check_entries(
    entries: Sequence[dict[str, Any]], offered: Sequence[SamplerSpec], vocab_size: int
) -> tuple[dict[str, Any], ...]:
    by_name = {spec.name: spec for spec in offered}
    checked = []
    for place, entry in enumerate(entries):
        where, name = f"samplers[{place}]", entry["name"]
        if name not in by_name:
            raise InvalidRequest(
                f"{where}.name: there is no sampler {name[:64]!r}{did_you_mean(name, by_name)}",
                param=f"{where}.name",
            )
        if by_name[name].stage == "choose" and place != len(entries) - 1:
            raise InvalidRequest(
                f"{where}: {name!r} chooses the token, so it must be the last.", param=where
            )
        checked.append(_check_entry(entry, by_name[name], vocab_size, where))
    return tuple(checked)


def _check_entry(
    entry: dict[str, Any], spec: SamplerSpec, vocab_size: int, where: str
) -> dict[str, Any]:
    """Return an entry with the whole names of its fields."""
    checked: dict[str, Any] = {"name": spec.name}
    spelled: dict[str, str] = {}  # as the request says it, by field
    known = spec.params.model_fields
    for key, value in entry.items():
        if key == "name":
            continue
        field = key if key in known else f"{spec.name}_{key}"
        param = f"{where}.{key}"
        if field not in known or field in checked:
            raise InvalidRequest(
                f"{param[:128]}: the sampler {spec.name!r} takes {', '.join(sorted(known))}, each "
                "once.",
                param=param[:128],
            )
        if field in RANGES:
            value = check_sampling_number(field, value, vocab_size, param)  # noqa: PLW2901
        elif field == "logit_bias":
            value = check_logit_bias(param, _with_int_keys(value), vocab_size)  # noqa: PLW2901
        checked[field], spelled[field] = value, param
    _make_params(spec, {}, checked, spelled)
    return checked


def _with_int_keys(bias: Any) -> Any:
    """Turn the keys of JSON into token ids; what is none is refused later."""
    if not isinstance(bias, dict):
        return bias
    return {
        int(key) if isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 20
        else key: value
        for key, value in bias.items()
    }  # fmt: skip


def _check_listed(
    filled: dict[str, Any], said: SamplingParams, offered: Sequence[SamplerSpec]
) -> None:
    """Refuse fields of samplers that the request's list leaves out; drop defaults of such."""
    names = {entry["name"] for entry in filled["samplers"]}
    takers = [spec for spec in offered if spec.name in names or spec.stage == "choose"]
    taken = {field for spec in takers for field in spec.params.model_fields}
    for name in sorted({*_find_asked(filled), *filled["extra"]} - taken):
        if name in filled["extra"] or getattr(said, name):
            raise InvalidRequest(
                f"{name} is set, but 'samplers' lists none that takes it.", param=name
            )
        filled[name] = RANGES[name].neutral if name in RANGES else {}


def _make_params(
    spec: SamplerSpec,
    values: Mapping[str, Any],
    entry: Mapping[str, Any] | None = None,
    spelled: Mapping[str, str] | None = None,
) -> BaseModel:
    """Make a sampler's parameters, of `entry` first; errors name fields as they were `spelled`."""
    from pydantic import ValidationError

    own = entry or {}
    fields = {
        name: own.get(name, values.get(name))
        for name in spec.params.model_fields
        if name in own or name in values
    }
    try:
        return spec.params.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else spec.name
        param = (spelled or {}).get(name, name)
        raise InvalidRequest(f"{param}: {first['msg']}.", param=param) from error
