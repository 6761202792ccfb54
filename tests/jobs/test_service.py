"""Service on a planted world: a few words say what a customer wants, and some want what no intent is about."""

from __future__ import annotations

import io
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from pyspark.sql import Row, SparkSession

from jobs import build_examples, chat, evaluate, ingest, init, score, train
from jobs.ground import Ground
from jobs.settings import Settings, load_settings
from jobs.settings_sections import ShopSettings
from jobs.settings_sources import TableSource
from jobs.tables import Tables
from jobs.task import OURS, TRUTH
from jobs.tasks import service_chat, service_on_spark
from jobs.tasks.service_chat import Assistant
from jobs.tasks.service_options import ServiceOptions
from jobs.tasks.service_replies import answers_of
from spark_udfs.features import Cuts
from spark_udfs.knowledge import id_of
from spark_udfs.simulated.messages import IN_SCOPE
from spark_udfs.simulated.messages import MESSAGES as MESSAGES_OF_SHOP
from spark_udfs.simulated.planted import planted as planted_table
from tests.spark_udfs.bundles import two_tower_bundle
from tests.training.text_models import CONFIG as TINY
from tests.training.text_models import WORDS, save_folder
from training.errors import BundleError, DataError, NoTableError, SettingsError, WeightsError

START = datetime(2025, 1, 1, tzinfo=UTC)
CUT, VALIDATION = START + timedelta(days=90), START + timedelta(days=60)
MESSAGES = (
    "message_id string, time timestamp, arrival_time timestamp, conversation string, text string, intent string, "
    "user_id string"
)
SAID = {
    "cancel": ("cancel", "stop", "abort"),
    "track": ("where", "track", "arrive"),
    "refund": ("money", "refund", "repay"),
    "oos": ("weather", "poem", "football"),
}
NEW = "late"  # an intent that nobody had before the cut
PLAIN = [f"plain{letter}{other}" for letter in "abcdef" for other in "uvwxyz"]


def text_of(rng: random.Random, intent: str) -> str:
    """Two words that say so among others, and an order's number."""
    words = [*rng.sample(SAID.get(intent, ("novel", "unheard", "fresh")), 2), *rng.choices(PLAIN, k=rng.randint(3, 6))]
    rng.shuffle(words)
    return f"{' '.join(words)} {rng.randrange(10**9)}?"


def planted() -> list[tuple[Any, ...]]:
    """900 messages in 120 days; of one in twenty nobody knows the intent; after the cut some have a new one."""
    rng, messages = random.Random(5), []
    for number in range(900):
        time = START + timedelta(days=120 * rng.random())
        intent = NEW if time > CUT and rng.random() < 0.1 else rng.choice([*SAID])
        label = None if rng.random() < 0.05 else intent
        messages.append(
            (f"message {number}", time, None, f"talk {number % 90}", text_of(rng, intent), label, f"user {number % 50}")
        )
    return messages


ANSWERS = [
    ("cancel", "Order {{Order Number}} can be cancelled."),
    ("track", "Order {{order id}} is {{ Order Status }}."),
    ("refund", "{{Bank}} has it."),
]
ORDERS = "order_number string, email string, status string, delivery string, amount string"


def number_of(text: str) -> str:
    return text.rstrip("?").split()[-1]


def orders() -> list[tuple[str | None, ...]]:
    """Of every other message the order that it names, some twice, and some of these in rows that differ."""
    numbers = [number_of(message[4]) for message in planted()]
    once = [(number, None, "packed", None, None) for number in numbers[::2]]
    return [*once, *once[::3], *((number, None, "lost", None, None) for number in twice())]


def twice() -> list[str]:
    return [number_of(message[4]) for message in planted()[::10]]


