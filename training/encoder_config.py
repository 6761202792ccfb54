"""What makes a text encoder, by the names of Hugging Face's config.json. Knows no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat

_Size = Annotated[int, Field(ge=1, le=2**24)]  # a larger one is no model's; torch would say so in its own words


class TextEncoderConfig(BaseModel):
    """What of a Hugging Face config.json makes the encoder, by its names there; its other keys change no vector."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", allow_inf_nan=False)

    model_type: Literal["bert"]
    vocab_size: _Size
    hidden_size: _Size
    num_hidden_layers: Annotated[int, Field(ge=1, le=1000)]  # as many are made before the tensors are looked at
    num_attention_heads: _Size
    intermediate_size: _Size
    max_position_embeddings: _Size
    type_vocab_size: _Size
    hidden_act: Literal["gelu"]
    layer_norm_eps: PositiveFloat = 1e-12
    position_embedding_type: Literal["absolute"] = "absolute"
    is_decoder: Literal[False] = False
