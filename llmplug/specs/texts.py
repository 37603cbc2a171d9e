"""Chat templates, dialects of thinking and calls, and grammars."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmplug.dialect import AnswerContext, CallSyntax, Detect, Parser, ReasoningSyntax, Tool
    from llmplug.grammar import GrammarBackend, Node, Vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatTemplateSpec:
    """A chat template by name, for checkpoints that carry none or a wrong one.

    Attributes:
        name: what `chat_template:` in a config says.
        source: Jinja text.
        fits: token texts of the vocabulary -> whether a checkpoint without a template of its own
            is made for this one.
        stop_tokens: token texts that end an answer under this template.
    """

    name: str
    source: str
    fits: Callable[[frozenset[str]], bool]
    stop_tokens: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningParserSpec:
    """How a family of models writes its thinking, and how it is turned on and off.

    A plugin gives a `syntax`, or a parser made by hand, or both: then answers are read by the
    parser, and grammars and budgets go by the syntax.

    Attributes:
        name: of the dialect; a tool parser of the same name belongs to it.
        detect: (chat template, config of the checkpoint, token texts) -> how well it fits.
        syntax: markers of the thinking.
        make: makes a parser for one answer, which yields Reasoning and Content.
        end: for `make`: marker that closes the thinking, for budgets and grammars.
        thinking_on: template variables that ask for thinking: {"enable_thinking": True}.
        thinking_off: those that ask for none.
        effort_variable: template variable that takes OpenAI's `reasoning_effort`.
    """

    name: str
    detect: Detect
    syntax: ReasoningSyntax | None = None
    make: Callable[[AnswerContext], Parser] | None = None
    end: str | None = None
    thinking_on: Mapping[str, Any] = field(default_factory=dict)
    thinking_off: Mapping[str, Any] = field(default_factory=dict)
    effort_variable: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolParserSpec:
    """How a family of models writes tool calls.

    A plugin gives tables, or a parser and a grammar made by hand.

    Attributes:
        name: of the dialect.
        detect: (chat template, config of the checkpoint, token texts) -> how well it fits.
        syntax: tables of every way in which the family writes calls; forced calls are written
            in the first.
        make: makes a parser for one answer.
        grammar: for `make`: (tools, least calls, most calls or None) -> what forced calls look
            like, from the first marker to the last.
        is_whole: `make` takes the whole answer and yields Reasoning too.
        answer_grammar: where headers stand round content and calls: (form of the content, calls,
            end of the prompt) -> what a whole answer looks like, thinking included; None of
            content or calls: it has none.
        make_id: (name of the function, index of the call) -> id of a call that the model gave
            none; None: the server makes them.
    """

    name: str
    detect: Detect
    syntax: tuple[CallSyntax, ...] = ()
    make: Callable[[AnswerContext], Parser] | None = None
    grammar: Callable[[Sequence[Tool], int, int | None], Node] | None = None
    is_whole: bool = False
    answer_grammar: Callable[[Node | None, Node | None, str], Node] | None = None
    make_id: Callable[[str, int], str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GrammarSpec:
    """A backend of structured output.

    Attributes:
        name: of the backend.
        open: vocabulary -> backend; imports its library. Called once, in the engine and where
            grammars are checked before admission.
        priority: the highest is used where the config names none.
    """

    name: str
    open: Callable[[Vocabulary], GrammarBackend]
    priority: int = 0