def settings_in(folder: Path, **sections: Any) -> Settings:
    values: dict[str, Any] = {
        "task": "service",
        "tables": {"root": str(folder / "tables")},
        "run_dir": str(folder / "run"),
        "options": {"has": ["message_id", "conversation", "arrival_time"], "out_of_scope": ["oos"], "terms": 5_000},
        "examples": {"test_from": CUT, "validation_days": 30, "rows_per_group": 100},
        "model": {"name": "text_classes", "dim": 16},
        "training": {
            "ranks": 1,
            "epochs": 6,
            "batch_size": 64,
            "learning_rate": 0.005,
            "embedding_learning_rate": 0.02,
            "embedding_optimizer": "sparse_adam",
        },
        "evaluation": {"bootstrap": 100},
    }
    return Settings(**(values | sections))


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Settings:
    folder = tmp_path_factory.mktemp("service")
    plain = settings_in(folder)
    weights = save_folder(folder / "weights", words=(*WORDS, "cancel", "track"))
    beside = {"vectors": TINY["hidden_size"], "tokens_kept": 12, "weights": str(weights)}
    settings = settings_in(folder, options=plain.options.model_dump() | beside)
    tables = Tables(spark, settings.tables.root)
    for name, rows, schema in (
        ("messages", planted(), MESSAGES),
        ("answers", ANSWERS, "intent string, answer string"),
        ("orders", orders(), ORDERS),
    ):
        made = spark.createDataFrame(rows, schema).repartition(3)
        tables.write(name, made, mode="overwrite", job="ingest", inputs={})
    return settings


@pytest.fixture(scope="module")
def trained(settings: Settings, spark: SparkSession) -> dict[str, Any]:
    build_examples.run(settings, spark)
    return train.run(settings, spark)


def held(settings: Settings, spark: SparkSession, name: str, where: str = "true") -> dict[str, Row]:
    return {row["message_id"]: row for row in Tables(spark, settings.tables.root).read(name).where(where).collect()}


@pytest.mark.slow
def test_a_bundle_is_asked_with_the_options_that_it_learnt_with(
    settings: Settings, trained: dict[str, Any], spark: SparkSession, tmp_path: Path
) -> None:
    """How conversations are ruled is no part of what examples are made of."""
    ruled = _with(settings, handed_over="Somebody, soon.", people=["cancel"])
    assert build_examples.run(ruled, spark)["up_to_date"]
    other = str(save_folder(tmp_path, words=(*WORDS, "another")))
    for changed, words in (
        ({"terms": 6_000}, r"options\.terms must be .* the build in force were made with, 5000; it is 6000: set"),
        ({"words_kept": 7}, r"options\.words_kept must be .*, 100; it is 7"),
        ({"vectors": 0}, r"options\.vectors must be .*; it is 0"),
        ({"tokens_kept": 9}, r"options\.tokens_kept must be .*, 12; it is 9"),
    ):
        for job in (evaluate, train):
            with pytest.raises(SettingsError, match=words):
                job.run(_with(settings, **changed), spark)
        with pytest.raises(SettingsError, match=words.replace("the build in force", f"bundle '{trained['bundle']}'")):
            score.run(_with(settings, **changed), spark)

    with pytest.raises(SettingsError, match=r"weights_digest must be .*, '[0-9a-f]{64}'; it is '[0-9a-f]{64}'"):
        score.run(_with(settings, weights=other), spark)
    assert train.run(_with(settings, weights=other), spark)["up_to_date"]  # it learns from vectors that lie there


def _with(settings: Settings, **options: Any) -> Settings:
    values = settings.model_dump(mode="json")
    return Settings.model_validate(values | {"options": values["options"] | options})


def test_labels_are_numbers_of_the_intents_of_before_the_cut(
    settings: Settings, trained: dict[str, Any], spark: SparkSession
) -> None:
    known = {
        row["id"]: row["index"] for row in Tables(spark, settings.tables.root).read("vocabulary_intents").collect()
    }
    assert {*known} == {"cancel", "track", "refund"}
    examples = held(settings, spark, "examples")
    before = {message[0]: message[5] for message in planted() if message[1] < CUT and message[5] is not None}
    assert {name: row["label"] for name, row in examples.items()} == {
        name: known.get(intent, 0) for name, intent in before.items()
    }
    after = held(settings, spark, "queries", "split = 'test'")
    new = {message[0] for message in planted() if message[5] == NEW}
    assert new
    assert {name for name, row in after.items() if row["label"] == 0} >= new
    assert {*after} == {message[0] for message in planted() if message[1] >= CUT}


