"""What a plugin hands in: frozen descriptions. The core decides what to do with them.

Nothing here imports torch; a spec's functions may, when they are called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import torch
    from pydantic import BaseModel

    from llmplug.dialect import (
        AnswerContext,
        CallSyntax,
        Detect,
        Parser,
        ReasoningSyntax,
        Tool,
    )
    from llmplug.grammar import GrammarBackend, Node, Vocabulary
    from llmplug.ops import AttentionBatch, KernelTable, KVCache, Tunable
    from llmplug.pooling import PoolingKind

Stage = Literal["bias", "scale", "filter", "choose"]
Task = Literal["generate", "embed", "classify"]


class Progress(Protocol):
    """Where long work reports to: a bar on a terminal, /ready, or nowhere."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Say that `done` of `total` bytes (or items) of `stage` are finished; total 0: unknown."""


# --- sources ------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSpec:
    """Where model files come from: `scheme:rest` in a config becomes a local path.

    Attributes:
        scheme: the word before the colon, such as `hf`.
        syntax: how a source is written, for messages: `hf:org/name[@revision]`.
        find: rest -> the local path if it is already here, complete and verified, else None.
            Touches no network.
        fetch: (rest, cache folder, progress) -> local path, downloaded and verified. Raises
            SourceError. A download that is cut off leaves nothing that `find` accepts.
    """

    scheme: str
    syntax: str
    find: Callable[[str, Path], Path | None]
    fetch: Callable[[str, Path, Progress], Path]


# --- checkpoints --------------------------------------------------------------------------------
class LazyTensor(Protocol):
    """A tensor that is still in its file.

    Where weights are divided among ranks, a `SliceableTensor` is read in part; of others the whole
    is read and cut.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """In torch order: a linear weight is (out, in)."""

    @property
    def format(self) -> str:
        """How its numbers are stored: `F32`, `BF16`, `F16`, `Q4_1`, ..."""

    @property
    def num_bytes(self) -> int:
        """Bytes in the file."""

    def load(self) -> torch.Tensor:
        """Read it on the CPU: float formats as stored, block formats dequantised to float32."""

    def raw(self) -> torch.Tensor:
        """The bytes as stored, uint8, (rows, bytes per row): for kernels that read the blocks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerFiles:
    """What a tokenizer is made of, whatever file it came from.

    Attributes:
        json: a serialised `tokenizers.Tokenizer` (the text of tokenizer.json).
        bos_token: text of the token, or None where the model has none.
        eos_token: the same.
        add_bos: whether plain text is prefixed with the bos token. None: as `json` says.
        chat_template: Jinja source, or None.
        named_templates: further templates of the checkpoint, by name.
        special_tokens: what templates may refer to: {"pad_token": ..., "unk_token": ...}.
    """

    json: str
    bos_token: str | None = None
    eos_token: str | None = None
    add_bos: bool | None = None
    chat_template: str | None = None
    named_templates: Mapping[str, str] = field(default_factory=dict)
    special_tokens: Mapping[str, str] = field(default_factory=dict)


