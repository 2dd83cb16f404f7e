"""Served models as prices need them: widths, heads, windows, experts and streams of any decoder.

Made from an `Architecture` (`as_served`) or from a Hugging Face config (`scalelab.cost.families`).
Widths may be real numbers: the plain model of equal loss rarely has whole ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from scalelab.aggregation import AGGREGATIONS
from scalelab.architecture import PREFIX_TOKENS, Architecture
from scalelab.errors import NotPricedError, UsageError

# (inputs, outputs) of matrices that follow each other, the last giving the block's update.
Block = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Layer:
    """One decoder layer of a model of width h.

    Where keys are wider than values, or fewer than heads would say, `head_dim` is the mean of both: no price
    hangs on more than heads and KV heads times it.
    """

    heads: float  # 0: no attention
    kv_heads: float
    head_dim: float
    mlp_width: float  # of one expert where there are any
    mlp_matrices: int = 3  # gate, up and down; 2 without a gate
    vectors: float = 0.0  # parameters of norms and biases
    window: int | None = None  # keys a query sees, its own among them; None: all
    num_experts: int = 0
    experts_per_token: int = 0
    shared_width: float = 0.0  # of the MLP that every token goes through beside its experts
    shared_gate: bool = False  # whether a matrix from h to 1 weighs it
    explicit_blocks: tuple[Block, ...] = ()  # all matrices but router and experts, where they are not the usual ones
    kv_expansion: Block = ()  # matrices that make keys and values of what is kept: anew for all tokens in each pass
    cached_numbers: float | None = (
        None  # numbers kept of a token where it is not its keys and values: a latent, or none
    )
    prefix_width: float | None = None  # keys and values of a prefix token, where a token's are not as wide
    query_width: float | None = None  # of all heads, where keys stand for several tokens and `heads` for a part of one
    state: float = 0.0  # numbers kept of a sequence however long it is
    mixing_flops: float = 0.0  # a token's, of products without a weight that do not hang on the length

    def blocks(self, hidden: float) -> tuple[Block, ...]:
        """Matrices that every new token goes through, attention's first; router and experts left out."""
        if self.explicit_blocks:
            return self.explicit_blocks
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        widths = (self.shared_width, 0 if self.num_experts else self.mlp_width)
        mlps = [((hidden, (self.mlp_matrices - 1) * width), (width, hidden)) for width in widths if width]
        gate = [((hidden, 1.0),)] if self.shared_gate else []
        return (((hidden, q + 2 * kv), (q, hidden)), *mlps, *gate)

    @property
    def kv_width(self) -> float:
        """Keys and values of a token."""
        return 2 * self.kv_heads * self.head_dim

    @property
    def prefix_kv_width(self) -> float:
        """Keys and values of a prefix token."""
        return self.kv_width if self.prefix_width is None else self.prefix_width

    @property
    def queries(self) -> float:
        """Numbers of a token's queries, and of what attention gives."""
        return self.heads * self.head_dim if self.query_width is None else self.query_width

    @property
    def cache_width(self) -> float:
        """Numbers that a token adds to the cache."""
        return self.kv_width if self.cached_numbers is None else self.cached_numbers

    def expert_params(self, hidden: float) -> float:
        """One MLP, without biases."""
        return self.mlp_matrices * hidden * self.mlp_width

    def params(self, hidden: float) -> float:
        """All parameters, the router's and all experts' included."""
        dense = sum(
            inputs * outputs for block in (*self.blocks(hidden), self.kv_expansion) for inputs, outputs in block
        )
        return dense + self.num_experts * (self.expert_params(hidden) + hidden) + self.vectors


