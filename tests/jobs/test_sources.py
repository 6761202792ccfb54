"""What a source may hold: odd names, other formats, damaged lines; and wrong settings, before a file is blamed."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from jobs import ingest, ingest_rules, source_files, sources
from jobs.ingest_rules import rules_of
from jobs.sessions import session_settings
from jobs.settings import Settings, load_settings
from jobs.settings_sources import Kind
from jobs.source import Source
from jobs.sources import delta_place
from jobs.tables import Tables
from spark_udfs import order_lines, sorted_lines
from spark_udfs.event_names import KINDS
from training.errors import DataError, SchemaError, SettingsError, TooManyBadRows

COLUMNS = {name: name for name in ("order_id", "item_id", "user_id", "time", "quantity", "price")}
HEADER = ",".join(COLUMNS)
CLICKS = {"item_id": "item", "user_id": "visitor", "time": "at", "kind": "event"}
WORDS = {"view": "view", "AddToCart": "cart", "1": "click", "scroll": None, "transaction": "purchase"}
NO_SALES = {"order_id": None, "quantity": None, "price": None}
SALE = "1,i,u,2024-01-01 10:00:00,1,1"


def of(path: Path | str, **section: Any) -> Settings:
    return Settings.model_validate({"ingest": {"path": str(path), "columns": COLUMNS, **section}})


def find(settings: Settings, spark: SparkSession) -> Source:
    return sources.find("ingest", settings.ingest, spark)


def csv(path: Path, *lines: str, header: str = HEADER, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("\n".join([header, *lines, ""]).encode(encoding))
    return path


def json_lines(path: Path, rows: Iterable[dict[str, Any] | str]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def sort_out(spark: SparkSession, settings: Settings) -> Any:
    source, rules = find(settings, spark), rules_of("ingest", settings.ingest, settings.ingest)
    with sources.readable(source):
        raw = sources.read(spark, source, rules.columns)
        return order_lines.sort_out(raw.rows, rules, raw.malformed)


def counts(spark: SparkSession, settings: Settings) -> dict[str, int]:
    with (
        session_settings(spark, ingest_rules.CORRECT_TIMES | sources.AS_TEXTS),
        sources.readable(find(settings, spark)),
    ):
        return {row[0]: row[1] for row in sorted_lines.counts(sort_out(spark, settings)).collect()}


def events(spark: SparkSession, settings: Settings) -> list[dict[str, Any]]:
    with session_settings(spark, ingest_rules.CORRECT_TIMES | sources.AS_TEXTS):
        rows = sorted_lines.events(sort_out(spark, settings)).withColumn("time", F.col("time").cast("string"))
        return [row.asDict() for row in rows.orderBy("order_id").collect()]


def row(**other: Any) -> dict[str, Any]:
    return dict(zip(COLUMNS, SALE.split(","), strict=True)) | other


def test_json_rows_are_compared_whole_and_torn_lines_counted_each(spark: SparkSession, tmp_path: Path) -> None:
    same_in_other_order = dict(reversed(row(colour="red").items()))
    rows = [row(colour="red"), row(colour="blue"), same_in_other_order, row(), row(size=None)]
    torn = ['{"order_id": "1", "it', '{"order_id": "1", "it', '{"order_id": "2"', "null"]
    path = json_lines(tmp_path / "lines.json", [*rows, *torn, ""])
    assert counts(spark, of(path, format="json")) == {"sale": 3, "duplicate": 2, "malformed_line": 4}


def test_parquet_times_keep_their_fractions_and_other_columns_count(spark: SparkSession, tmp_path: Path) -> None:
    columns = ["order_id", "'i' item_id", "'u' user_id", "1 quantity", "1.5D price"]
    first = [f"'1' {columns[0]}", *columns[1:], "timestamp'2024-01-01 10:00:00.123456' time", "'a' extra"]
    second = [f"'2' {columns[0]}", *columns[1:], "timestamp'2024-01-01 10:00:00' time"]
    spark.range(2).selectExpr(*first).write.parquet(str(tmp_path / "lines" / "a"))
    spark.range(1).selectExpr(*first[:-1], "'b' extra").write.parquet(str(tmp_path / "lines" / "b"))
    spark.range(1).selectExpr(*second).write.parquet(str(tmp_path / "lines" / "c"))
    settings = of(tmp_path / "lines", format="parquet")
    assert counts(spark, settings) == {"sale": 3, "duplicate": 1}
    assert [event["time"] for event in events(spark, settings)] == 2 * ["2024-01-01 10:00:00.123456"] + [
        "2024-01-01 10:00:00"
    ]


def test_what_is_listed_is_read(spark: SparkSession, tmp_path: Path) -> None:
    """Subfolders, folders that are partitions, and names that look like patterns."""
    csv(tmp_path / "sub" / "a.csv", SALE)
    csv(tmp_path / "sub" / "deep[1]" / "b{c}*.csv", SALE.replace("1,", "2,", 1))
    settings = of(tmp_path / "sub")
    assert find(settings, spark).state[0] == 2
    assert counts(spark, settings) == {"sale": 2}
    assert counts(spark, of(tmp_path / "sub" / "deep[1]" / "b{c}*.csv")) == {"sale": 1}
    assert counts(spark, of(f"{tmp_path}/s*b/*.csv")) == {"sale": 1}
    csv(tmp_path / "parts" / "land=01" / "a.csv", SALE)
    in_folders = of(tmp_path / "parts", columns=COLUMNS | {"country": "land"})
    assert [event["country"] for event in events(spark, in_folders)] == ["01"]
    (tmp_path / "objects" / "land=UK").mkdir(parents=True)
    json_lines(tmp_path / "objects" / "land=UK" / "a.json", [row(land="not this")])
    objects = of(tmp_path / "objects", format="json", columns=COLUMNS | {"country": "land"})
    assert [event["country"] for event in events(spark, objects)] == ["UK"]
    assert counts(spark, of(tmp_path / "parts" / "land=01")) == {"sale": 1}


def test_of_a_folder_the_files_of_the_format_are_read(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the ends of their names; others are named. A file that is named, and all that a pattern matches, is read."""
    for number, name in enumerate(("a.csv", "B.CSV", "c d.csv.gz", ".d.csv", "_e.csv", "f.txt", "sub/LICENSE")):
        path = csv(tmp_path / "raw" / name, SALE.replace("1,", f"{number},", 1))
        if path.suffix == ".gz":
            path.write_bytes(gzip.compress(path.read_bytes()))
    assert find(of(tmp_path / "raw"), spark).state[0] == 3
    assert "2 files of" in (said := " ".join("".join(capsys.readouterr()).split()))
    assert said.endswith("names of csv end in .csv, .tsv, .psv: 'LICENSE', 'f.txt'")
    assert counts(spark, of(tmp_path / "raw")) == {"sale": 3}
    assert counts(spark, of(tmp_path / "raw" / "f.txt")) == {"sale": 1}
    capsys.readouterr()
    assert counts(spark, of(f"{tmp_path}/raw/*")) == {"sale": 5}
    assert "passed over" not in "".join(capsys.readouterr())
    with pytest.raises(
        DataError, match=r"is a folder without json files: .* in .json, .jsonl, .ndjson .*such as 'B.CS"
    ):
        find(of(tmp_path / "raw", format="json"), spark)
    with pytest.raises(
        DataError, match=r"raw/sub' is a folder without csv files: .* 1 files .*'LICENSE'\. .*raw/sub/\*"
    ):
        find(of(tmp_path / "raw" / "sub"), spark)
    with pytest.raises(DataError, match=r"is empty; name files that hold rows .*begin with \. or _ are passed over"):
        find(of(tmp_path / "raw" / "_e.csv"), spark)


