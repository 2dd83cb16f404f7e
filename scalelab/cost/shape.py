"""Shape of a decoder for prices: widths, heads, windows, experts and streams.

A `ServedModel` is made from an `Architecture` (`as_served`) or from a Hugging Face config (`scalelab.cost.families`).
Widths may be real numbers, since the plain model of equal loss rarely has whole ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from scalelab.aggregation import AGGREGATIONS
from scalelab.architecture import EXPERTS_PER_TOKEN, PREFIX_TOKENS, Architecture
from scalelab.errors import NotPricedError, UsageError

# (inputs, outputs) of successive matrices; the output of the last is added to the residual.
Block = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Layer:
    """Decoder layer of a model of width h.

    If keys and values have different widths, `head_dim` is their mean: prices only depend on its products with heads
    and KV heads.
    """

    heads: float  # 0: no attention
    kv_heads: float
    head_dim: float
    mlp_width: float  # of one expert if there are any
    mlp_matrices: int = 3  # gate, up and down; 2 without a gate
    vectors: float = 0.0  # parameters of norms and biases
    window: int | None = None  # keys that a query sees, including its own; None: all
    num_experts: int = 0
    experts_per_token: int = 0
    shared_width: float = 0.0  # width of the shared MLP for all tokens, besides experts
    shared_gate: bool = False  # an h × 1 matrix weights the shared MLP
    explicit_blocks: tuple[Block, ...] = ()  # all matrices except router and experts, if they are not the usual ones
    kv_expansion: Block = ()  # matrices from cached latents to keys and values, applied to all tokens in each pass
    cached_numbers: float | None = None  # cached numbers per token, if not its keys and values: a latent, or 0
    prefix_width: float | None = None  # keys and values of a prefix token, if wider than a token's
    query_width: float | None = None  # of all heads, if several tokens share a key and `heads` is a fraction of them
    state: float = 0.0  # cached numbers per sequence, independent of its length
    mixing_flops: float = 0.0  # per token, of products without weights that do not depend on the length

    def blocks(self, hidden: float) -> tuple[Block, ...]:
        """Return the matrices applied to every new token, attention first, without router and experts."""
        if self.explicit_blocks:
            return self.explicit_blocks
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        widths = (self.shared_width, 0 if self.num_experts else self.mlp_width)
        mlps = [((hidden, (self.mlp_matrices - 1) * width), (width, hidden)) for width in widths if width]
        gate = [((hidden, 1.0),)] if self.shared_gate else []
        return (((hidden, q + 2 * kv), (q, hidden)), *mlps, *gate)

    @property
    def kv_width(self) -> float:
        """Width of a token's keys and values together."""
        return 2 * self.kv_heads * self.head_dim

    @property
    def prefix_kv_width(self) -> float:
        """Width of a prefix token's keys and values together."""
        return self.kv_width if self.prefix_width is None else self.prefix_width

    @property
    def queries(self) -> float:
        """Width of a token's queries, and of the output of attention."""
        return self.heads * self.head_dim if self.query_width is None else self.query_width

    @property
    def cache_width(self) -> float:
        """Numbers that a token adds to the cache."""
        return self.kv_width if self.cached_numbers is None else self.cached_numbers

    def expert_params(self, hidden: float) -> float:
        """Return the parameters of one expert, without biases."""
        return self.mlp_matrices * hidden * self.mlp_width

    def params(self, hidden: float) -> float:
        """Return all parameters of the layer, including router and all experts."""
        dense = sum(
            inputs * outputs for block in (*self.blocks(hidden), self.kv_expansion) for inputs, outputs in block
        )
        return dense + self.num_experts * (self.expert_params(hidden) + hidden) + self.vectors


