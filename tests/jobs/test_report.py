"""The report: complete from a full run folder, honest from an empty one, and never takes a name for HTML."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from jobs import report
from jobs.artefacts import EVALUATION, FEEDBACK, LATEST, STAGES, TUNING, write_json
from jobs.page.frame import html, table
from jobs.page.result_figures import bars_with_intervals, panel
from jobs.page.results import BEYOND_REACH, feedback_section
from jobs.settings import Settings
from jobs.task import TRUTH
from tests.jobs.artefacts import NASTY, evaluation, leave_run, tuning
from training.errors import ArtefactError

SECTIONS = ["metrics", "examples", "popularity", "feedback", "training", "tuning", "score", "stages"]


class Outline(HTMLParser):
    """Which elements there are, what they load from elsewhere, and whether every one is closed."""

    VOID = ("meta", "link", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def made(run_dir: Path) -> tuple[str, dict[str, Any]]:
    summary = report.run(Settings(run_dir=str(run_dir)))
    return Path(summary["path"]).read_text(encoding="utf-8"), summary


def test_the_middle_of_a_forecast_is_its_median() -> None:
    """Whatever the levels beside it."""
    of = {level: [["2025-01-06", float(level)]] for level in ("0.5", "0.75", "0.9")}
    drawn = panel({"quantiles": of, "history": [], "truth": []}).to_dict()["data"]
    assert [line["y"] for line in drawn if line.get("name") == "forecast"] == [[0.5]]


def test_the_best_bar_is_on_top() -> None:
    found = {"ours": {"value": 0.2}, "theirs": {"value": 0.3}}
    for lower, bottom_up in ((False, ["ours", "theirs"]), (True, ["theirs", "ours"])):
        drawn = bars_with_intervals(found, lower=lower).to_dict()["data"][0]
        assert list(drawn["y"]) == bottom_up


def without_plotly(text: str) -> str:
    """The page without the library's own source."""
    return re.sub(r"<script>.{1000000,}?</script>", "", text, count=1, flags=re.DOTALL)


def test_of_two_reports_at_once_each_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_run(tmp_path)
    write_text, inner = Path.write_text, list[str]()

    def and_another_begins(path: Path, text: str, **kwargs: Any) -> int:
        written = write_text(path, text, **kwargs)
        if not inner:
            inner.append("begun")
            inner.append(made(tmp_path)[0])
        return written

    monkeypatch.setattr(Path, "write_text", and_another_begins)
    text, _ = made(tmp_path)
    assert all(page.endswith("</html>\n") for page in (text, inner[1]))
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_a_full_run_fills_every_section(tmp_path: Path) -> None:
    leave_run(tmp_path)
    text, summary = made(tmp_path)
    assert summary["sections"] == SECTIONS
    page = without_plotly(text)
    assert page.count("Plotly.newPlot") == 14
    assert page.count("<figcaption>") >= 14
    assert "the loaders delivered 123,456 rows/s (7.9 MB/s) over all ranks" in page
    assert "0.131" in page  # ours, new items
    assert re.search(r"0\.100\*<?\s*<small>\[0\.092, 0\.108\]", page)  # ALS differs beyond chance
    assert not re.search(r"0\.093\*", page)  # item-item does not
    assert "328,397 examples" in page
    assert "negatives_kept 0.1, focal 2.0" in page
    assert "two_tower-0123456789ab" in page
    assert "recall@20 [0.121, 0.142], items new to the customer" in page
    assert "ndcg@20 -0.020 [-0.030, -0.010]: worse than Item-item" in page
    assert page.count("<summary>In lists of 50</summary>") == 2


def test_the_page_is_well_formed_and_loads_nothing(tmp_path: Path) -> None:
    leave_run(tmp_path)
    outline = Outline()
    outline.feed(made(tmp_path)[0])
    assert outline.open == []
    for tag, attributes in outline.seen:
        assert "src" not in attributes, tag
        assert (attributes.get("href") or "#").startswith(("#", "data:")), attributes
    anchors = [attributes["id"] for tag, attributes in outline.seen if tag == "section"]
    assert anchors == SECTIONS


def test_names_are_escaped_and_hits_are_marked(tmp_path: Path) -> None:
    leave_run(tmp_path)
    page = without_plotly(made(tmp_path)[0])
    assert NASTY not in page
    assert "<script>alert" not in page
    assert html(NASTY) in page
    assert page.count("<li class=hit>") == sum(
        item in customer["then_bought"] for customer in evaluation()["examples"] for item in customer["recommended"]
    )


def test_a_nasty_parameter_name_stays_text_in_a_figure(tmp_path: Path) -> None:
    held = tuning()
    held["importances"] = {"<img src=x onerror=alert(1)>": 1.0}
    write_json(tmp_path, TUNING, held)
    assert "<img" not in without_plotly(made(tmp_path)[0])