def test_intents_are_found_and_what_is_none_of_them_is_told_apart(
    settings: Settings, trained: dict[str, Any], spark: SparkSession
) -> None:
    result = evaluate.run(settings, spark)
    judged = result["protocols"]["after"]
    assert list(judged["models"]) == [OURS, "nearest_tf_idf", "majority"]
    ours = {name: metric["value"] for name, metric in judged["models"][OURS].items()}
    assert ours["accuracy"] > 0.97
    assert ours["out_of_scope_recall"] > 0.5  # some are of an intent that nobody had, of which no word is known
    assert ours["out_of_scope_auc"] > 0.8
    assert ours["kept_in_scope"] > 0.9
    assert ours["calibration_error"] < 0.05
    assert judged["differences"]["majority"]["accuracy"]["low"] > 0.4
    assert [*judged["models"][OURS]["calibration_error"]] == ["value"]
    assert "calibration_error" not in judged["models"]["nearest_tf_idf"]
    # Both are told of what is out of scope, and both choose by the validation days.
    assert judged["models"]["nearest_tf_idf"]["out_of_scope_auc"]["value"] > 0.8
    assert judged["models"]["nearest_tf_idf"]["kept_in_scope"]["value"] > 0.9
    assert len(result["drawn"]["rows"]) == 10
    assert all(row[0].endswith("...?") or row[0].endswith("... ?") for row in result["drawn"]["rows"])
    assert {*result["curves"][0]["lines"]} == {OURS, "nearest_tf_idf", "majority"}
    assert trained["calibration"]["scope"]["rows_without_class"] == sum(
        VALIDATION <= message[1] < CUT and message[5] == "oos" for message in planted()
    )


def test_messages_that_nobody_has_learnt_from_are_answered(
    settings: Settings, trained: dict[str, Any], spark: SparkSession
) -> None:
    with pytest.raises(SettingsError, match=r"options\.people .*; \['cancle'\] are none of table 'vocabulary_intents'"):
        score.run(_with(settings, people=["cancel", "cancle"]), spark)
    summary = score.run(settings, spark)
    rows = held(settings, spark, "replies")
    said = {message[0]: message for message in planted()}
    assert {*rows} == {name for name, message in said.items() if message[1] >= CUT or message[5] is None}
    right = [
        row["intent"] == said[name][5] for name, row in rows.items() if said[name][5] in ("cancel", "track", "refund")
    ]
    assert sum(right) > 0.97 * len(right)
    assert all(0 < row["confidence"] <= 1 and row["conversation"] == said[name][3] for name, row in rows.items())
    assert summary["out_of_scope"] == sum(not row["in_scope"] for row in rows.values()) > 0
    assert score.run(settings, spark)["up_to_date"]
    known = {row[0] for row in orders()}
    first: dict[str, Row] = {}
    for row in sorted(rows.values(), key=lambda row: (row["time"], row["message_id"])):
        first.setdefault(row["conversation"], row)
        assert "{{" not in row["text"]
    for row in first.values():
        number = number_of(said[row["message_id"]][4])
        sure = row["in_scope"] and row["confidence"] > 0.8
        used = [of["table"] for of in row["used"]]
        if sure and row["intent"] == "cancel" and number in known:
            assert (row["reply"], row["text"], used) == ("answer", f"Order {number} can be cancelled.", ["answers"])
        elif sure and row["intent"] == "track" and number in known - {*twice()}:
            assert (row["reply"], row["text"], used) == ("answer", f"Order {number} is packed.", ["answers", "orders"])
        elif sure and row["intent"] in ("cancel", "track") and number not in known:
            assert (row["reply"], used) == ("ask", [])
        else:
            assert (row["reply"], used) == ("hand_over", [])
            assert number not in row["summary"]
    assert {row["reply"] for row in first.values()} == {"answer", "ask", "hand_over"}
    assert any(one["intent"] == "track" and number_of(said[one["message_id"]][4]) in twice() for one in first.values())
    assert summary["answered"] == sum(row["reply"] == "answer" for row in rows.values())
    _the_terminal_says_the_same(trained["bundle_path"], settings.tables.root, list(first.values())[:40], said)


