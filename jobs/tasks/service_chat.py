"""A bundle of service asked by a person in a terminal, or by a program: the replies that scoring gives, without Spark.

assistant = Assistant.load("out/service/run/bundles/text_classes-3f9c0a1b22d4", tables="out/service/tables")
turns, reply = assistant.reply((), "where is my order 123456?")
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.tasks.service_answers import known_answers
from jobs.tasks.service_options import ORDERS, TOKENS, VECTORS, ServiceOptions, options_of
from spark_udfs.dialogue import TURNS, Orders, Reply, Rules, Said, Turn, last_reply
from spark_udfs.fillings import Order
from spark_udfs.knowledge import Knowledge, Known
from spark_udfs.slots import ORDER_NUMBER
from spark_udfs.text_terms import RULES, terms
from training.errors import BundleError, DataError, NoTableError
from training.state.names import INTENTS
from training.state.text_weights import TOKENIZER

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from jobs.settings import Settings
    from training.batch import Batch
    from training.data.snapshot import Snapshot
    from training.models.base import Model
    from training.state.bundle import Bundle
    from training.state.text_tokens import Cutter

NO_ANSWERS = (
    "there is no table 'answers', so nothing is replied: name a file of intents and answers in sources.answers and run "
    "`millrace ingest`"
)


@dataclass(frozen=True)
class Assistant:
    """A bundle with the shop's answers and orders, opened by `load`.

    Attributes:
        model: the bundle's.
        intents: names by number.
        options: that it was trained with.
        rules: of its conversations.
        knowledge: the shop's answers; None: it has none, and what customers want is said alone.
        orders: an order's columns by its number; None: the shop has no table of them.
        vectors: of texts by a language model, where the bundle's model wants such.
        cutter: of texts into tokens, where it wants these.
    """

    model: Model
    intents: dict[int, str]
    options: ServiceOptions
    rules: Rules
    knowledge: Knowledge | None
    orders: Orders | None
    vectors: Callable[[list[str]], npt.NDArray[np.float32]] | None = None
    cutter: Cutter | None = None

    @classmethod
    def load(cls, bundle: str | Path, tables: str, ruled: ServiceOptions | None = None) -> Assistant:
        """Open a bundle and, if they are there, the tables `answers` and `orders`, at their newest versions.

        Args:
            bundle: its folder.
            tables: their root.
            ruled: whose rules of conversations hold; None: those that the bundle was trained with.

        Raises:
            BundleError: it is none, is torn, of another task, or learnt with other weights or rules than there are now.
            DataError: there are more answers than may be held.
            NoTableError: there are neither answers nor messages.
        """
        from training.state.bundle import load_bundle

        held = load_bundle(bundle)
        settings = held.provenance.get("settings", {})
        if INTENTS not in held.attachments or "options" not in settings:
            raise BundleError(
                f"bundle '{held.path}' must carry its intents' names and the settings that it was trained with; it has "
                f"{', '.join(held.attachments) or 'no attachments'}: name a bundle of the task service"
            )
        names = json.loads(held.attachment(INTENTS).read_text(encoding="utf-8"))
        options = ServiceOptions.model_validate(settings["options"])
        made_with = held.provenance.get("build", {}).get("inputs", {}).get("options", {})
        if made_with.get("rules_of_terms") != RULES:
            raise BundleError(
                f"bundle '{held.path}' learnt from terms by rules {made_with.get('rules_of_terms')}, and texts are "
                f"cut here by rules {RULES}: run `millrace build-examples` and `millrace train`"
            )
        model = held.model()
        cutter = _cutter(held, model, options)
        digest = made_with.get("weights_digest")
        return cls(
            model=model,
            intents={int(number): name for number, name in names.items()},
            options=options,
            rules=(ruled or options).rules,
            knowledge=_knowledge(tables, (ruled or options).most_answers),
            orders=_orders(tables),
            vectors=_encoder(options.weights, digest) if options.vectors and cutter is None else None,
            cutter=cutter,
        )

    def reply(self, turns: Sequence[Turn], text: str) -> tuple[tuple[Turn, ...], Reply]:
        """One message and its reply.

        Args:
            turns: the conversation so far; what is given back is that of the next message.
            text: the message.

        Raises:
            DataError: the shop has no answers.
        """
        if self.knowledge is None:
            raise DataError(NO_ANSWERS)
        own = (*turns, Turn(text, self.said(text)))[-TURNS:]
        return own, last_reply(own, self.knowledge, self.orders and cache(self.orders), self.rules)

    def said(self, text: str) -> Said:
        """What the model says of a message."""
        import torch

        from training.batch import Ragged

        held = torch.tensor(terms(text, self.options.words_kept, self.options.terms), dtype=torch.int64)
        batch: Batch = {"terms": Ragged(held, torch.tensor([0, len(held)]))}
        if self.vectors is not None:
            batch[VECTORS] = torch.from_numpy(self.vectors([text]))
        if self.cutter is not None:
            tokens, lengths = self.cutter.tokens([text])
            batch[TOKENS] = Ragged(torch.from_numpy(tokens), torch.tensor([0, int(lengths[0])]))
        with torch.no_grad():
            found = self.model.predict(batch)
        name = self.intents.get(int(found["intent"]), "")
        return Said(name, float(found["p"]), bool(found["in_scope"]))


def talk(
    bundle: str, tables: str, messages: Iterable[str], say: Callable[[str], None], settings: Settings | None = None
) -> None:
    """Reply to messages, one after the other, until they end.

    What is said names the rows that a reply is made of; of a hand-over, what the person gets to see.

    Args:
        bundle: its folder.
        tables: root of `answers` and `orders`.
        messages: a customer's.
        say: what takes a line.
        settings: whose rules hold; None: those that the bundle was trained with.
    """
    assistant = Assistant.load(bundle, tables, None if settings is None else options_of(settings))
    if assistant.knowledge is None:
        say(f"{NO_ANSWERS}; here is what customers want")
        for text in messages:
            found = assistant.said(text)
            say(f"{found.intent} ({found.p:.0%}){'' if found.in_scope else ', out of scope'}")
        return
    say(f"rules of {'the bundle (--settings takes those of a file)' if settings is None else 'the settings'}")
    turns: tuple[Turn, ...] = ()
    for text in messages:
        turns, reply = assistant.reply(turns, text)
        say(reply.text)
        if reply.used:
            say("  from " + ", ".join(f"{table} {row}" for table, row in reply.used))
        if reply.summary:
            say(f"  to the colleague: {reply.summary}")


def _encoder(weights: str | None, digest: str | None) -> Callable[[list[str]], npt.NDArray[np.float32]]:
    """Vectors of texts by the weights that the bundle learnt with.

    Raises:
        BundleError: the weights are others now.
    """
    from training.state.text_encoder import load_encoder
    from training.state.text_weights import weights_folder

    folder = weights_folder(weights)
    encoder = load_encoder(folder)
    if encoder.digest != digest:
        raise BundleError(
            f"the weights in '{folder}' must be those that the bundle learnt with, {digest}; they are "
            f"{encoder.digest}: put them back, or run `millrace build-examples` and `millrace train`"
        )
    return encoder.vectors


def _cutter(bundle: Bundle, model: Model, options: ServiceOptions) -> Cutter | None:
    """What cuts texts as a bundle learnt them, by the tokenizer that goes with it; None: it learnt no tokens."""
    from training.models.tuned_text_classes import TunedTextClasses
    from training.state.text_tokens import open_tokenizer

    if not isinstance(model, TunedTextClasses):
        return None
    file, encoder = bundle.attachment(TOKENIZER), model.config.encoder
    assert encoder is not None  # the model was built from it
    return open_tokenizer(str(file), file.read_bytes(), encoder, options.tokens_kept)


def _knowledge(root: str, most: int) -> Knowledge | None:
    try:
        held = _open(root, "answers")
    except NoTableError:
        _open(root, "messages")  # that the root is right
        return None
    return Knowledge(_answers(held, most))


def _answers(held: Snapshot, most: int) -> list[Known]:
    from training.data.snapshot import read_table

    table = read_table(held)
    own = table["answer_id"].to_pylist() if "answer_id" in table.column_names else [None] * table.num_rows
    return known_answers(zip(own, table["intent"].to_pylist(), table["answer"].to_pylist(), strict=True), most)


def _orders(root: str) -> Orders | None:
    try:
        held = _open(root, "orders")
    except NoTableError:
        return None
    return partial(_order, held)


def _order(orders: Snapshot, number: str) -> Order | None:
    """As scoring has it: of a number that stands twice, in rows that differ, the number alone."""
    from training.data.snapshot import read_rows

    found = read_rows(orders, ORDER_NUMBER, [number], list(ORDERS)).to_pylist()
    rows = {tuple(row[name] or None for name in ORDERS) for row in found}
    if len(rows) != 1:
        return {ORDER_NUMBER: number} if rows else None
    return {name: value for name, value in zip(ORDERS, rows.pop(), strict=True) if value}


def _open(root: str, table: str) -> Snapshot:
    from training.data.snapshot import open_snapshot

    return open_snapshot(f"{root.rstrip('/')}/{table}")