def test_folders_are_texts_whatever_they_look_like(spark: SparkSession, tmp_path: Path) -> None:
    for number, month in enumerate(("01", "02")):
        (tmp_path / "raw" / f"month={month}").mkdir(parents=True)
        json_lines(tmp_path / "raw" / f"month={month}" / "a.json", [row(order_id=number)])
    settings = of(tmp_path / "raw", format="json", columns=COLUMNS | {"country": "month"})
    assert [event["country"] for event in events(spark, settings)] == ["01", "02"]


def test_numbers_of_java_alone_are_none(spark: SparkSession, tmp_path: Path) -> None:
    sales = [
        f"{n},i,u,2024-01-01 10:00:00,{q},{p}" for n, (q, p) in enumerate([(1, ".5"), (" 2 ", "5."), ("3e0", "1")])
    ]
    bad = ["8,i,u,2024-01-01 10:00:00,12d,1", "9,i,u,2024-01-01 10:00:00,1,3F"]
    settings = of(csv(tmp_path / "lines.csv", *sales, *bad))
    assert counts(spark, settings) == {"sale": 3, "unreadable_quantity": 1, "unreadable_price": 1}
    assert [event["quantity"] for event in events(spark, settings)] == [1, 2, 3]


@pytest.mark.slow
def test_fields_that_no_line_of_json_has_are_named(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = json_lines(tmp_path / "lines.json", [row(), row(order_id="2")])
    asked = of(path, format="json", columns=COLUMNS | {"user_id": "usr"}).model_dump()
    ingest.run(Settings(**asked | {"tables": {"root": str(tmp_path / "tables")}}), spark)
    said = " ".join("".join(capsys.readouterr()).split())
    assert "lines.json' says anything in 'usr' (our user_id): see ingest.columns" in said
    unreadable = sort_out(spark, of(path, format="json", time_format="epoch_s"))
    (of_source,) = sorted_lines.said(unreadable).collect()
    assert (of_source["time"], of_source["kind"]) == (True, False)


def test_a_delta_table_at_the_top_of_a_store(spark: SparkSession) -> None:
    with pytest.raises(DataError, match=r"ingest.path '/nowhere' is no Delta table"):
        find(of("/nowhere", format="delta"), spark)
    assert delta_place("dbfs:/events") == ("dbfs:/", "events")
    assert delta_place("/events/") == ("/", "events")
    assert delta_place("events") == (".", "events")


def test_a_colon_in_a_name_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has a colon, got 'li:ne.csv'"):
        find(of("li:ne.csv"), spark)
    csv(tmp_path / "folder" / "a:b.csv", SALE)
    with pytest.raises(DataError, match=r"has a colon, got '.*a:b.csv'"):
        find(of(tmp_path / "folder"), spark)


def test_header_names_of_any_kind(spark: SparkSession, tmp_path: Path) -> None:
    header = "order.id,i`d,copies,row,_malformed_line,column_1,"
    names = dict(zip(COLUMNS, header.split(","), strict=False))
    path = csv(tmp_path / "lines.csv", f"{SALE},x", "2,i", header=header)
    settings = of(path, columns=names)
    assert counts(spark, settings) == {"sale": 1, "malformed_line": 1}
    assert [event["user_id"] for event in events(spark, settings)] == ["u"]
    with pytest.raises(SchemaError, match=r"has the column 'item' more than once"):
        counts(spark, of(csv(tmp_path / "twice.csv", "1,2", header="Item,item")))


def test_quoted_line_breaks(spark: SparkSession, tmp_path: Path) -> None:
    path = csv(tmp_path / "lines.csv", '1,"i\nj",u,2024-01-01 10:00:00,1,1', "2,i")
    assert counts(spark, of(path)) == {"malformed_line": 3}
    assert "ingest.multiline=true" in order_lines.REASONS["malformed_line"]
    assert counts(spark, of(path, multiline=True)) == {"sale": 1, "malformed_line": 1}


def test_undecodable_bytes_are_refused_and_an_encoding_reads_them(spark: SparkSession, tmp_path: Path) -> None:
    path = csv(tmp_path / "lines.csv", SALE.replace("u,", "é,"), SALE.replace("u,", "è,"), encoding="windows-1252")
    settings = Settings(**of(path).model_dump() | {"tables": {"root": str(tmp_path / "tables")}})
    with pytest.raises(DataError, match=r"no UTF-8 stand in 2 lines of file:.*lines.csv"):
        ingest.run(settings, spark)
    assert not Tables(spark, settings.tables.root).exists("events")
    assert {event["user_id"] for event in events(spark, of(path, encoding="windows-1252"))} == {"é", "è"}
    written_so = csv(tmp_path / "written.csv", SALE.replace("u,", "\ufffd,"))
    with session_settings(spark, sources.AS_TEXTS):
        source_files.refuse_undecodable(spark, find(of(written_so), spark))


def test_one_id_in_several_forms(spark: SparkSession, tmp_path: Path) -> None:
    forms = ["zo\u00eb", "zoe\u0308", "zo\u00eb\u200b", "\u00a0zo\u00eb"]
    path = csv(tmp_path / "lines.csv", *(SALE.replace("u,", f"{form},") for form in forms))
    assert sorted_lines.oddities(sort_out(spark, of(path))).collect()[0]["odd_ids"] == 3
    normal = of(path, normalise_ids=True)
    assert [event["user_id"] for event in events(spark, normal)] == 4 * [forms[0]]


def test_times_of_no_shop_are_bad(spark: SparkSession, tmp_path: Path) -> None:
    early = [SALE.replace("2024", year) for year in ("0000", "1899", "1969")]
    path = csv(tmp_path / "lines.csv", SALE, SALE.replace("2024", "1970"), *early)
    assert counts(spark, of(path)) == {"sale": 2, "early_time": 3}
    assert counts(spark, of(path, earliest="1800-01-01")) == {"sale": 4, "early_time": 1}


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"time_format": "yyyy-MM-dd hh:mm:ss"}, r"time_format 'yyyy-MM-dd hh:mm:ss' writes .* 04:05:09' and reads"),
        ({"time_format": "yyyy-mm-dd HH:mm"}, r"time_format 'yyyy-mm-dd HH:mm' writes 2001-11-23 16:05:09 as"),
        ({"time_format": "foo"}, r"time_format is 'foo', which Spark does not take"),
        ({"time_format": "YYYY-MM-dd"}, r"time_format is 'YYYY-MM-dd', which Spark does not take: Fail to recognize"),
        ({"item_pattern": "^[0-9"}, r"item_pattern is '\^\[0-9', which Spark does not take"),
        ({"encoding": "nonsense"}, r"encoding is 'nonsense', which Spark does not take"),
        ({"format": "parquet", "decimal": ","}, r"ingest.decimal is for ingest.format csv, got parquet"),
        ({"time_zone": "Mars/Base"}, r"ingest.time_zone is 'Mars/Base', which Spark does not take"),
        ({"encoding": "UTF-16"}, r"encoding 'UTF-16' has line breaks of several bytes"),
        ({"format": "json", "multiline": True}, r"multiline is for ingest.format csv, got json"),
        ({"columns": CLICKS}, r"needs 'order_id'; .* needs 'price'; events may be sales: .* \{price: null\}, or name"),
        ({"columns": CLICKS, "constants": NO_SALES | {"kind": "view"}}, r"'kind' is both in ingest.columns and in"),
        ({"constants": {"kind": "gift"}}, r"constants has the kind 'gift'; known: purchase, return, view"),
        ({"columns": {"item_id": "i", "time": "t"}, "constants": {"kind": "view"}}, r"ingest.columns needs 'user_id'"),
        ({"columns": CLICKS, "kinds": {"A": "view", "a": "cart"}}, r"has the word 'a' more than once"),
        ({"kinds": {"a": "view"}}, r"ingest.kinds needs 'kind' in ingest.columns"),
        ({"columns": COLUMNS | {"price": "quantity"}}, r"has the file's column 'quantity' more than once"),
    ],
)
def test_wrong_settings_are_named_before_a_file_is_read(
    spark: SparkSession, section: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        ingest.run(of("nowhere.csv", **section), spark)


@pytest.mark.parametrize("pattern", ["dd/MM/yy", "M/d/yyyy hh:mm a", "yyyy-MM-dd'T'HH:mm:ss[.SSS]XXX", "yyyyMMdd"])
def test_right_patterns_pass(spark: SparkSession, pattern: str) -> None:
    ingest_rules.try_out(spark, "ingest", of("x", time_format=pattern).ingest)


def test_an_empty_prefix_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"ingest\.cancelled_prefix"):
        load_settings(flags=["ingest.cancelled_prefix=''"])