class Checkpoint(Protocol):
    """An opened model folder or file: headers are read, weights are not.

    Names of tensors and config keys are those of the Hugging Face checkpoint of the same model,
    whatever the file calls them, so that one model plugin serves every format.
    """

    @property
    def path(self) -> Path:
        """The file or folder."""

    @property
    def config(self) -> Mapping[str, Any]:
        """The fields of config.json; `architectures` is always there."""

    @property
    def generation_config(self) -> Mapping[str, Any] | None:
        """The fields of generation_config.json, None where there is none."""

    @property
    def tensors(self) -> Mapping[str, LazyTensor]:
        """Tensors by name."""

    @property
    def tokenizer(self) -> TokenizerFiles:
        """Raises CheckpointError if the checkpoint carries none that can be read."""

    @property
    def files(self) -> Sequence[Path]:
        """Every file that is read, for the report."""

    @property
    def json_files(self) -> Mapping[str, Any]:
        """Further JSON files of a model's folder, by their path in it: `modules.json`, ..."""

    @property
    def module_tensors(self) -> Mapping[str, Mapping[str, LazyTensor]]:
        """Tensors of the folders in a model's folder, by their names there: `2_Dense`, ..."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderSpec:
    """A checkpoint format.

    Attributes:
        name: of the format: `safetensors`, `gguf`.
        claims: whether a path looks like this format; opens no more than a header, raises nothing.
        open: reads headers. Raises CheckpointError for damaged or truncated files. Runs in the
            server process too, which does without torch: import it when a tensor is read.
    """

    name: str
    claims: Callable[[Path], bool]
    open: Callable[[Path], Checkpoint]


# --- models -------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """One entry of a model's weight table: what the model calls it, and what files call it.

    `{layer}` stands for the layer's number in every string. Several sources are joined along
    dimension 0, in order: `("...q_proj.weight", "...k_proj.weight", "...v_proj.weight")`.

    Attributes:
        name: key in the map that `build` gets.
        sources: names in the checkpoint.
        kind: `linear` goes through `ops.linear.pack` and comes as a packed weight; `embedding`
            and `tensor` come as plain tensors in the model's dtype.
        bias: names of the biases of a linear, joined like `sources`; empty: none.
        tied_to: sources to read where `sources` are absent from the checkpoint, as an output
            head that shares the embedding does.
        rows: size of dimension 0 of each source, checked against the file.
        columns: size of dimension 1 of every source; None: the sources are vectors.
        split: how ranks that compute one model together divide it. `outputs`: by the rows of each
            source, and the biases with them. `inputs`: by columns, after outputs that were
            divided the same way; what the ranks compute is summed. `vocabulary`: an embedding, or
            the head over its tokens, by rows; each rank gets the whole result. None: every rank
            holds all of it, as of norms.
        split_unit: rows (columns of `inputs`) of a source that stay together, such as a head's;
            one for all sources or one for each. Ranks get as many units each; single rows, nearly
            as many, in blocks that a quantised file may have.
        repeats: of each source, whether ranks share a unit where there are fewer units than ranks,
            as of keys and values; empty: of none.
    """

    name: str
    sources: tuple[str, ...]
    kind: Literal["linear", "embedding", "tensor"] = "linear"
    bias: tuple[str, ...] = ()
    tied_to: tuple[str, ...] = ()
    rows: tuple[int, ...] = ()
    columns: int | None = None
    split: Literal["outputs", "inputs", "vocabulary"] | None = None
    split_unit: int | tuple[int, ...] = 1
    repeats: tuple[bool, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCache:
    """The key/value cache that one layer needs."""

    num_kv_heads: int
    head_width: int
    window: int | None = None  # tokens a query sees, itself included; None: all


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """What the engine must know before a weight is read; computed from the config alone."""

    vocab_size: int  # width of the logits
    context_length: int  # longest sequence that the positions are made for
    num_layers: int
    width: int
    layers: tuple[LayerCache, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildContext:
    """All that a model gets to build itself from.

    Where ranks compute it together, `weights` and the key/value heads of `shape` are this rank's,
    and it has `num_ranks` times fewer query heads than the config says.
    """

    config: Mapping[str, Any]
    shape: ModelShape
    weights: Mapping[str, Any]  # by Weight.name, layers filled in: "layers.0.qkv"
    ops: KernelTable
    device: torch.device
    dtype: torch.dtype
    num_ranks: int = 1


class Model(Protocol):
    """A built model; holds its weights, keeps no state between calls."""

    def forward(
        self,
        token_ids_T: torch.Tensor,
        positions_T: torch.Tensor,
        caches: Sequence[KVCache],
        attention: AttentionBatch,
    ) -> torch.Tensor:
        """Run packed tokens through all layers.

        Args:
            token_ids_T: int64.
            positions_T: int64, of each token in its own sequence.
            caches: one per layer, as `ops.attention.allocate` made them.
            attention: which token belongs to which sequence, and where its keys go.
        Returns:
            hidden_TD after the final norm.
        """

    def compute_logits(self, hidden_SD: torch.Tensor) -> torch.Tensor:
        """Project the rows that are to be sampled: float32 logits_SV."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """An architecture.

    Attributes:
        name: short name of the family.
        architectures: entries of `architectures` in config.json that it claims; none only where
            it has `claims`.
        describe: config -> ModelShape, without torch. Raises CheckpointError for settings it does
            not support: a setting that changes the result is never ignored.
        weights: config -> the weight table, every tensor of the checkpoint that matters.
        build: context -> Model; for the tasks `embed` and `classify` an `llmplug.Encoder` or
            `Classifier`. A classifier whose shape has caches is a Model too: its logits are the
            scores of the labels.
        ignored: names of checkpoint tensors that are derived and not read; `{layer}` works.
        task: what it is for; a model that generates can also embed, by its last token.
        classifier_pooling: config -> what a classifier reads of a text; None: its first token, or
            where the shape has caches its last one.
        claims: config -> whether it takes it; makes a fallback, asked for architectures that no
            spec lists.
    """

    name: str
    architectures: tuple[str, ...]
    describe: Callable[[Mapping[str, Any]], ModelShape]
    weights: Callable[[Mapping[str, Any]], Sequence[Weight]]
    build: Callable[[BuildContext], Any]
    ignored: tuple[str, ...] = ()
    task: Task = "generate"
    classifier_pooling: Callable[[Mapping[str, Any]], PoolingKind] | None = None
    claims: Callable[[Mapping[str, Any]], bool] | None = None


# --- kernels ------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class KeptWeight:
    """How a kernel keeps a weight in memory."""

    format: str
    num_bytes: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelSpec:
    """A faster twin of one op of `llmplug.ops`.

    Attributes:
        op: name of the op: `rms_norm`, `linear`, `attention`, ...
        name: of this kernel, for the report: `onednn`.
        supports: (device type such as `cpu`, dtype name such as `float32`) -> None if it runs
            there, else the reason why not.
        load: makes the kernel: same signature as the reference. Called once, in the engine; with
            a `llmplug.ops.Tuning` where there are `tunables` and a table of their best sizes.
        priority: higher wins among those that support the device.
        keep: for the op `linear`: (weight in its file, wanted format) -> how `pack` will keep it;
            reads no weight. None, or a None that it returns: dense, in the dtype of the model.
            Raises KernelInputError.
        needs: for a kernel that fuses other ops, such as `decoder_layer`: ops whose packed weights
            or caches it reads. It is chosen only where kernels of its own name serve these.
        tunables: device type -> the free parameters that `llmplug tune` can try there, also where
            the kernel only runs to be tested. None: it has none.
    """

    op: str
    name: str
    supports: Callable[[str, str], str | None]
    load: Callable[..., Any]
    priority: int = 0
    keep: Callable[[LazyTensor, str], KeptWeight | None] | None = None
    needs: tuple[str, ...] = ()
    tunables: Callable[[str], Sequence[Tunable]] | None = None


# --- samplers -----------------------------------------------------------------------------------
@dataclass(slots=True)
class SamplerRow:
    """One sequence, as a sampler sees it. Read only, but for `next_state`."""

    params: Any  # instance of the spec's `params`
    prompt_ids: Sequence[int]
    output_ids: Sequence[int]
    seed: int  # of this sequence
    position: int  # of the token to be chosen, counted from the start of the prompt
    state: Any = None  # what this sampler last kept for this sequence; None: nothing yet
    # What to keep for the next token; None: `state` as it is. It counts only if the step's tokens
    # are all chosen, as a step that fails is sampled again; and it stays with the sequence when it
    # is preempted. A state is never changed in place: beams that part ways share it.
    next_state: Any = None

    def seen_ids(self) -> Iterator[int]:
        """Prompt, then output."""
        yield from self.prompt_ids
        yield from self.output_ids


class LogitsSampler(Protocol):
    """Stages bias, scale and filter: changes logits in place; -inf forbids a token."""

    def apply(self, logits_RV: torch.Tensor, rows: Sequence[SamplerRow]) -> None:
        """Edit float32 logits; row r of the tensor belongs to `rows[r]`, and to it alone."""


class ChoosingSampler(Protocol):
    """Stage choose: picks one token a row."""

    def choose(self, logits_RV: torch.Tensor, rows: Sequence[SamplerRow]) -> torch.Tensor:
        """Return ids_R, int64. The same row gives the same id alone and in any batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerSpec:
    """One sampler.

    Within a step samplers run by stage (bias, scale, filter, choose), then by `order`, then by
    name, unless a request says which run in which order. A sampler sees only the rows for which
    `is_active(params)`; in the last stage the first active one takes the row.

    Attributes:
        name: of the sampler.
        stage: `bias` adds to logits, `scale` multiplies, `filter` forbids tokens, `choose` picks.
        params: pydantic model with a neutral default for every field. Field names are request
            fields: a name that the core does not know becomes one.
        is_active: whether these parameters change anything.
        make: (vocab_size, device, ops) -> LogitsSampler, or ChoosingSampler for stage `choose`.
            One that fuses others may be None: not on this device.
        reads_vocabulary: `make` gets a fourth argument, () -> `llmplug.grammar.Vocabulary`, to be
            called when it is first needed: it takes a moment, and a step waits.
        order: place within the stage; lower runs earlier.
        reads_history: whether it reads `output_ids` or keeps a state. One that does not can choose
            a token on the device before the host knows the one before it.
        takes_pending: nor need one wait that reads `output_ids`, keeps no state, and takes a third
            argument: of each row the token that is chosen and not in `output_ids` yet, int64 on the
            device, -1 where there is none; None: no row has one.
        fuses: names of samplers that this one does in one go: where a row needs some of them, one
            right after the other in this order and the last of this one's stage, it runs in their
            place. Nobody asks for it by name, and `is_active` is not asked.
        fuse: for `fuses`: {name: its parameters} of those that it stands for -> its own.
    """

    name: str
    stage: Stage
    params: type[BaseModel]
    is_active: Callable[[Any], bool]
    make: Callable[..., Any]
    order: int = 0
    reads_history: bool = True
    takes_pending: bool = False
    fuses: tuple[str, ...] = ()
    fuse: Callable[[Mapping[str, Any]], Any] | None = None
    reads_vocabulary: bool = False


# --- chat templates -----------------------------------------------------------------------------
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


# --- dialects -----------------------------------------------------------------------------------
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


# --- grammars -----------------------------------------------------------------------------------
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
