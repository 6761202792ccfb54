"""Texts in classes: which intent a message has, how sure that is, and whether it has one of these at all.

    text    = sum of the vectors of its terms / sqrt(terms)  [+ W v, where texts have vectors v of their own]
    logit_c = b_c + class_c . text                           class 0: none of the classes
    p_c     = softmax over the classes 1, 2, ... of logit / temperature
    scope   = log sum exp of the classes' logits - logit_0

Class 0 learns from texts that are none of the classes', where there are such, and always from mixtures of two texts of
different classes (Zhan et al., "Out-of-scope intent detection with self-supervision and discriminative training",
2021): what lies between the classes belongs to none. So `scope` is the log-odds that a text is one of the classes', and
no more certain where one class only beats the others. Vectors of terms begin at zero: one that was never learnt says
nothing, and takes its share of the length. A text of which nothing says anything is never in scope; nor is one of whose
terms two thirds were never learnt, where terms are all that is known of it: the others are pieces of words, and numbers
that other terms have too. Where texts have vectors of their own, the terms would say all that training needs: of a
share of the texts they are left out in a step, so that what is said in other words is learnt as well.

With `learn: new` a bundle's classes stay, and so does all that it says of a text: a new class alone gets its vector and
its bias, against all others' logits. An old class can lose texts to it, and nothing else can change.

Shape suffixes: B texts, D dim, C classes, class 0 among them.
"""

from __future__ import annotations

from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.batch import Batch, Ragged
from training.class_configs import TextClassesConfig
from training.configs import ModelConfig
from training.errors import SchemaError, SettingsError
from training.models.base import Model
from training.models.draws import dropped, uniform
from training.schema import Column, Kind, Schema
from training.tables.sharded import Tables, look_up

NONE = 0  # the class of what is in none of the others
LEAST_LEARNT = 1 / 3  # of a text's terms
BETWEEN = (0.3, 0.7)  # shares of one of two texts in a mixture