def test_a_file_with_other_separators_is_refused_with_what_it_has(spark: SparkSession, tmp_path: Path) -> None:
    path = csv(tmp_path / "lines.csv", SALE.replace(",", ";"), header=HEADER.replace(",", ";"))
    with pytest.raises(SchemaError, match=r"no column 'order_id' .* by ';': set ingest.delimiter=\";\""):
        counts(spark, of(path))


def test_spark_s_refusals_say_what_is_wrong(spark: SparkSession, tmp_path: Path) -> None:
    csv(tmp_path / "mixed" / "a.csv", SALE)
    csv(tmp_path / "mixed" / "b.csv", SALE, header=HEADER.replace("price", "cost"))
    with pytest.raises(DataError, match=r"different headers: .*cost"):
        counts(spark, of(tmp_path / "mixed"))
    with pytest.raises(DataError, match=r"Check that it is whole"):
        counts(spark, of(tmp_path / "mixed" / "a.csv", format="parquet"))
    pq.write_table(pa.table({"order_id": pa.array([0], pa.timestamp("ns"))}), tmp_path / "ns.parquet")
    with pytest.raises(DataError, match=r"NANOS.*: write the times in microseconds"):
        counts(spark, of(tmp_path / "ns.parquet", format="parquet"))
    with pytest.raises(SchemaError, match=r"no column 'order_id' .*to be JSON: set ingest.format=json"):
        counts(spark, of(json_lines(tmp_path / "lines.json", [row()])))
    source = find(of(tmp_path / "mixed"), spark)
    with (
        pytest.raises(DataError, match=r"UNRESOLVED_COLUMN.*Check ingest.format and ingest.columns"),
        sources.readable(source),
    ):
        spark.range(1).select("nothing")
    with pytest.raises(DataError, match=r"'.*mixed' is no Delta table; correct the path, or its format"):
        find(of(tmp_path / "mixed", format="delta"), spark)