@dataclass(frozen=True)
class ServedModel:
    """Decoder with P streams. P = 1 is plain, unless there is a bank for it.

    `layers` has pairs (layer, number of such layers), in no particular order. Of several `banks`, pairs (P, prefix
    tokens), only the active one is counted, as if the model was saved with only that bank.
    """

    hidden_size: float
    vocab_size: float
    layers: tuple[tuple[Layer, float], ...]
    norm_params: float  # of norms outside the layers
    tied_embeddings: bool = True
    position_rows: int = 0  # learned position embeddings
    other_params: float = 0.0  # outside the decoder, for example vision; negative if layers share parameters
    other_embeddings: float = 0.0  # of further embedding tables
    head_bias: bool = False  # of the output embedding
    head_width: float | None = None  # input width of the output embedding, if not the hidden size
    P: int = 1
    prefix_tokens: int = PREFIX_TOKENS  # for a P without a bank
    aggregation: str = "dynamic"
    banks: tuple[tuple[int, int], ...] = ()
    name: str = "decoder"

    @property
    def num_layers(self) -> float:
        """Number of layers."""
        return sum(count for _, count in self.layers)

    @property
    def prefix_length(self) -> int:
        """Prefix tokens of each stream and layer; 0 if there are none."""
        return dict(self.banks).get(self.P, 0 if self.P == 1 else self.prefix_tokens)

    @property
    def prefix_params(self) -> float:
        """Parameters of the active prefixes."""
        kv = sum(layer.prefix_kv_width * count for layer, count in self.layers)
        return self.P * self.prefix_length * kv

    @property
    def aggregator_params(self) -> float:
        """Parameters of the active aggregator."""
        return AGGREGATIONS[self.aggregation].params(self.hidden_size, self.P) if self.P > 1 else 0  # type: ignore[arg-type]

    @property
    def stream_params(self) -> float:
        """Parameters of the active prefixes and aggregator."""
        return self.prefix_params + self.aggregator_params

    @property
    def backbone_params(self) -> float:
        """Parameters without embeddings and streams."""
        layers = sum(layer.params(self.hidden_size) * count for layer, count in self.layers)
        return layers + self.norm_params + self.other_params

    @property
    def head_params(self) -> float:
        """Parameters of the output embedding, which may be tied to the input's."""
        return self.vocab_size * (self.hidden_size if self.head_width is None else self.head_width)

    @property
    def embedding_params(self) -> float:
        """Parameters of all embeddings and the bias of the head."""
        held = self.head_params * (1 if self.tied_embeddings else 2) + self.position_rows * self.hidden_size
        return held + self.other_embeddings + (self.vocab_size if self.head_bias else 0)

    @property
    def n_params(self) -> float:
        """N as in the paper: all parameters of the decoder except embeddings."""
        return self.backbone_params - max(0.0, self.other_params) + self.stream_params

    @property
    def total_params(self) -> float:
        """All parameters, with the active streams."""
        return self.backbone_params + self.stream_params + self.embedding_params

    def with_streams(self, P: int) -> ServedModel:
        """Return the model with P streams."""
        return replace(self, P=P)

    def with_prefix(self, tokens: int | None) -> ServedModel:
        """Return the model with prefixes of this length for every P > 1, ignoring its banks; unchanged for None."""
        if tokens is None:
            return self
        if tokens < 0:
            raise UsageError("must be at least 0", argument="prefix_tokens", value=tokens)
        return replace(self, prefix_tokens=tokens, banks=())


def as_served(model: Architecture | ServedModel) -> ServedModel:
    """Convert an `Architecture` to a `ServedModel`; return a `ServedModel` unchanged."""
    if isinstance(model, ServedModel):
        return model
    h, kv = model.hidden_size, model.num_kv_heads * model.head_dim
    layer = Layer(
        heads=model.num_heads,
        kv_heads=model.num_kv_heads,
        head_dim=model.head_dim,
        mlp_width=model.intermediate_size,
        vectors=2 * h + (h + 2 * kv if model.qkv_bias and not model.num_experts else 0),
        num_experts=model.num_experts,
        experts_per_token=model.experts_per_token if model.num_experts else 0,
    )
    return ServedModel(
        hidden_size=h,
        vocab_size=model.vocab_size,
        layers=((layer, model.num_layers),),
        norm_params=h,
        tied_embeddings=model.tied_embeddings,
        P=model.P,
        prefix_tokens=model.prefix_tokens,
        aggregation=model.aggregation,
    )


def as_architecture(model: Architecture | ServedModel) -> Architecture:
    """Convert a model to an `Architecture` with the same matrices; biases may differ.

    Raises:
        NotPricedError: An `Architecture` cannot express the model; the message says why.
    """
    if isinstance(model, Architecture):
        return model
    if (reason := inexpressible(model)) is not None:
        raise NotPricedError(f"{model.name}: llm-analysis cannot price {reason}", "use `engine='roofline'`")
    layer = model.layers[0][0]
    return Architecture(
        hidden_size=int(model.hidden_size),
        intermediate_size=int(layer.mlp_width),
        num_layers=int(model.num_layers),
        num_heads=int(layer.heads),
        num_kv_heads=int(layer.kv_heads),
        vocab_size=int(model.vocab_size),
        P=model.P,
        prefix_tokens=model.prefix_length or model.prefix_tokens,
        tied_embeddings=model.tied_embeddings,
        aggregation=model.aggregation,
        num_experts=layer.num_experts,
        experts_per_token=layer.experts_per_token if layer.num_experts else EXPERTS_PER_TOKEN,
    )


def inexpressible(model: ServedModel) -> str | None:
    """Return what an `Architecture` cannot express of a model; None if there is nothing."""
    layer = model.layers[0][0]
    if len(model.layers) > 1:
        return "different kinds of layers"
    if layer.explicit_blocks:
        return "layers with other matrices than queries, keys, values, output and MLP"
    if layer.window is not None:
        return "sliding windows"
    if layer.mlp_matrices != 3:
        return "an MLP without a gate"
    if layer.shared_width or layer.shared_gate:
        return "shared experts"
    if layer.heads * layer.head_dim != model.hidden_size:
        return f"a head_dim of {layer.head_dim:g}, since hidden / heads is {model.hidden_size / layer.heads:g}"
    if layer.num_experts and layer.experts_per_token < 2:
        return "a single expert per token"
    return "a prefix at P = 1" if model.P == 1 and model.prefix_length else None
