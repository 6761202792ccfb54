"""What makes a causal decoder of texts, by the names of Hugging Face's config.json. Knows no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, model_validator

from training.model_config import ModelConfig, choices

_Size = Annotated[int, Field(ge=1, le=2**24)]  # a larger one is no model's; torch would say so in its own words
PLACES = 4_096  # of a decoder that begins with drawn weights; rotary places cost nothing


class DecoderShape(BaseModel):
    """What of a Hugging Face config.json makes a decoder in Llama's layout, by its names there; its other keys change
    nothing that it computes."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", allow_inf_nan=False)

    model_type: Literal["llama"]
    vocab_size: _Size
    hidden_size: _Size
    intermediate_size: _Size
    num_hidden_layers: Annotated[int, Field(ge=1, le=1000)]
    num_attention_heads: _Size
    num_key_value_heads: _Size
    max_position_embeddings: _Size
    rms_norm_eps: PositiveFloat
    rope_theta: PositiveFloat
    eos_token_id: Annotated[int, Field(ge=0)]
    tie_word_embeddings: Literal[True]
    hidden_act: Literal["silu"] = "silu"
    attention_bias: Literal[False] = False
    mlp_bias: Literal[False] = False
    rope_scaling: None = None
    head_dim: _Size | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_any_version(cls, told: Any) -> Any:
        """Newer files say of the turns in `rope_parameters`, and several tokens that end a text: the first is taken."""
        if not isinstance(told, Mapping):
            return told
        held = dict(told)
        turns, ends = held.pop("rope_parameters", None), held.get("eos_token_id")
        if isinstance(turns, Mapping):
            held.setdefault("rope_theta", turns.get("rope_theta"))
            if turns.get("rope_type", "default") != "default":
                held["rope_scaling"] = dict(turns)
        if isinstance(ends, list) and ends:
            held["eos_token_id"] = ends[0]
        return held

    @model_validator(mode="after")
    def _whole_heads(self) -> Self:
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"hidden_size must be a multiple of 2 x num_attention_heads = {2 * self.num_attention_heads}; it is "
                f"{self.hidden_size}"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads must be a multiple of num_key_value_heads = {self.num_key_value_heads}; it is "
                f"{self.num_attention_heads}"
            )
        if self.head_dim not in (None, self.hidden_size // self.num_attention_heads):
            raise ValueError(
                f"head_dim must be hidden_size / num_attention_heads = {self.hidden_size // self.num_attention_heads}; "
                f"it is {self.head_dim}"
            )
        if self.eos_token_id >= self.vocab_size:
            raise ValueError(f"eos_token_id must be below vocab_size = {self.vocab_size}; it is {self.eos_token_id}")
        return self


class DecoderConfig(ModelConfig):
    """Hyper-parameters of the decoder of texts, training/models/decoder.py."""

    FIRST: ClassVar[frozenset[str]] = frozenset(
        {"tuned", "rank", "alpha", "dim", "layers", "heads", "groups", "inner", "decoder"}
    )
    READS: ClassVar[tuple[str, ...]] = ("record", "text")
    READS_BY: ClassVar[str] = "a task whose examples are texts of records"

    tuned: Literal["whole", "lora"] = Field(
        "whole",
        description="whole: all numbers of the decoder; lora: adapters on the attention's queries and values, where "
        "there are weights to start from",
    )
    rank: int = Field(8, ge=1, le=1_024, description="lora: width of an adapter", json_schema_extra=choices(4, 8, 16))
    alpha: float = Field(16.0, gt=0, le=1e6, description="lora: over `rank` the weight of what an adapter adds")
    dim: int = Field(128, ge=2, le=65_536, description="width of a token", json_schema_extra=choices(64, 128, 256))
    layers: int = Field(4, ge=1, le=1_000, description="blocks, one after the other", json_schema_extra=choices(2, 4))
    heads: int = Field(4, ge=1, le=1_024, description="of the attention; each is dim / heads wide, an even number")
    groups: int = Field(2, ge=1, le=1_024, description="of heads that share keys and values")
    inner: int = Field(384, ge=1, le=2**24, description="width of the gated network between attentions")
    decoder: DecoderShape | None = Field(
        None,
        description="what the decoder is, in place of dim, layers, heads, groups and inner; a training reads it from "
        "options.weights",
    )

    @model_validator(mode="after")
    def _even_heads(self) -> Self:
        if self.decoder is None:
            if self.dim % (2 * self.heads):
                raise ValueError(f"dim must be a multiple of 2 x heads = {2 * self.heads}; got {self.dim}")
            if self.heads % self.groups:
                raise ValueError(f"heads must be a multiple of groups = {self.groups}; got {self.heads}")
        return self

    def shape(self, vocabulary: int) -> DecoderShape:
        """What the decoder is; where there are no weights to start from, of a vocabulary whose token 0 ends a text."""
        return self.decoder or DecoderShape(
            model_type="llama",
            vocab_size=vocabulary,
            hidden_size=self.dim,
            intermediate_size=self.inner,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.groups,
            max_position_embeddings=PLACES,
            rms_norm_eps=1e-5,
            rope_theta=10_000.0,
            eos_token_id=0,
            tie_word_embeddings=True,
        )