def test_a_delta_source_is_read_as_it_was_listed(spark: SparkSession, tmp_path: Path) -> None:
    tables, settings = Tables(spark, str(tmp_path)), of(tmp_path / "raw", format="delta")
    rows = spark.createDataFrame([tuple(SALE.split(","))], ", ".join(f"{name} string" for name in COLUMNS))
    tables.write("raw", rows, mode="overwrite", job="other", inputs={})
    source = find(settings, spark)
    tables.write("raw", rows.unionByName(rows).repartition(2), mode="overwrite", job="other", inputs={"n": 2})
    assert sources.read(spark, source, COLUMNS).rows.count() == 1
    changed = find(settings, spark)
    spark.sql(f"OPTIMIZE delta.`{tables.path('raw')}`")
    tidied = find(settings, spark)
    assert tidied.state == changed.state != source.state
    assert tidied.version == tables.version("raw") > changed.state[0]
    assert sources.read(spark, tidied, COLUMNS).rows.count() == 2


def test_a_semicolon_csv_in_latin_1_with_decimal_commas(spark: SparkSession, tmp_path: Path) -> None:
    columns = {**{name: name for name in COLUMNS}, "name": "Bezeichnung"}
    rows = [
        "1;i;'Zoë; d.J.';01.02.2024 10:00;2;1.234,50;'Gabel ''rund'''",
        "2;i;u;01.07.2024 10:00;1;3,5;Gabel",
        "3;i;u;01.07.2024 10:00;1;3.5;Gabel",
    ]
    path = csv(tmp_path / "lines.csv", *rows, header=";".join(columns.values()), encoding="latin-1")
    section = {"delimiter": ";", "encoding": "latin-1", "decimal": ",", "quote": "'", "columns": columns}
    settings = of(path, time_format="dd.MM.yyyy HH:mm", time_zone="Europe/Berlin", **section)
    assert counts(spark, settings) == {"sale": 2, "unreadable_price": 1}
    first, second = events(spark, settings)
    assert (first["user_id"], first["price"], first["name"]) == ("Zoë; d.J.", 1234.5, "Gabel 'rund'")
    assert (first["time"], second["time"]) == ("2024-02-01 09:00:00", "2024-07-01 08:00:00")  # winter's time, summer's


