"""Which intent a message has, in five folds, on messages in keywords, and by ten examples of each: the pipeline's model
and settings (jobs/pipelines/service.yaml) through loader and trainer on one rank, against TF-IDF.

    python benchmarks/service_folds.py customer_support.csv.gz [options.vectors=384 model.mixed=1 ...]
    python benchmarks/service_folds.py customer_support.csv.gz only=in_keywords,by_ten model.name=tuned_text_classes \
        options.tokens_kept=64 training.learning_rate=0.003 training.epochs=8

Folds are drawn by a hash of the masked text, so that messages that differ in a number alone lie in one. Of the other
four a tenth, by the hash too, is kept for temperature and threshold, as the pipeline keeps validation days. Beside the
folds: messages in keywords alone (those with a K among `tags`), learnt from the others; ten messages of each intent,
tested on all others; and six intents that nobody has learnt, told from the others by what is in scope. `only` names
those of in_folds, first_fold, in_keywords, by_ten and unheard_auc that are measured, of the pipeline's model alone.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from _train import report

import numpy as np  # isort: skip  after _train has set the number of threads
import pandas as pd
import pyarrow as pa
import torch
from deltalake import write_deltalake
from numpy.typing import NDArray
from run import NOTHING_MEASURED
from torch import nn

from jobs.settings import Settings, load_settings
from jobs.tasks.service import schema
from jobs.tasks.service_options import options_of
from jobs.tasks.tuned_encoder import Tuned
from spark_udfs.answers import to_batch
from spark_udfs.baselines.nearest_text import nearest, texts_of
from spark_udfs.text_terms import masked, pieces, terms, tokens
from training.data.loader import Loader
from training.data.snapshot import open_snapshot
from training.fit import fit
from training.models.text_classes import TextClasses
from training.settings import FitSettings
from training.state.text_config import config_of
from training.state.text_encoder import load_encoder, read_start
from training.state.text_tokens import open_tokenizer
from training.state.text_weights import TOKENIZER, weights_folder
from training.tables.sharded import Tables
from training.world import World

GOAL, FOLDS, SHOTS, UNHEARD = 0.99, 5, 10, 6
PIPELINE = Path(__file__).resolve().parents[1] / "jobs" / "pipelines" / "service.yaml"
STEPS_OF_FEW = 40  # epochs of ten messages an intent
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Answer = Callable[[pd.DataFrame, pd.DataFrame], tuple[Ints, Floats, Floats]]


def messages(path: str, settings: Settings) -> pd.DataFrame:
    """Rows: text, intent, label, tags, `drawn` (from 0 to 1 by the masked text), terms and, where they are asked
    for, vectors and tokens."""
    columns, options = settings.sources["messages"].columns, options_of(settings)
    rows = pd.read_csv(path, dtype=str).rename(columns={theirs: ours for ours, theirs in columns.items()})
    names = sorted(rows["intent"].unique())
    alike = [" ".join(masked(text).lower().split()) for text in rows["text"]]
    if options.vectors:
        rows = rows.assign(vectors=list(load_encoder(weights_folder(options.weights)).vectors(rows["text"].tolist())))
    if options.tokens_kept:
        rows = rows.assign(tokens=_tokens(rows["text"].tolist(), weights_folder(options.weights), options.tokens_kept))
    return rows.assign(
        label=rows["intent"].map({name: n + 1 for n, name in enumerate(names)}).astype(np.int64),
        drawn=[int(hashlib.sha256(text.encode()).hexdigest()[:13], 16) / 16**13 for text in alike],
        terms=[terms(text, options.words_kept, options.terms) for text in rows["text"]],
    )


def _tokens(texts: list[str], folder: Path, most: int) -> list[Ints]:
    file = folder / TOKENIZER
    tokens, lengths = open_tokenizer(str(file), file.read_bytes(), config_of(folder), most).tokens(texts)
    return np.split(tokens, np.cumsum(lengths)[:-1])


def ours(settings: Settings, epochs: int | None = None) -> Answer:
    """Class, confidence and scope by the pipeline's model, learnt anew."""
    given = settings.training.model_dump()
    training = FitSettings(
        **{name: given[name] for name in FitSettings.model_fields} | ({"epochs": epochs} if epochs else {})
    )

    options = options_of(settings)
    is_tuned = settings.model["name"] == "tuned_text_classes"
    tuned = Tuned(read_start(weights_folder(options.weights)) if is_tuned else None)

    def answer(learnt: pd.DataFrame, asked: pd.DataFrame) -> tuple[Ints, Floats, Floats]:
        columns = schema({"intents": int(learnt["label"].max()) + 1}, settings)
        torch.manual_seed(training.seed)
        model = tuned.model(tuned.told({"model": settings.model}), columns, Tables())
        assert isinstance(model, TextClasses)
        with tempfile.TemporaryDirectory() as folder:
            write_deltalake(folder, table_of(learnt))
            with Loader(open_snapshot(folder), columns, batch_size=training.batch_size, seed=training.seed) as loader:
                fit(model, loader, training, world=World())
        return answered(model, asked)

    return answer


