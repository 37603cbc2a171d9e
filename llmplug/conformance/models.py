"""The list of models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmplug.conformance.checks import check, expect, expect_ok, expect_refused

if TYPE_CHECKING:
    from llmplug.conformance.target import Target


@check("models")
def list_of_models(target: Target) -> None:
    """GET /v1/models lists the model, with id, object, created and owned_by."""
    body = expect_ok(target.ask("GET", "/v1/models"))
    expect(body.get("object") == "list", f"object is {body.get('object')!r}")
    cards = [each for each in body.get("data", ()) if each.get("id") == target.model]
    expect(len(cards) == 1, f"{len(cards)} models are called {target.model!r}")
    for name, kind in (("object", str), ("created", int), ("owned_by", str)):
        expect(isinstance(cards[0].get(name), kind), f"{name} is {cards[0].get(name)!r}")


@check("models")
def one_model(target: Target) -> None:
    """GET /v1/models/{id} describes it."""
    body = expect_ok(target.ask("GET", f"/v1/models/{target.model}"))
    expect(body.get("id") == target.model, f"id is {body.get('id')!r}")


@check("models")
def unknown_model(target: Target) -> None:
    """A model that is not there is a 404 in OpenAI's shape, listed or asked."""
    expect_refused(target.ask("GET", "/v1/models/no-such-model"), 404)
    error = expect_refused(target.chat(model="no-such-model"), 404)
    expect(error.get("code") == "model_not_found", f"error.code is {error.get('code')!r}")


CHECKS = (list_of_models, one_model, unknown_model)