def test_columns_of_a_file_without_header_are_their_places(spark: SparkSession, tmp_path: Path) -> None:
    path = csv(tmp_path / "lines.tsv", SALE.replace(",", "\t").replace("u\t", '"u\t'), header="2\t\t\t\t\t")
    places = {name: number for number, name in enumerate(COLUMNS, start=1)}
    settings = of(path, columns=places, header=False, delimiter="\t", quote="")
    assert counts(spark, settings) == {"sale": 1, "missing_item_id": 1}
    assert [event["user_id"] for event in events(spark, settings)] == ['"u']
    with pytest.raises(SchemaError, match=r"no column .*'price'.*header=false columns are named by their places, 1 to"):
        counts(spark, of(path, columns=COLUMNS, header=False, delimiter="\t", quote=""))


@pytest.mark.parametrize(
    ("time_format", "good", "bad"),
    [
        ("epoch_s", ["1704103200", "1704103200.0", "1.7041032E9"], ["1704103200000", "now", "17"]),
        ("epoch_ms", ["1704103200000", "1704103200000.4"], ["1704103200", "1704103200e20"]),
        ("yyyy-MM-dd'T'HH:mm:ssXXX", ["2024-01-01T11:00:00+01:00"], ["2024-01-01 10:00:00"]),
    ],
)
def test_times_that_need_no_zone(
    spark: SparkSession, tmp_path: Path, time_format: str, good: list[str], bad: list[str]
) -> None:
    lines = [SALE.replace("2024-01-01 10:00:00", time) for time in (*good, *bad)]
    settings = of(csv(tmp_path / "lines.csv", *lines), time_format=time_format, time_zone="Asia/Tokyo")
    found = counts(spark, settings)
    assert found["sale"] == len(good)
    assert sum(found.get(name, 0) for name in ("early_time", "future_time", "unreadable_time")) == len(bad)
    assert {event["time"][:19] for event in events(spark, settings)} == {"2024-01-01 10:00:00"}