def answered(model: TextClasses, asked: pd.DataFrame) -> tuple[Ints, Floats, Floats]:
    """Class, confidence and scope of messages."""
    wanted = [column for column in model.schema if column.name not in ("label", "time")]
    batch = to_batch(table_of(asked).combine_chunks().to_batches()[0], wanted)
    with torch.no_grad():
        found = model.eval().predict(batch)
    return found["intent"].long().numpy(), found["p"].double().numpy(), found["scope"].double().numpy()


def table_of(rows: pd.DataFrame) -> pa.Table:
    """Messages as the loader reads them."""
    times = pa.array(np.zeros(len(rows), np.int64), pa.timestamp("us", tz="UTC"))
    held = {"terms": pa.array(list(rows["terms"]), pa.list_(pa.int64())), "time": times}
    if "vectors" in rows:
        held["vectors"] = pa.array(list(rows["vectors"]), pa.list_(pa.float32()))
    if "tokens" in rows:
        held["tokens"] = pa.array(list(rows["tokens"]), pa.list_(pa.int64()))
    return pa.table(held | {"label": pa.array(rows["label"].to_numpy(np.float32))})


def nearest_by(parts: Callable[[str], list[str]]) -> Answer:
    """The class of the nearest message by TF-IDF of some parts."""

    def answer(learnt: pd.DataFrame, asked: pd.DataFrame) -> tuple[Ints, Floats, Floats]:
        held, others, count = _numbered(parts, learnt, asked)
        texts = texts_of(held, learnt["label"].tolist(), count)
        flat = np.asarray([term for one in others for term in one], np.int64)
        offsets = np.concatenate([[0], np.cumsum([len(one) for one in others])])
        label, inside, outside = nearest(texts, flat, offsets)
        return label, inside, inside - outside

    return answer


def regression_by(parts: Callable[[str], list[str]], penalty: float = 1e-5) -> Answer:
    """Logistic regression of TF-IDF of some parts, by L-BFGS."""

    def answer(learnt: pd.DataFrame, asked: pd.DataFrame) -> tuple[Ints, Floats, Floats]:
        held, others, count = _numbered(parts, learnt, asked)
        label, classes = torch.from_numpy(learnt["label"].to_numpy()), int(learnt["label"].max()) + 1
        texts = texts_of(held, learnt["label"].tolist(), count)
        bag = nn.EmbeddingBag(count + 1, classes, mode="sum")
        nn.init.zeros_(bag.weight)
        own, ask = _weighed(held, texts.idf), _weighed(others, texts.idf)
        solver = torch.optim.LBFGS(bag.parameters(), max_iter=100, line_search_fn="strong_wolfe")

        def closure() -> torch.Tensor:
            solver.zero_grad()
            loss = nn.functional.cross_entropy(bag(*own[:2], per_sample_weights=own[2]), label)
            (loss := loss + penalty * bag.weight.square().sum() / 2).backward()
            return loss

        solver.step(closure)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            p, best = torch.softmax(bag(*ask[:2], per_sample_weights=ask[2])[:, 1:], dim=1).max(dim=1)
        return (best + 1).numpy(), p.double().numpy(), p.double().numpy()

    return answer


def _numbered(
    parts: Callable[[str], list[str]], learnt: pd.DataFrame, asked: pd.DataFrame
) -> tuple[list[list[int]], list[list[int]], int]:
    """Parts by numbers from 1 on: those that are in what is learnt."""
    numbers: dict[str, int] = {}
    held = [
        [numbers.setdefault(part, len(numbers) + 1) for part in dict.fromkeys(parts(text))] for text in learnt["text"]
    ]
    others = [[numbers[part] for part in dict.fromkeys(parts(text)) if part in numbers] for text in asked["text"]]
    return held, others, len(numbers)


