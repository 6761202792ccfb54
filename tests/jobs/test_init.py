"""`millrace init`: a file's columns matched to a task's, in settings that load once the marks are gone."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import init
from jobs.settings import Settings, load_settings
from jobs.tasks import TASKS
from training.errors import DataError, SettingsError


def settings_of(task: str, data: Path, **marks: str) -> Settings:
    """The settings that `init` writes, with each mark replaced by what a person would write."""
    text = init.text(task, str(data))
    for name, value in marks.items():
        text = re.sub(rf"^( *){name}: \?\?\?.*$", rf"\1{name}: {value}", text, flags=re.MULTILINE)
    path = data.parent / f"{task}.yaml"
    path.write_text(text)
    return load_settings(path)


def test_a_shops_lines_are_matched(tmp_path: Path) -> None:
    data = tmp_path / "lines.csv.gz"
    header = "InvoiceNo;StockCode;Description;Quantity;InvoiceDate;UnitPrice;CustomerID\n"
    with gzip.open(data, "wt") as file:
        file.write(header + "1;a;mug;2;24.12.2024 10:30;2,5;c1\n" * 3)
    asked = settings_of("recommend", data).ingest
    assert (asked.delimiter, asked.decimal, asked.time_format) == (";", ",", "dd.MM.yyyy HH:mm")
    assert asked.columns == {
        "item_id": "StockCode", "user_id": "CustomerID", "time": "InvoiceDate", "order_id": "InvoiceNo",
        "quantity": "Quantity", "price": "UnitPrice", "name": "Description",
    }  # fmt: skip


def test_a_stream_of_clicks_is_matched(tmp_path: Path) -> None:
    data = tmp_path / "clicks.json"
    data.write_text('{"visitor": "v", "sku": "s", "timestamp": 1700000000000, "event": "view"}\nno json\n')
    asked = settings_of("recommend", data).ingest
    assert (asked.format, asked.time_format) == ("json", "epoch_ms")
    assert asked.columns == {"item_id": "sku", "user_id": "visitor", "time": "timestamp", "kind": "event"}
    assert asked.constants == {"order_id": None, "quantity": None, "price": None}


def test_words_of_a_shop_s_own_are_asked_for(tmp_path: Path) -> None:
    data = tmp_path / "clicks.json"
    row = {"visitor": "v", "sku": "s", "ts": "2026-01-01T10:00:00.123Z", "basket": None}
    data.write_text("".join(json.dumps(row | {"event": word}) + "\n" for word in ("page_view", "Page_View", "add: it")))
    text = init.text("recommend", str(data))
    assert "None" not in text
    with pytest.raises(
        SettingsError, match=r"2 problem.*\n.*add: it: \?\?\? stands .*\n.*kinds\.page_view: \?\?\? stands"
    ):
        settings_of("recommend", data)
    path = tmp_path / "shop.yaml"
    path.write_text(text.replace('"page_view": ???', '"page_view": view').replace('"add: it": ???', '"add: it": null'))
    asked = load_settings(path).ingest
    assert (asked.kinds, asked.time_format) == ({"page_view": "view", "add: it": None}, "yyyy-MM-dd'T'HH:mm:ss.SSSXXX")


def test_utf16_is_refused_with_what_to_do(tmp_path: Path) -> None:
    data = tmp_path / "lines.csv"
    data.write_text("user,item,date\nu,i,2024-01-01\n", encoding="utf-16")
    with pytest.raises(DataError, match=r"lines\.csv' begins as UTF-16 does, .* write it as UTF-8"):
        init.text("recommend", str(data))


def test_bytes_that_are_no_utf8_have_an_encoding(tmp_path: Path) -> None:
    data = tmp_path / "lines.csv"
    data.write_text("user,item,date,Gruppe_ä\nu,i,2024-01-01,Möbel\n", encoding="latin-1")
    asked = settings_of("recommend", data).ingest
    assert asked.encoding == "windows-1252"
    assert "Gruppe_ä" in init.text("recommend", str(data))


def test_times_by_their_type_need_no_format(tmp_path: Path) -> None:
    data = tmp_path / "lines.parquet"
    times = pa.array([None, 1_700_000_000_123_456], pa.timestamp("us"))
    pq.write_table(pa.table({"user": ["u", "u"], "item": ["i", "i"], "time": times}), data)
    text = init.text("recommend", str(data))
    assert 'time: "time"' in text
    assert "time_format" not in text


def test_a_file_of_ratings_has_no_purchases(tmp_path: Path) -> None:
    data = tmp_path / "ratings.csv"
    data.write_text("userId,movieId,rating,timestamp\n1,31,2.5,1260759144\n")
    asked = settings_of("recommend", data)
    assert asked.ingest.columns == {"item_id": "movieId", "user_id": "userId", "time": "timestamp", "rating": "rating"}
    assert (asked.ingest.constants, asked.ingest.time_format) == ({"kind": "rating"}, "epoch_s")
    assert asked.examples.weights == {"rating": 1}
    data.write_text("order,user,item,ts,price,quantity,rating\n7,1,31,1260759144,2.5,1,5\n")
    sold = settings_of("recommend", data)
    assert (sold.ingest.constants, sold.examples.weights) == ({}, {"purchase": 1})


def test_what_a_task_reads_of_a_sale_is_asked_for(tmp_path: Path) -> None:
    data = tmp_path / "sales.csv"
    data.write_text("order,user,item,ts,qty,zz\n7,1,31,1260759144,1,5\n")
    text = init.text("customers", str(data))
    assert "    price: ???   # if the shop has none: leave it out, and constants: {price: null}" in text
    assert "constants: {" not in text.replace("constants: {price: null}", "")
    assert settings_of("customers", data, price="zz").ingest.columns["price"] == "zz"


def test_reviews_without_a_time_are_held_out_by_a_hash(tmp_path: Path) -> None:
    data = tmp_path / "reviews.csv"
    data.write_text("review_id,product,text,label\n1,p," + "long " * 99 + ",0\n")
    text = init.text("sentiment", str(data))
    assert "long " * 40 not in text, "an example is cut"
    (tmp_path / "hashed.yaml").write_text(text)
    reviews = load_settings(tmp_path / "hashed.yaml").sources["reviews"]
    assert (reviews.order_by_hash_of, "time" in reviews.columns) == (("text",), False)
    (tmp_path / "timed.csv").write_text("review_id,product,text,label,time\n1,p,t,0,2026-01-01\n")
    assert "order_by_hash_of" not in init.text("sentiment", str(tmp_path / "timed.csv"))
    (tmp_path / "cases.csv").write_text("case_id,address,label\n1,a,0\n2,a,1\n")
    assert "\n    # order_by_hash_of: [text] " in init.text("fraud", str(tmp_path / "cases.csv"))


def test_a_column_that_says_the_opposite_is_turned(tmp_path: Path) -> None:
    """And no column is taken for two of ours, nor for one that it is only nearly called like."""
    data = tmp_path / "reviews.csv"
    data.write_text("Review,Recommended\ngood,1\nbad,0\n")
    text = init.text("sentiment", str(data))
    (tmp_path / "made.yaml").write_text(text)
    settings = load_settings(tmp_path / "made.yaml")
    reviews = settings.sources["reviews"]
    assert reviews.columns == {"text": "Review", "label": "Recommended"}
    assert reviews.words == {"label": {"0": 1, "1": 0}}
    assert settings.options.model_dump()["has"] == ()
    assert settings.run_dir == "out/sentiment-reviews/run"
    data.write_text("Review,Labels,sentiment\ngood,a,1\nbad,b,0\n")
    text = init.text("sentiment", str(data))
    assert 'label: "sentiment"' in text
    assert 'words: {label: {"0": 1, "1": 0}}' in text
    data.write_text("Review,sentiment\ngood,positive\nbad,negative\n")
    assert "label:   # the column says the opposite: 0 where it says yes" in init.text("sentiment", str(data))


def test_products_in_branches_are_series_of_both(tmp_path: Path) -> None:
    data = tmp_path / "sales.csv"
    data.write_text("store,product,week,units\nA,P1,2025-01-06,3\n")
    (tmp_path / "made.yaml").write_text(init.text("demand", str(data)))
    sales = load_settings(tmp_path / "made.yaml").sources["sales"]
    assert sales.joined == {"series_id": ("store", "product")}
    assert sales.columns == {"time": "week", "quantity": "units"}
    data.write_text("series_id,store,week,units\nA,S,2025-01-06,3\n")
    assert 'series_id: "series_id"' in init.text("demand", str(data))


def test_a_column_a_period_is_wide(tmp_path: Path) -> None:
    data = tmp_path / "sales.csv"
    data.write_text("item_id," + ",".join(f"d_{day}" for day in range(9)) + "\nP1," + ",".join("1" * 9) + "\n")
    text = init.text("demand", str(data))
    assert '    wide: {prefix: "d_", start: ???, days: ???}' in text
    assert "time" not in text.split("options:")[0].split("columns:")[1]
    data.write_text(
        "item_id,week,units," + ",".join(f"lag{n}" for n in range(9)) + "\nP1,2025-01-06,3" + ",1" * 9 + "\n"
    )
    assert "wide:" not in init.text("demand", str(data))
    data.write_text("item_id,week,units\n")
    with pytest.raises(DataError, match="has no rows; name a file with a header and rows"):
        init.text("demand", str(data))


def test_a_column_that_is_hashed_and_was_not_found_is_asked_for(tmp_path: Path) -> None:
    data = tmp_path / "messages.csv"
    data.write_text("foo,intent\nwhere is it,track\n")
    text = init.text("service", str(data))
    assert "null" not in text.split("options:")[0]
    made = settings_of("service", data, text="foo", order_by_hash_of="[foo]")
    assert made.sources["messages"].order_by_hash_of == ("foo",)


def test_values_of_several_lines_and_a_mark_at_the_beginning(tmp_path: Path) -> None:
    data = tmp_path / "lines.csv"
    data.write_text('sku,user,at,"two\nlines",event\n"a\nb: [",u,2024-01-01,x,view\n', encoding="utf-8-sig")
    asked = settings_of("recommend", data).ingest
    assert asked.columns == {"item_id": "sku", "user_id": "user", "time": "at", "kind": "event"}
    assert asked.multiline


@pytest.mark.parametrize("name", ["torn.csv.gz", "torn.parquet"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    damaged = bytearray(gzip.compress(bytes(range(256)) * 99))
    damaged[20:40] = b"\xff" * 20
    (tmp_path / name).write_bytes(damaged)
    with pytest.raises(DataError, match=rf"{name}' cannot be read: "):
        init.text("recommend", str(tmp_path / name))


def test_card_transactions_need_no_mark(tmp_path: Path) -> None:
    """Numbers with fractions are amounts; what is left is what cases share."""
    data = tmp_path / "transactions.csv"
    data.write_text(
        "transaction_id,time,Customer ID,terminal,amount,fraud\n"
        "1,2018-04-01 00:08:08,615,563,155.43,0\n2,2018-04-01 00:09:08,7,564,20,1\n"
    )
    settings = settings_of("fraud", data)
    assert settings.options.model_dump(include={"entities", "numbers", "means", "has"}) == {
        "entities": ("customer_id", "terminal"),
        "numbers": ("amount",),
        "means": ("amount",),
        "has": ("case_id",),
    }
    assert settings.sources["cases"].columns["customer_id"] == "Customer ID"


TRANSACTIONS = "TRANSACTION_ID,TX_DATETIME,CUSTOMER_ID,TERMINAL_ID,TX_AMOUNT,CHANNEL,TX_FRAUD,TX_FRAUD_SCENARIO"


def transactions(header: str = TRANSACTIONS, amount: str = "57.16") -> str:
    rows = (f"{n},2018-04-01 00:00:{n},{n % 9},{n % 7},{amount},{n % 2},0,0" for n in range(10, 30))
    return "\n".join([header, *rows]) + "\n"


def test_words_of_a_label_are_asked_for(tmp_path: Path) -> None:
    """And no id, where the file has none."""
    data = tmp_path / "registrations.csv"
    data.write_text("ip,e_mail,EVENT_TIMESTAMP,EVENT_LABEL\n" + "1.2.3.4,a@b,2022-01-01,legit\n" * 9)
    text = init.text("fraud", str(data))
    said = text.replace('"legit": ???', '"legit": 0')
    (tmp_path / "said.yaml").write_text(said)
    with pytest.raises(SettingsError, match=r"words\.label\.the other word, which .*: \?\?\? stands"):
        load_settings(tmp_path / "said.yaml")
    (tmp_path / "said.yaml").write_text(re.sub('"the other word.*": ...', '"fraud": 1', said))
    settings = load_settings(tmp_path / "said.yaml")
    assert settings.sources["cases"].words == {"label": {"legit": 0, "fraud": 1}}
    assert settings.options.model_dump(include={"has", "entities"}) == {"has": (), "entities": ("ip", "e_mail")}
    data.write_text("ip,e_mail,EVENT_TIMESTAMP,EVENT_LABEL\n1.2.3.4,a@b,2022-01-01,Yes\n")
    assert " words:" not in init.text("fraud", str(data))


def test_a_click_stream_is_learnt_from_by_its_steps(tmp_path: Path) -> None:
    data = tmp_path / "clicks.csv"
    rows = "".join(f"v{n % 2},u,i,2026-01-01,{word}\n" for n, word in enumerate(("view", "Add to cart", "purchase")))
    data.write_text("session,user,item,time,event\n" + rows)
    settings = settings_of("intent", data)
    assert settings.options.model_dump(include={"of", "has", "pages", "orders"}) == {
        "of": "steps",
        "has": ("session_id", "user_id", "item_id"),
        "pages": {"add_to_cart": ("Add to cart",), "view": ("view",)},
        "orders": ("purchase",),
    }
    assert settings.sources["steps"].columns["page"] == "event"
    rows = "".join(
        f"v{n % 2},2026-01-01,{word}\n" for n, word in enumerate(("Home", "home", "view 😀", "payment_info"))
    )
    data.write_text("session,time,event\n" + rows)
    with pytest.raises(SettingsError, match=r"options\.orders\.0: \?\?\? stands"):
        settings_of("intent", data)
    data.write_text("session,time,event\n" + rows + "v1,2026-01-01,order\n")
    assert settings_of("intent", data).options.model_dump(include={"pages"})["pages"] == {
        "home": ("Home", "home"), "payment_info": ("payment_info",), "view": ("view 😀",),
    }  # fmt: skip


def test_a_row_a_session_is_no_click_stream(tmp_path: Path) -> None:
    """Where a column is a label, or no session has two rows; what tells of an order or of whom it is, is left out."""
    data = tmp_path / "sessions.csv"
    rows = "".join(f"{n},2026-01-0{n + 1},new,{n / 4},,u{n},{n % 2}\n" for n in range(8))
    data.write_text("id,time,type,seconds,empty,customer_id,revenue\n" + rows)
    made = settings_of("intent", data)
    assert made.options.model_dump(include={"of", "has", "numbers", "flags", "ids"}) == {
        "of": "sessions", "has": ("session_id",), "numbers": ("seconds",), "flags": (), "ids": ("type",),
    }  # fmt: skip
    data.write_text("PageValues,Month,Weekend,Revenue\n" + "0.5,Feb,FALSE,TRUE\n1,Mar,TRUE,FALSE\n" * 4)
    made = settings_of("intent", data, order_by_hash_of="[PageValues]", time="PageValues", time_format="epoch_s")
    assert made.options.model_dump(include={"of", "has", "numbers", "flags", "ids"}) == {
        "of": "sessions", "has": (), "numbers": ("pagevalues",), "flags": ("weekend",), "ids": ("month",),
    }  # fmt: skip


def test_no_label_and_no_time_is_taken_for_what_cases_share(tmp_path: Path) -> None:
    data = tmp_path / "transactions.csv"
    data.write_text(transactions())
    settings = settings_of("fraud", data)
    assert settings.sources["cases"].columns["label"] == "TX_FRAUD"
    assert settings.options.model_dump(include={"entities", "numbers"}) == {
        "entities": ("customer_id", "terminal_id"),
        "numbers": ("tx_amount",),
    }
    data.write_text(transactions(TRANSACTIONS.replace("TX_FRAUD,", "ZZ,").replace("SCENARIO", "KIND")))
    text = init.text("fraud", str(data))
    assert "label: ???" in text
    assert "tx_amount" in text
    assert "terminal_id" not in text.split("# The file's columns")[1].split("options:")[1]


def test_amounts_with_a_decimal_comma_are_said_to_have_one(tmp_path: Path) -> None:
    data = tmp_path / "transactions.csv"
    data.write_text(transactions(amount='"1.057,16"'))
    settings = settings_of("fraud", data)
    assert settings.options.model_dump(include={"numbers"}) == {"numbers": ("tx_amount",)}
    assert settings.sources["cases"].decimal == ","


def test_names_that_cannot_be_told_apart_or_are_too_long_are_no_guess(tmp_path: Path) -> None:
    data = tmp_path / "transactions.csv"
    data.write_text(transactions(TRANSACTIONS.replace("CUSTOMER_ID", "Card").replace("TERMINAL_ID", "card")))
    text = init.text("fraud", str(data))
    assert "# These differ in case and signs alone, rename them before: Card, card" in text
    assert '"card"' not in text
    data.write_text(transactions(TRANSACTIONS.replace("CUSTOMER_ID", "c" * 101)))
    assert settings_of("fraud", data).options.model_dump(include={"entities"}) == {"entities": ("terminal_id",)}


def test_what_is_not_found_is_marked(tmp_path: Path) -> None:
    data = tmp_path / "cases.parquet"
    pq.write_table(pa.table({"stamp": ["2025-01-01T10:00:00Z"], "isFraud": [1], "zz": ["x"]}), data)
    text = init.text("fraud", str(data))
    assert 'label: "isFraud"' in text
    asked = settings_of("fraud", data, time="stamp", time_format='"yyyy"')
    assert asked.model["name"] == "row_mlp"
    assert asked.sources["cases"].columns["time"] == "stamp"


def test_a_folder_of_pictures_is_begun_with(tmp_path: Path) -> None:
    (tmp_path / "raw" / "hats").mkdir(parents=True)
    (tmp_path / "raw" / "hats" / "P17.JPG").write_bytes(b"any")
    made = settings_of("image", tmp_path / "raw").sources["pictures"]
    assert made.format == "images"
    assert made.columns == {"item_id": "file", "time": "modified", "picture": "content", "category": "folder"}
    (tmp_path / "idx").mkdir()
    (tmp_path / "idx" / "train-images-idx3-ubyte.gz").write_bytes(b"any")
    made = settings_of("image", tmp_path / "idx").sources["pictures"]
    assert made.format == "idx"
    assert made.columns == {name: name for name in ("item_id", "time", "picture")}
    with pytest.raises(DataError, match="or a folder of pictures"):
        init.text("image", str(tmp_path / "raw" / "nothing"))
    table = pa.table({"sku": ["a"], "image": [b"12345"], "at": [1_700_000_000]})
    pq.write_table(table, tmp_path / "items.parquet")
    assert 'picture: "image"   # e.g. 5 bytes' in init.text("image", str(tmp_path / "items.parquet"))


@pytest.mark.parametrize("task", sorted(TASKS))
def test_every_task_can_be_begun(task: str, tmp_path: Path) -> None:
    (tmp_path / "some.csv").write_text("a,b\n1,2\n")
    assert f"task: {task}" in init.text(task, str(tmp_path / "some.csv"))


def test_no_such_task_or_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"the task must be one of .*recommend.*; got 'bake'"):
        init.text("bake", "x.csv")
    with pytest.raises(DataError, match=r"nowhere\.csv' is no file of this machine"):
        init.text("fraud", str(tmp_path / "nowhere.csv"))
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(DataError, match="has no columns"):
        init.text("fraud", str(tmp_path / "empty.csv"))
    (tmp_path / "torn.csv.gz").write_bytes(b"\x1f\x8b no gzip")
    with pytest.raises(DataError, match="cannot be read"):
        init.text("fraud", str(tmp_path / "torn.csv.gz"))