def test_typed_times_without_a_zone_are_of_the_zone_said(spark: SparkSession, tmp_path: Path) -> None:
    rows = spark.sql(
        "SELECT 7L order_id, 8L item_id, 9 user_id, timestamp_ntz'2024-01-01 10:00:00' time, 1S quantity, 1.5D price, "
        "date'2024-01-02' arrival_time"
    )
    rows.write.parquet(str(tmp_path / "lines"))
    settings = of(tmp_path / "lines", format="parquet", time_zone="Asia/Tokyo")
    (event,) = events(spark, settings)
    assert (event["order_id"], event["item_id"], event["user_id"]) == ("7", "8", "9")
    assert (event["time"], event["quantity"], event["price"]) == ("2024-01-01 01:00:00", 1, 1.5)
    both = of(tmp_path / "lines", format="parquet", columns=COLUMNS | {"arrival_time": "arrival_time"})
    assert counts(spark, both) == {"sale": 1}


def test_a_column_of_two_types_is_refused_by_name(spark: SparkSession, tmp_path: Path) -> None:
    for folder, price in (("a", "1.5D"), ("b", "'dear'")):
        spark.sql(f"SELECT 1 order_id, array(1) sizes, {price} price").write.parquet(str(tmp_path / "lines" / folder))
    with pytest.raises(SchemaError, match=r"column 'price' is DOUBLE and STRING: write all of them"):
        counts(spark, of(tmp_path / "lines", format="parquet"))