class TextClasses(Model):
    """A model of texts. Reads `terms`, numbers of a text's terms, a fixed list of numbers where the schema has one, and
    one label, a class's number.

    Attributes:
        temperature: () logits are divided by it; kept with the weights, set by `calibrated_by`.
        threshold: () of the log-odds `scope`: from there on a text is one of the classes'.

    Raises:
        SchemaError: the schema has not one label with a vocabulary of at least one class, or several lists of numbers.
    """

    Config: ClassVar[type[ModelConfig]] = TextClassesConfig
    COMPILED: ClassVar[tuple[str, ...]] = ()  # its draws break a graph, and it is small

    config: TextClassesConfig
    temperature: Tensor
    threshold: Tensor

    def __init__(self, config: ModelConfig, schema: Schema, tables: Tables | None = None) -> None:
        super().__init__(config, schema, tables)
        label, width = label_of(schema), self._own_width(schema)
        self.label, self._has_own = label.name, width > 0
        dim, self.count = self.config.dim, cast("int", label.size)
        self.terms = self.table("terms", cast("int", schema["terms"].size), dim, padding_idx=0)
        self.classes = self.table("classes", self.count, dim, std=dim**-0.5)
        self.biases = self.table("biases", self.count, 1)
        if width:
            self.from_given = nn.Linear(width, dim, bias=False)
        self.register_buffer("temperature", torch.ones(()))
        self.register_buffer("threshold", torch.zeros(()))
        self.first_new = self._first_new()
        if self.first_new:
            self._keep_all_but_classes()

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        drawn = generator if self.training else None
        label_B, text_BD, classes = self.labels(batch), self._texts(batch, drawn), self._classes()
        weight_B = torch.where(label_B >= self.first_new, self.config.new_weight, 1.0) if self.first_new else None
        loss = self._loss(_logits(text_BD, *classes), label_B, weight_B)
        weight = loss.new_tensor(float(len(label_B))) if weight_B is None else weight_B.sum()
        if drawn is None or not self.config.mixed:
            return loss, weight
        mixed_BD = _mixtures(text_BD, label_B, drawn)
        none_B = label_B.new_full((len(mixed_BD),), NONE)
        more = self._loss(_logits(mixed_BD, *classes), none_B)
        return loss + self.config.mixed * more, weight + self.config.mixed * len(mixed_BD)

    def _loss(self, logits_BC: Tensor, label_B: Tensor, weight_B: Tensor | None = None) -> Tensor:
        if weight_B is None:
            return F.cross_entropy(logits_BC, label_B, reduction="sum", label_smoothing=self.config.smoothing)
        loss_B = F.cross_entropy(logits_BC, label_B, reduction="none", label_smoothing=self.config.smoothing)
        return (loss_B * weight_B).sum()

    def labels(self, batch: Batch) -> Tensor:
        """(B,) int64 the classes of texts; one that the vocabulary has not is NONE."""
        label_B = cast("Tensor", batch[self.label]).long()
        return torch.where((label_B > 0) & (label_B < self.count), label_B, NONE)

    def logits(self, batch: Batch) -> Tensor:
        """(B, C) float32, before the temperature."""
        return _logits(self._texts(batch, None), *self._classes())

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """`intent`, the number of the likeliest class, none aside; `p`, its probability among the classes; `scope`, the
        log-odds that it is one of them at all, and `in_scope`, 1 where these reach the threshold and the text has said
        something: (B,) each."""
        sums_BD, learnt_B = self._terms(batch)
        text_BD = self._whole(batch, sums_BD, None)
        logits_BC = _logits(text_BD, *self._classes())
        p_B, best_B = torch.softmax(logits_BC[:, 1:] / self.temperature, dim=1).max(dim=1)
        scope_B = scope(logits_BC)
        return {
            "intent": (best_B + 1).float(),
            "p": p_B,
            "scope": scope_B,
            "in_scope": ((scope_B >= self.threshold) & self._says(batch, text_BD, learnt_B)).float(),
        }

    def _says(self, batch: Batch, text_BD: Tensor, learnt_B: Tensor) -> Tensor:
        """(B,) whether a text has a term at all, and enough that were learnt, or one or a vector of its own where texts
        have such."""
        has_terms_B = cast("Ragged", batch["terms"]).offsets.diff() > 0
        enough_B = (text_BD != 0).any(dim=1) if self._has_own else learnt_B >= LEAST_LEARNT
        return has_terms_B.to(text_BD.device) & enough_B

    def _classes(self) -> tuple[Tensor, Tensor]:
        """(C, D) and (C, 1)."""
        every = torch.arange(self.count, device=self.temperature.device)
        if not self.first_new:
            classes_CD, bias_C1 = look_up((self.classes, every), (self.biases, every))
            return classes_CD, bias_C1
        old, new = every[: self.first_new], every[self.first_new :]
        with torch.no_grad():
            kept = look_up((self.classes, old), (self.biases, old))
        learning = look_up((self.classes, new), (self.biases, new))
        classes_CD, bias_C1 = (torch.cat(both) for both in zip(kept, learning, strict=True))
        return classes_CD, bias_C1

    def _first_new(self) -> int:
        """The number of the first class that is learnt beside others that stay; 0: all are learnt."""
        if self.config.learn == "all":
            return 0
        if self.config.learnt is None:
            raise SettingsError("model.learn=new needs a bundle whose classes stay: set training.start_from")
        if self.config.learnt >= self.count:
            raise SettingsError(
                f"model.learn=new needs a class that the bundle of training.start_from has not; it has all "
                f"{self.count - 1} of the examples: build with messages of a new one, or set model.learn=all"
            )
        return self.config.learnt

    def _keep_all_but_classes(self) -> None:
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name.startswith(("classes.", "biases.")))

    def _texts(self, batch: Batch, drawn: torch.Generator | None) -> Tensor:
        """(B, D)"""
        return self._whole(batch, self._terms(batch)[0], drawn)

    def _terms(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(B, D) what the terms of texts say, and (B,) the share of them that were learnt: zeros were not."""
        terms = cast("Ragged", batch["terms"])
        vectors_ND = look_up((self.terms, terms.values))[0]
        lengths_B = terms.offsets.diff()
        row_N = torch.repeat_interleave(lengths_B)
        sums_BD = vectors_ND.new_zeros(len(lengths_B), self.config.dim).index_add(0, row_N, vectors_ND)
        is_learnt_N = (vectors_ND != 0).any(dim=1).float()
        learnt_B = is_learnt_N.new_zeros(len(lengths_B)).index_add(0, row_N, is_learnt_N)
        length_B = lengths_B.clamp(min=1)
        return sums_BD * length_B.rsqrt()[:, None], learnt_B / length_B

    def _whole(self, batch: Batch, text_BD: Tensor, drawn: torch.Generator | None) -> Tensor:
        """(B, D) with what texts' own vectors say."""
        if self._has_own:
            if drawn is not None:
                kept_B = uniform(text_BD.shape[:1], drawn, text_BD.device) >= self.config.terms_dropped
                text_BD = text_BD * kept_B[:, None]
            text_BD = text_BD + self.from_given(self._own(batch))
        return dropped(text_BD, self.config.dropout, drawn)

    def _own_width(self, schema: Schema) -> int:
        """How many numbers texts' own vectors have; 0: they have none."""
        given = _given(schema)
        return 0 if given is None else cast("int", given.length)

    def _own(self, batch: Batch) -> Tensor:
        """(B, width) texts' own vectors."""
        given = _given(self.schema)
        assert given is not None
        return cast("Tensor", batch[given.name])


def scope(logits_BC: Tensor) -> Tensor:
    """(B,) the log-odds of the classes together against none of them."""
    return torch.logsumexp(logits_BC[:, 1:], dim=1) - logits_BC[:, NONE]


def _logits(text_BD: Tensor, classes_CD: Tensor, bias_C1: Tensor) -> Tensor:
    return (text_BD @ classes_CD.T).float() + bias_C1.float().squeeze(1)


def _mixtures(text_BD: Tensor, label_B: Tensor, drawn: torch.Generator) -> Tensor:
    """Mixtures of each text with another one of the batch, of those pairs that are of two classes."""
    other_B = torch.argsort(uniform(label_B.shape, drawn, label_B.device))
    low, high = BETWEEN
    share_B1 = low + (high - low) * uniform(label_B.shape, drawn, label_B.device)[:, None]
    apart_B = (label_B != label_B[other_B]) & (label_B != NONE) & (label_B[other_B] != NONE)
    return (share_B1 * text_BD + (1 - share_B1) * text_BD[other_B])[apart_B]


def label_of(schema: Schema) -> Column:
    """The one label of texts in classes, whose size counts the class of none too.

    Raises:
        SchemaError: there is none, or it has no vocabulary of at least one class.
    """
    labels = [column for column in schema if column.kind is Kind.LABEL]
    if len(labels) != 1 or labels[0].length is not None or (labels[0].size or 0) < 2:
        found = [f"{label.name} of {label.size or 0} numbers" for label in labels]
        raise SchemaError(
            "text_classes needs one label, a number of a vocabulary of two at least, none of them included; the schema "
            f"has the labels {found}; take another model, or examples of at least one class"
        )
    return labels[0]


def _given(schema: Schema) -> Column | None:
    lists = [column for column in schema if column.kind is Kind.DENSE]
    if len(lists) > 1 or any(column.length is None for column in lists):
        raise SchemaError(
            "text_classes takes one fixed list of numbers at most; the schema has the numbers "
            f"{[column.name for column in lists]}; leave out the others"
        )
    return lists[0] if lists else None
