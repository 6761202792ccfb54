"""A bundle of service asked by a person in a terminal, or by a program: the replies that scoring gives, without Spark.

assistant = Assistant.load("out/service/run/bundles/text_classes-3f9c0a1b22d4", tables="out/service/tables")
state, reply = assistant.reply(State(), "where is my order 123456?")
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.tasks.service_options import ORDERS, VECTORS, ServiceOptions
from spark_udfs.dialogue import Order, Reply, Rules, Said, State, turn
from spark_udfs.knowledge import Knowledge, Known, id_of
from spark_udfs.slots import ORDER_NUMBER
from spark_udfs.text_terms import terms
from training.errors import BundleError, NoTableError
from training.state.names import INTENTS

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from training.batch import Batch
    from training.data.snapshot import Snapshot
    from training.models.base import Model


@dataclass(frozen=True)
class Assistant:
    """A bundle with the shop's answers and orders, opened by `load`.

    Attributes:
        model: the bundle's.
        intents: names by number.
        options: that it was trained with.
        rules: of its conversations.
        knowledge: the shop's answers.
        orders: an order's columns by its number.
        vectors: of texts by a language model, where the bundle's model wants such.
    """

    model: Model
    intents: dict[int, str]
    options: ServiceOptions
    rules: Rules
    knowledge: Knowledge
    orders: Callable[[str], Order | None]
    vectors: Callable[[list[str]], npt.NDArray[np.float32]] | None = None

    @classmethod
    def load(cls, bundle: str | Path, tables: str) -> Assistant:
        """Open a bundle and the tables `answers` and, if it is there, `orders`, at their newest versions.

        Args:
            bundle: its folder.
            tables: their root.

        Raises:
            BundleError: it is none, or is torn, or of another task.
            NoTableError: there is no table `answers`.
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
        model = held.model()
        return cls(
            model=model,
            intents={int(number): name for number, name in names.items()},
            options=options,
            rules=options.rules,
            knowledge=Knowledge(_answers(tables)),
            orders=_orders(tables),
            vectors=_encoder(options.weights) if options.vectors else None,
        )

    def reply(self, state: State, text: str) -> tuple[State, Reply]:
        """One message and its reply."""
        return turn(state, text, self.said(text), self.knowledge, self.orders, self.rules)

    def said(self, text: str) -> Said:
        """What the model says of a message."""
        import torch

        from training.batch import Ragged

        held = torch.tensor(terms(text, self.options.words_kept, self.options.terms), dtype=torch.int64)
        batch: Batch = {"terms": Ragged(held, torch.tensor([0, len(held)]))}
        if self.vectors is not None:
            batch[VECTORS] = torch.from_numpy(self.vectors([text]))
        with torch.no_grad():
            found = self.model.predict(batch)
        name = self.intents.get(int(found["intent"]), "")
        return Said(name, float(found["p"]), bool(found["in_scope"]))


def talk(bundle: str, tables: str, messages: Iterable[str], say: Callable[[str], None]) -> None:
    """Reply to messages, one after the other, until they end.

    What is said names the rows that a reply is made of; of a hand-over, what the person gets to see.
    """
    assistant, state = Assistant.load(bundle, tables), State()
    for text in messages:
        state, reply = assistant.reply(state, text)
        say(reply.text)
        if reply.used:
            say("  from " + ", ".join(f"{table} {row}" for table, row in reply.used))
        if reply.summary:
            say(f"  to the colleague: {reply.summary}")


def _encoder(weights: str | None) -> Callable[[list[str]], npt.NDArray[np.float32]]:
    from training.state.text_encoder import load_encoder
    from training.state.text_weights import weights_folder

    return load_encoder(weights_folder(weights)).vectors


def _answers(root: str) -> list[Known]:
    from training.data.snapshot import read_table

    held = read_table(_open(root, "answers")).to_pylist()
    rows = {(row.get("answer_id") or id_of(row["intent"], row["answer"]), row["intent"], row["answer"]) for row in held}
    return sorted(Known(*row) for row in rows)


def _orders(root: str) -> Callable[[str], Order | None]:
    try:
        held = _open(root, "orders")
    except NoTableError:
        return lambda _: None
    return partial(_order, held)


def _order(orders: Snapshot, number: str) -> dict[str, Any] | None:
    from training.data.snapshot import read_rows

    found = read_rows(orders, ORDER_NUMBER, [number], list(ORDERS)).to_pylist()
    return {name: max((row[name] for row in found if row[name]), default=None) for name in ORDERS} if found else None


def _open(root: str, table: str) -> Snapshot:
    from training.data.snapshot import open_snapshot

    return open_snapshot(f"{root.rstrip('/')}/{table}")