def test_a_shop_s_own_words_are_kinds_and_only_sales_need_prices(spark: SparkSession, tmp_path: Path) -> None:
    words = ["view", "addtocart", 1, "scroll", "transaction", "wishlist", "wishlist", None]
    rows = [{"item": "i", "visitor": "u", "at": 1704103200000 + n, "event": word} for n, word in enumerate(words)]
    path = json_lines(tmp_path / "clicks.json", rows)
    section = {"format": "json", "columns": CLICKS, "kinds": WORDS, "time_format": "epoch_ms"}
    settings = of(path, **section, constants=NO_SALES)
    expected = {"view": 1, "cart": 1, "click": 1, "ignored_kind": 1, "sale": 1, "unknown_kind": 3}
    assert counts(spark, settings) == expected
    assert [(event["kind"], event["price"]) for event in events(spark, settings) if event["kind"] == "cart"] == [
        ("cart", None)
    ]
    # Words that nobody knows are named also where rows could have an order's id: they need none.
    with_orders = of(
        path, **section | {"columns": CLICKS | {"order_id": "basket"}}, constants={"quantity": None, "price": None}
    )
    of_sale = {"sale": "missing_order_id"}
    assert counts(spark, with_orders) == {of_sale.get(name, name): rows for name, rows in expected.items()}
    unknown = sorted_lines.unknown_kinds(sort_out(spark, with_orders)).collect()
    assert [tuple(row) for row in unknown] == [("wishlist", 2), (None, 1)]


@pytest.mark.slow
def test_a_file_of_one_constant_kind(spark: SparkSession, tmp_path: Path) -> None:
    """As MovieLens has it: user, item, rating, timestamp, and nothing of sales."""
    path = csv(tmp_path / "u.data", "196::242::3::881250949", "186::302::x::891717742", header="user::item::stars::at")
    columns = {"user_id": "user", "item_id": "item", "rating": "stars", "time": "at"}
    section = {"columns": columns, "delimiter": "::", "time_format": "epoch_s"}
    settings = of(path, **section, constants={"kind": "rating"})
    assert counts(spark, settings) == {"rating": 1, "unreadable_rating": 1}
    (event,) = events(spark, settings)
    assert (event["user_id"], event["rating"], event["time"]) == ("196", 3.0, "1997-12-04 15:55:49")
    viewed = of(path, **section, constants={"kind": "view"})
    ids = [{event["event_id"] for event in events(spark, one)} for one in (settings, viewed)]
    assert ids[0].isdisjoint(ids[1])  # a constant is a part of the row


@pytest.mark.slow
def test_unknown_words_past_the_limit_are_named(spark: SparkSession, tmp_path: Path) -> None:
    lines = [f"{n},i,u,2024-01-01 10:00:00,1,1,{word}" for n, word in enumerate(["purchase"] * 3 + ["Gift", "gift"])]
    columns = COLUMNS | {"kind": "kind"}
    path = csv(tmp_path / "lines.csv", *lines, header=",".join(columns))
    values = of(path, columns=columns).model_dump()
    root = {"root": str(tmp_path / "tables")}
    with pytest.raises(TooManyBadRows, match=r"unknown_kind: 2\. Kinds are mapped to none of ours: 'gift' \(2\)\. Map"):
        ingest.run(Settings(**values | {"tables": root}), spark)
    settings = Settings(**values | {"tables": root | {"quarantine_limit": 0.5}})
    first = ingest.run(settings, spark)
    assert first["unknown_kinds"] == {"gift": 2}
    assert ingest.run(settings, spark) == first | {"up_to_date": True}


def test_the_kinds_of_the_settings_are_ours() -> None:
    assert get_args(Kind) == KINDS