def _the_terminal_says_the_same(bundle: str, root: str, rows: list[Row], said: dict[str, Any]) -> None:
    assistant = Assistant.load(bundle, root)
    for row in rows:
        _, reply = assistant.reply((), said[row["message_id"]][4])
        assert (reply.kind, reply.text, reply.used) == (row["reply"], row["text"], tuple(map(tuple, row["used"])))
        assert (reply.why or None, reply.summary or None) == (row["why"], row["summary"])
    number = orders()[0][0]
    typed = io.TextIOWrapper(
        io.BytesIO(f"please cancel stop {number} \udcff plainau\n\nnever read\n".encode(errors="surrogateescape")),
        "utf-8",
    )
    shown = io.StringIO()
    chat.run(bundle, root, typed, shown)
    lines = shown.getvalue().splitlines()
    assert lines[:2] == [
        "rules of the bundle (--settings takes those of a file)",
        f"> Order {number} can be cancelled.",
    ]
    assert lines[2].startswith("  from answers ")
    assert lines[3:] == ["> "]
    other = settings_in(Path(root), options={"people": ["cancel"], "handed_over": "By\x1b people."})
    chat.run(bundle, root, io.StringIO(f"please cancel stop {number}\n"), ruled := io.StringIO(), other)
    assert ruled.getvalue().splitlines()[:2] == ["rules of the settings", "> By  people."]
    alone = Path(root).parent / "messages alone"
    alone.mkdir()
    (alone / "messages").symlink_to(f"{root}/messages")
    chat.run(bundle, str(alone), io.StringIO("please cancel stop\nweather poem\n"), told := io.StringIO())
    first, one, other, _ = told.getvalue().splitlines()
    assert first.startswith("there is no table 'answers', so nothing is replied: name a file")
    assert one.startswith("> cancel (")
    assert "out of scope" not in one
    assert other.endswith("%), out of scope")
    with pytest.raises(SettingsError, match="task, service; they are of recommend"):
        chat.run(bundle, root, typed, shown, Settings())
    with pytest.raises(NoTableError):
        chat.run(bundle, f"{root}/nowhere", io.StringIO("x"), shown)