def test_a_folder_of_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("nowhere", "empty"):
        with pytest.raises(
            ArtefactError, match=rf"nothing to report in run_dir '.*{name}': .* name the folder of a run"
        ):
            made(tmp_path / name)
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]


def test_a_run_that_has_just_begun_says_what_is_missing(tmp_path: Path) -> None:
    write_json(tmp_path, STAGES, [{"stage": "ingest", "seconds": 1.0}])
    text, summary = made(tmp_path)
    assert summary["sections"] == ["stages"]
    page = without_plotly(text)
    for job in ("evaluate", "train", "tune", "score", "ingest-feedback"):
        assert f"<code>millrace {job}</code>" in page


def test_the_training_shows_from_its_summary_where_there_is_no_record(tmp_path: Path) -> None:
    leave_run(tmp_path)
    (tmp_path / "record.jsonl").unlink()
    history = [{"epoch": 0, "step": 10, "loss": 2.0, "recall_at_20": 0.1}]
    write_json(tmp_path, "latest.json", {"bundle": "b", "identity": "0", "summary": {"history": history}})
    page, summary = made(tmp_path)
    assert "training" in summary["sections"]
    assert 'id="plot-validation"' in page


def test_a_torn_file_is_named(tmp_path: Path) -> None:
    (tmp_path / EVALUATION).write_text('{"ks": [')
    with pytest.raises(
        ArtefactError, match=r"evaluation\.json' must be JSON .*remove it and run `millrace evaluate` again"
    ):
        made(tmp_path)


def test_a_summary_of_another_type_is_named(tmp_path: Path) -> None:
    """As a person may write it; a file without a checksum is one of an older version."""
    latest = {"bundle": "b", "identity": "i", "summary": {"steps": 3, "rows": "many"}}
    (tmp_path / LATEST).write_text(json.dumps(latest))
    with pytest.raises(
        ArtefactError, match=r"latest\.json' must be JSON as Millrace writes it; summary\.rows: .*integer"
    ):
        made(tmp_path)


def test_feedback_with_and_without_a_comparison(tmp_path: Path) -> None:
    single = {"moment": "2025-01-01", "shown": 200, "viewed": 20, "purchased": 10, "ignored": 170}
    assert "10 bought (5.00%)" in feedback_section(single).body.text
    rounds = [{"name": f"<{n}>", "bundle": "b", "shown": 100, "purchased": n, "true_value": n / 10} for n in (2, 1)]
    compared = feedback_section({**single, "rounds": rounds}).body.text
    assert "<tr class=marked><td>&lt;2&gt;</td>" in compared
    assert "2.00%" in compared
    assert "(0.00%)" in feedback_section({"shown": 0, "purchased": 0}).body.text
    write_json(tmp_path, FEEDBACK, single)
    assert made(tmp_path)[1]["sections"] == ["feedback"]


def test_a_table_escapes_and_aligns() -> None:
    text = table(["a<b", "n"], [["<i>", 1234], ["x", 0.5]], marked=1, caption="how & why").text
    assert "a&lt;b" in text
    assert "&lt;i&gt;" in text
    assert "<td class=right>1,234</td>" in text
    assert "<tr class=marked><td>x</td><td class=right>0.5</td></tr>" in text
    assert "how &amp; why" in text


def test_a_task_without_lists_is_reported_in_its_own_words(tmp_path: Path) -> None:
    of = {"past_fraud_rate": 0.2, "millrace": 0.4, TRUTH: 0.6}
    models = {name: {"average_precision": {"value": v, "low": v - 0.1, "high": v + 0.1}} for name, v in of.items()}
    lead = {"past_fraud_rate": {"average_precision": {"value": 0.2, "low": 0.1, "high": 0.3}}}
    asked = {"what": "cases after the cut", "users": 9, "models": models, "differences": lead}
    headline = {"judged": {"average precision": "average_precision"}, "beside": {}, "rows": "cases", "lower": []}
    evaluation = {"bundle": "b", "test_from": "2025-10-28T00:00:00", "version": 0, "ks": [], "headline": headline}
    write_json(tmp_path, EVALUATION, evaluation | {"protocols": {"after": asked}})
    text = Path(report.run(Settings(task="fraud", run_dir=str(tmp_path)))["path"]).read_text(encoding="utf-8")
    page = without_plotly(text)
    assert ">Cases after the cut (9 cases)</h3>" in page
    assert "average precision [0.300, 0.500], cases after the cut" in page
    assert "average precision +0.200 [+0.100, +0.300]: better than Past fraud rate" in page
    assert page.count(html(BEYOND_REACH)) == 1
    assert not {"customer", "items"} & set(page.split())
