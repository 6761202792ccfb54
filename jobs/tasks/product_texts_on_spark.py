"""Product texts on Spark: records and texts to tokens, later texts foreseen, and texts written and held to the rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from jobs.console import step
from jobs.ground import Answer, Ground, Scored, Slice
from jobs.task import OURS
from jobs.tasks import decided_on_spark as decided
from jobs.tasks import probabilities_on_spark as probabilities
from jobs.tasks.decoder_start import TOKENS
from jobs.tasks.product_texts_options import options_of
from jobs.tasks.product_texts_records import (
    lines,
    new_tokenizer,
    numbered,
    refuse_other_tokens,
    taught,
    tokenizer_of,
    values,
)
from jobs.tasks.product_texts_untuned import untuned
from spark_udfs import features, text_figures
from spark_udfs.scoring import predicted
from spark_udfs.written import Writing, checked, written
from training.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from pyspark.sql import DataFrame

    from spark_udfs.features import Cuts

UNCONSTRAINED, UNTUNED, FREQUENCIES = "without_the_rule", "untuned", "token_frequencies"
EXAMPLES = 10  # texts that are shown
__all__ = ["contenders", "examples", "judge", "lines", "looks", "score", "slices"]


def examples(ground: Ground, cuts: Cuts) -> dict[str, DataFrame]:
    """The tokenizer; the products after each cut that have a text; and as examples those of before one.

    Raises:
        DataError: a product stands twice, or none has a text before the cut.
    """
    read = ground.read
    probabilities.refuse_repeated(read["lines"], "item_id", "products", "product")
    known = taught(ground, cuts)
    if known.isEmpty():
        raise DataError(
            "examples must have products with a description; before the cut there are none; map the column that holds "
            "them by sources.products.columns, or move examples.test_from"
        )
    content = new_tokenizer(ground, known)
    learnt = numbered(ground, known, content)
    after = read["lines"].where((F.col("time") >= F.lit(cuts.test)) & F.col("description").isNotNull())
    late = F.col("time") >= F.lit(cuts.validation)
    held_out = [
        learnt.where(late).withColumn("split", F.lit(features.VALIDATION)),
        numbered(ground, after, content).withColumn("split", F.lit(features.TEST)),
    ]
    return {
        TOKENS: known.sparkSession.createDataFrame([(content.decode(),)], "content string"),
        "queries": held_out[0].unionByName(held_out[1]),
        "examples": learnt.drop("source", "description").withColumn("known_at", features.known_at()),
    }


def slices(ground: Ground, cut: datetime) -> dict[str, Slice]:  # noqa: ARG001
    """The products after the cut that people wrote a text of."""
    asked = ground.read["queries"].where("split = 'test'").drop("split")
    return {"after": Slice("products after the cut", asked.withColumnRenamed("item_id", "key"))}


def contenders(ground: Ground, cut: datetime, bundles: Mapping[str, Path]) -> dict[str, Answer]:
    """The bundles; ours without the rule; what ours started from; how often tokens are."""
    refuse_other_tokens(ground, bundles.values())
    known, ours = values(ground), bundles[OURS]
    by_bundle = partial(_by_bundle, ground=ground, values=known)
    answers: dict[str, Answer] = {name: partial(by_bundle, path=path, rule=True) for name, path in bundles.items()}
    answers[UNCONSTRAINED] = partial(by_bundle, path=ours, rule=False)
    with step(f"evaluate: {UNTUNED}: the weights that training started from"):
        start = untuned(bundles[OURS], ground.folder, options_of(ground.settings).weights)
    answers[UNTUNED] = partial(_foreseen, path=str(start))
    learnt = decided.learnt(ground, cut, bundles[OURS], "product")
    counts = learnt.select(F.explode("text").alias("token")).groupBy("token").count()
    answers[FREQUENCIES] = partial(_by_frequency, counts=counts)
    return answers


def _writing(ground: Ground, bundle: Path, known: Sequence[str] | None) -> Writing:
    options = options_of(ground.settings)
    return Writing(tokenizer_of(bundle), known, options.text_tokens, options.temperature, options.seed)


def _likelihoods(asked: DataFrame, path: str) -> DataFrame:
    """key, nll and tokens."""
    found = predicted(asked, path, key="key", names=["nll", "tokens"])
    return found.select("key", *(F.col(name)[0].cast("double").alias(name) for name in ("nll", "tokens")))


def _foreseen(asked: DataFrame, _: str, *, path: str) -> DataFrame:
    return _without_texts(_likelihoods(asked, path))


def _without_texts(found: DataFrame) -> DataFrame:
    nothing = {"text": "string", "breaches": "array<string>", "named": "array<string>", "fields": "int"}
    nothing |= {"whole": "boolean"}
    return found.withColumns({name: F.lit(None).cast(kind) for name, kind in nothing.items()})


def _by_bundle(asked: DataFrame, _: str, *, ground: Ground, path: Path, values: Sequence[str], rule: bool) -> DataFrame:
    """How likely all texts are; and of some products, by hash, a text of its own."""
    options = options_of(ground.settings)
    some = asked.orderBy(F.xxhash64("key"), "key").limit(options.judged_texts)
    some = some.repartition(ground.settings.spark.shuffle_partitions, "key").select("key", "record", "source")
    texts = written(some, str(path), key="key", writing=_writing(ground, path, values if rule else None))
    told = checked(texts.join(some.select("key", "source"), on="key", how="inner"), values, options.attributes)
    there = F.array_intersect(F.map_keys("source"), F.array(*map(F.lit, options.attributes)))
    told = told.select("key", "text", "breaches", "named", F.size(there).alias("fields"), "whole")
    return _likelihoods(asked, str(path)).join(told, on="key", how="left")


def _by_frequency(asked: DataFrame, _: str, *, counts: DataFrame) -> DataFrame:
    """Each token as likely as it is frequent, one that never was as one that was once."""
    total, kinds = counts.agg(F.sum("count"), F.count(F.lit(1))).collect()[0]
    every = float(total + kinds + 1)
    said = asked.select("key", F.explode("text").alias("token")).join(F.broadcast(counts), on="token", how="left")
    nll = -F.log((F.coalesce("count", F.lit(0)) + 1) / F.lit(every))
    found = said.groupBy("key").agg(F.sum(nll).alias("nll"), F.count(F.lit(1)).cast("double").alias("tokens"))
    return _without_texts(found)


def judge(ground: Ground, asked: DataFrame, answers: DataFrame, names: Sequence[str]) -> dict[str, Any]:  # noqa: ARG001
    """How well texts are foreseen, and whether those that were written keep to their records."""
    found = text_figures.judge(answers, names, resamples=ground.settings.evaluation.bootstrap)
    models = {name: found[name].intervals() for name in names}
    written_by = answers.where("text IS NOT NULL").groupBy("model")
    for row in written_by.agg(F.count("text").alias("texts"), F.countDistinct("text").alias("distinct")).collect():
        models[row["model"]]["duplicates"] = {"value": 1 - row["distinct"] / row["texts"]}
    silent = {row["model"] for row in answers.groupBy("model").agg(F.count("text").alias("n")).where("n = 0").collect()}
    for name in silent:
        for metric in text_figures.OF_TEXTS:
            del models[name][metric]
    differences = {
        name: {"perplexity": found[OURS].minus(found[name])["perplexity"]}
        | ({} if name in silent else {of: found[OURS].minus(found[name])[of] for of in text_figures.OF_TEXTS})
        for name in names[1:]
    }
    return {"users": found[OURS].users, "models": models, "differences": differences}


def looks(ground: Ground, held: Mapping[str, tuple[DataFrame, DataFrame]]) -> dict[str, Any]:  # noqa: ARG001
    """Ten products, drawn by hash, with what people wrote of them and what is written here."""
    asked, answers = held["after"]
    ours = answers.where((F.col("model") == OURS) & F.col("text").isNotNull()).select("key", "text", "breaches")
    shown = ours.join(asked.select("key", "source", "description"), on="key", how="inner")
    rows = shown.orderBy(F.xxhash64("key"), "key").limit(EXAMPLES).collect()
    return {
        "drawn": {
            "title": "Ten products",
            "columns": ["record", "what people wrote", "what is written here", "not of the record"],
            "rows": [
                [
                    "; ".join(f"{name}: {value}" for name, value in row["source"].items())[:300],
                    row["description"],
                    row["text"],
                    ", ".join(row["breaches"]) or "-",
                ]
                for row in rows
            ],
        }
    }


def score(ground: Ground, moment: datetime) -> Scored:
    """A text of every product that was there by the moment and has no description, or of all, as the settings say."""
    options, bundle = options_of(ground.settings), ground.bundle
    assert bundle is not None
    there = ground.read["lines"].where(features.known_before(moment))
    if options.write_for == "missing":
        there = there.where(F.col("description").isNull())
    known = values(ground, moment)
    writing = _writing(ground, bundle, known)
    asked = ground.keep("asked", lambda: numbered(ground, there, writing.tokenizer))
    answer = partial(_answered, ground=ground, writing=writing, values=known)
    return Scored(asked, answer, _counts, finish=partial(_marked, ground=ground))


def _answered(products: DataFrame, *, ground: Ground, writing: Writing, values: Sequence[str]) -> DataFrame:
    options = options_of(ground.settings)
    found = written(products, str(ground.bundle), key="item_id", writing=writing)
    told = products.select("item_id", "time", "source").join(found, on="item_id", how="inner")
    return checked(told, values, options.attributes).withColumn("seed", F.lit(options.seed).cast("bigint"))


def _marked(made: DataFrame, *, ground: Ground) -> DataFrame:
    """Answers with `duplicate`: whether another product has the very same text."""
    held = ground.keep("written", lambda: made)  # read more than once, and each time it would be written anew
    twice = held.groupBy("text").count().where("count > 1").select("text", F.lit(True).alias("duplicate"))
    return held.join(twice, on="text", how="left").withColumn("duplicate", F.coalesce("duplicate", F.lit(False)))


def _counts(written: DataFrame) -> dict[str, int]:
    made = written.agg(
        F.count(F.lit(1)).alias("texts"),
        F.count_if(F.size("breaches") > 0).alias("texts_against_the_rule"),
        F.count_if("duplicate").alias("exact_duplicates"),
        F.count_if(~F.col("whole")).alias("texts_cut_off"),
    )
    return dict(made.collect()[0].asDict())