def test_the_encoder_of_the_same_messages_is_tuned(
    settings: Settings,
    trained: dict[str, Any],
    spark: SparkSession,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On Spark and in a terminal it says the same, and the terminal opens no weights."""
    values = settings.model_dump(mode="json")
    model = {"name": "tuned_text_classes", "dim": 16, "rank": 2}
    tuned = Settings.model_validate(values | {"model": model, "run_dir": str(tmp_path)})
    other = _with(tuned, weights=str(save_folder(tmp_path / "other")))
    with pytest.raises(
        WeightsError, match=r"whose tokenizer made the examples, of SHA-256 [0-9a-f]{64}; '.*other' has"
    ):
        train.run(other, spark)
    path = train.run(tuned, spark)["bundle_path"]
    queries = Tables(spark, settings.tables.root).read("queries").where("split = 'test' AND label > 0")
    asked = queries.withColumnRenamed("message_id", "key")
    said = {row["key"]: row for row in service_on_spark._by_bundle(asked, "after", path=path).collect()}
    rows = {row["message_id"]: row for row in queries.collect()}
    assert any(len(row["tokens"]) > 2 for row in rows.values())
    assert sum(said[name]["intent"] == row["label"] for name, row in rows.items()) > 0.97 * len(rows)
    monkeypatch.setattr(service_chat, "_encoder", None)
    assistant = Assistant.load(path, settings.tables.root)
    texts = {message[0]: message[4] for message in planted()}
    for name in sorted(rows)[:20]:
        found, wanted = assistant.said(texts[name]), said[name]
        assert (assistant.intents[wanted["intent"]], wanted["in_scope"]) == (found.intent, found.in_scope)
        assert found.p == pytest.approx(wanted["p"], abs=1e-5)


def test_a_bundle_that_does_not_talk_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"bundle\.json"):
        chat.run(str(tmp_path), "tables", io.StringIO(), io.StringIO())
    bundle = two_tower_bundle(tmp_path, users=3, items=4)
    with pytest.raises(BundleError, match=r"of a task that talks \(service\); .* is of 'None'"):
        chat.run(str(bundle.path), "tables", io.StringIO(), io.StringIO())


def test_more_answers_than_a_worker_may_hold_are_refused(spark: SparkSession) -> None:
    answers = spark.createDataFrame(ANSWERS, "intent string, answer string")
    with pytest.raises(DataError, match=r"options\.most_answers=2 at most"):
        answers_of(answers, ServiceOptions(most_answers=2))
    known = answers_of(answers.union(answers), ServiceOptions())
    assert [one.answer_id for one in known] == sorted(id_of(*row) for row in ANSWERS)


def test_messages_that_cannot_teach_are_refused(spark: SparkSession, tmp_path: Path) -> None:
    messages = planted()[:200]
    for wrong, problem in (
        ([*messages, messages[7]], "a message_id must stand once in table 'messages'; 1 stand more often"),
        ([(*one[:5], "cancel", one[6]) for one in messages], "before the cut there are 1; map the column"),
    ):
        rows = spark.createDataFrame(wrong, MESSAGES)
        read = {"messages": rows, "lines": service_on_spark.lines({"messages": rows})}
        read["vocabulary_intents"] = spark.createDataFrame([(1, "cancel")], "index bigint, id string")
        with pytest.raises(DataError, match=problem):
            service_on_spark.examples(Ground(read, settings_in(tmp_path), tmp_path), Cuts(VALIDATION, CUT))


def test_the_planted_truth_answers_each_message(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = ShopSettings(users=200)
    made = planted_table(MESSAGES_OF_SHOP, spark.range(200), shop, truth=True)
    monkeypatch.setattr(service_on_spark.simulate, "truth_of_source", lambda *_: made)
    numbers = spark.createDataFrame([(n + 1, intent) for n, intent in enumerate(IN_SCOPE)], "index bigint, id string")
    ground = Ground({"lines": made, "vocabulary_intents": numbers}, settings_in(tmp_path), tmp_path)
    answer = service_on_spark._truth(ground)[TRUTH]
    found = {row["key"]: row for row in answer(made.withColumnRenamed("message_id", "key"), "after").collect()}
    rows = made.collect()
    assert len(found) == len(rows) == 200
    for row in rows:
        said = found[row["message_id"]]
        assert said["in_scope"] == (row["in_scope_probability"] >= 0.5)
        assert row["best_intent"] is None or IN_SCOPE[said["intent"] - 1] == row["best_intent"]


FILE = "utterance,intent\n" + "\n".join(f"{message[4]},{message[5] or ''}" for message in planted()[:300])


def test_a_file_of_texts_and_intents_is_brought_in_by_what_init_writes(spark: SparkSession, tmp_path: Path) -> None:
    """Without a time: near copies get the same one."""
    data = tmp_path / "messages.csv"
    data.write_text(f"{FILE}\nplease cancel 1,cancel\nPlease  cancel 22,cancel\n,track\n")
    text = init.text("service", str(data))
    assert "???" not in text.split("\n", 2)[2]
    (tmp_path / "made.yaml").write_text(text)
    made = load_settings(tmp_path / "made.yaml", [f"tables.root={tmp_path}/tables"])
    assert (made.sources["messages"].order_by_hash_of, made.training.epochs) == (("utterance",), 15)
    assert ingest.run(made, spark)["tables"]["messages"]["bad"] == {"text is missing": 1}
    rows = Tables(spark, made.tables.root).read("messages").where("lower(text) LIKE 'please%'").collect()
    assert len(rows) == 2
    assert rows[0]["time"] == rows[1]["time"]


def test_a_hash_without_numbers_is_one_of_columns() -> None:
    with pytest.raises(ValidationError, match="hash_without_numbers is about the hash of order_by_hash_of"):
        TableSource(hash_without_numbers=True)