def _weighed(lists: Sequence[Sequence[int]], idf: Floats) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Flat terms, where texts begin, and weights that give each text length 1."""
    flat = np.asarray([term for one in lists for term in one], np.int64)
    row = np.repeat(np.arange(len(lists)), [len(one) for one in lists])
    length = np.sqrt(np.bincount(row, idf[flat] ** 2, minlength=len(lists)))
    starts = np.concatenate([[0], np.cumsum([len(one) for one in lists])[:-1]]).astype(np.int64)
    return (
        torch.from_numpy(flat),
        torch.from_numpy(starts),
        torch.from_numpy((idf[flat] / length[row]).astype(np.float32)),
    )


def by_words(text: str) -> list[str]:
    return tokens(masked(text), 100)


def by_letters(text: str) -> list[str]:
    return [piece for word in tokens(masked(text), 100) for piece in pieces(word)]


def in_folds(rows: pd.DataFrame, answer: Answer) -> dict[str, float]:
    """Accuracy over all folds, and errors of the nine tenths that are surest."""
    fold, right, sure = (rows["drawn"] * FOLDS).astype(int), np.zeros(len(rows), bool), np.zeros(len(rows))
    for number in range(FOLDS):
        asked, others = (fold == number).to_numpy(), rows[fold != number]
        said, sure[asked], _ = answer(others[others["drawn"] * 1_000 % 1 >= 0.1], rows[asked])
        right[asked] = said == rows["label"][asked]
    surest = np.argsort(-sure, kind="stable")[: int(0.9 * len(rows))]
    return {"accuracy": float(right.mean()), "errors_at_90_percent": float(1 - right[surest].mean())}


def in_keywords(rows: pd.DataFrame, answer: Answer) -> float:
    is_short = rows["tags"].str.contains("K")
    return float((answer(rows[~is_short], rows[is_short])[0] == rows["label"][is_short]).mean())


def by_few(rows: pd.DataFrame, answer: Answer) -> float:
    """Ten messages of each intent, by the hash; those that differ in no more than a number are left out of the test."""
    learnt = rows.sort_values("drawn").groupby("label").head(SHOTS)
    asked = rows[~rows["drawn"].isin(learnt["drawn"])]
    return float((answer(learnt, asked)[0] == asked["label"]).mean())


def unheard(rows: pd.DataFrame, answer: Answer) -> float:
    """AUC of the scope: a fifth of the messages of the other intents against all of six that nobody has learnt."""
    names = sorted(rows["label"].unique(), key=lambda label: hashlib.sha256(str(label).encode()).hexdigest())
    is_out, is_asked = rows["label"].isin(names[:UNHEARD]), rows["drawn"] < 1 / FOLDS
    kept = {label: n + 1 for n, label in enumerate(sorted(names[UNHEARD:]))}
    own = rows.assign(label=rows["label"].map(kept).fillna(0).astype(np.int64))
    _, _, scope = answer(own[~is_out & ~is_asked], own[is_out | is_asked])
    inside, outside = scope[~is_out[is_out | is_asked]], scope[is_out[is_out | is_asked]]
    return float((inside[:, None] > outside[None]).mean() + (inside[:, None] == outside[None]).mean() / 2)


def first_fold(rows: pd.DataFrame, answer: Answer) -> float:
    """The first of the folds alone."""
    is_asked, others = rows["drawn"] < 1 / FOLDS, rows[rows["drawn"] >= 1 / FOLDS]
    said = answer(others[others["drawn"] * 1_000 % 1 >= 0.1], rows[is_asked])[0]
    return float((said == rows["label"][is_asked]).mean())


Measure = Callable[[pd.DataFrame, Answer], dict[str, float] | float]
MEASURES: dict[str, Measure] = {
    "in_folds": in_folds, "first_fold": first_fold, "in_keywords": in_keywords, "by_ten": by_few, "unheard_auc": unheard
}  # fmt: skip
USUALLY = [name for name in MEASURES if name != "first_fold"]


def measured(rows: pd.DataFrame, answer: Answer, of_few: Answer, names: Sequence[str]) -> dict[str, float]:
    """The figures of a contender; each goes to the terminal as soon as it is known."""
    found: dict[str, float] = {}
    for name in names:
        begun = time.perf_counter()
        told = MEASURES[name](rows, of_few if name == "by_ten" else answer)
        own = told if isinstance(told, dict) else {name: told}
        found |= {metric: round(value, 4) for metric, value in own.items()}
        print(f"    {own}, {time.perf_counter() - begun:.0f} s", flush=True)
    return found


def main() -> None:
    if len(sys.argv) < 2:
        print("nothing is measured: name the file of messages")
        sys.exit(NOTHING_MEASURED)
    only = [flag.removeprefix("only=").split(",") for flag in sys.argv[2:] if flag.startswith("only=")]
    settings = load_settings(PIPELINE, [flag for flag in sys.argv[2:] if not flag.startswith("only=")])
    rows = messages(sys.argv[1], settings)
    detail: dict[str, Any] = {"messages": len(rows), "distinct": int(rows["drawn"].nunique())}
    contenders = {"millrace": (ours(settings), ours(settings, STEPS_OF_FEW))}
    if not only:
        contenders |= {name: (of, of) for name, of in {
            "nearest, words": nearest_by(by_words),
            "nearest, letters": nearest_by(by_letters),
            "regression, words": regression_by(by_words),
            "regression, letters": regression_by(by_letters),
        }.items()}  # fmt: skip
    for name, (answer, of_few) in contenders.items():
        print(f"  {name}", flush=True)
        detail[name] = measured(rows, answer, of_few, only[0] if only else USUALLY)
    found = detail["millrace"]
    report("service_folds", found.get("accuracy", next(iter(found.values()))), GOAL, "accuracy", detail)


if __name__ == "__main__":
    main()