@dataclass(frozen=True)
class ServedModel:
    """A decoder with P streams. P = 1 is plain, unless there is a bank for it.

    `layers` holds (layer, how many of them a token goes through), in no order. Of several `banks` (P, prefix
    tokens) only that of the P in use is counted: serve a model saved with that one.
    """

    hidden_size: float
    vocab_size: float
    layers: tuple[tuple[Layer, float], ...]
    norm_params: float  # of the last norm
    tied_embeddings: bool = True
    position_rows: int = 0  # learned position embeddings
    other_params: float = 0.0  # of no layer above, such as of what sees; negative where layers share theirs
    other_embeddings: float = 0.0  # of tables besides
    head_bias: bool = False  # of the output embedding
    head_width: float | None = None  # of what the output embedding reads, where it is not the model's width
    P: int = 1
    prefix_tokens: int = PREFIX_TOKENS  # where no bank says otherwise
    aggregation: str = "dynamic"
    banks: tuple[tuple[int, int], ...] = ()
    name: str = "decoder"

    @property
    def num_layers(self) -> float:
        return sum(count for _, count in self.layers)

    @property
    def prefix_length(self) -> int:
        """Prefix tokens of each stream and layer; 0 where there are none."""
        return dict(self.banks).get(self.P, 0 if self.P == 1 else self.prefix_tokens)

    @property
    def prefix_params(self) -> float:
        kv = sum(layer.prefix_kv_width * count for layer, count in self.layers)
        return self.P * self.prefix_length * kv

    @property
    def aggregator_params(self) -> float:
        return AGGREGATIONS[self.aggregation].params(self.hidden_size, self.P) if self.P > 1 else 0  # type: ignore[arg-type]

    @property
    def stream_params(self) -> float:
        return self.prefix_params + self.aggregator_params

    @property
    def backbone_params(self) -> float:
        layers = sum(layer.params(self.hidden_size) * count for layer, count in self.layers)
        return layers + self.norm_params + self.other_params

    @property
    def head_params(self) -> float:
        """Parameters of the output embedding, which may be the input's."""
        return self.vocab_size * (self.hidden_size if self.head_width is None else self.head_width)

    @property
    def embedding_params(self) -> float:
        held = self.head_params * (1 if self.tied_embeddings else 2) + self.position_rows * self.hidden_size
        return held + self.other_embeddings + (self.vocab_size if self.head_bias else 0)

    @property
    def n_params(self) -> float:
        """The paper's N: everything but the embeddings, and but what is held beside the decoder."""
        return self.backbone_params - max(0.0, self.other_params) + self.stream_params

    @property
    def total_params(self) -> float:
        return self.backbone_params + self.stream_params + self.embedding_params

    def with_streams(self, P: int) -> ServedModel:
        return replace(self, P=P)

    def with_prefix(self, tokens: int | None) -> ServedModel:
        """Return the model with prefixes of that length for every P > 1, whatever banks it has; as it is for None."""
        if tokens is None:
            return self
        if tokens < 0:
            raise UsageError(f"prefix_tokens must not be negative, not {tokens}")
        return replace(self, prefix_tokens=tokens, banks=())


def as_served(model: Architecture | ServedModel) -> ServedModel:
    """`model` in the shape that prices need."""
    if isinstance(model, ServedModel):
        return model
    h, kv = model.hidden_size, model.num_kv_heads * model.head_dim
    layer = Layer(
        heads=model.num_heads,
        kv_heads=model.num_kv_heads,
        head_dim=model.head_dim,
        mlp_width=model.intermediate_size,
        vectors=2 * h + (0 if model.num_experts else h + 2 * kv),  # experts come without the QKV biases
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
    """The `Architecture` of the same matrices, for engines that know nothing else; biases may differ.

    Raises `UsageError` naming what it cannot hold.
    """
    if isinstance(model, Architecture):
        return model
    layer = model.layers[0][0]
    reason = None
    if len(model.layers) > 1:
        reason = "layers that differ"
    elif layer.explicit_blocks:
        reason = "layers of other matrices than queries, keys, values, output and MLP"
    elif layer.window is not None:
        reason = "sliding windows"
    elif layer.mlp_matrices != 3:
        reason = "an MLP without a gate"
    elif layer.shared_width or layer.shared_gate:
        reason = "shared experts, which every token goes through"
    elif layer.heads * layer.head_dim != model.hidden_size:
        reason = f"a head_dim of {layer.head_dim:g} where hidden / heads is {model.hidden_size / layer.heads:g}"
    elif layer.num_experts and layer.experts_per_token < 2:
        reason = "experts of which a token goes to a single one"
    elif model.P == 1 and model.prefix_length:
        reason = "a prefix at P = 1"
    if reason is not None:
        raise NotPricedError(f"{model.name}: llm-analysis cannot hold {reason}", "use `engine='roofline'`")
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
        **({"experts_per_token": layer.experts_per_token} if layer.num_experts else {}),
    )
