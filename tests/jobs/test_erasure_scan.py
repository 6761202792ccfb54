"""What a search by Spark would pass over."""

from __future__ import annotations

from jobs.erasure.scan import passed_over


def test_hidden_folders_are_named_and_hidden_files_read() -> None:
    seen = ["events/part-0.parquet", "list.csv", "events/day=1/part-0.parquet"]
    inner = ["events/_delta_log/0.json", "events/_delta_log/_sidecars/0.parquet", "events/_temporary/0/_x/0/part-0"]
    hidden = ["events/.part-0.inprogress", "events/_delta_log/_last_checkpoint", ".erase.lock", "a/b._COPYING_"]
    folders, files = passed_over("s3a://shop/_t", [f"s3a://shop/_t/{path}" for path in (*seen, *inner, *hidden)])
    assert folders == [
        f"s3a://shop/_t/{name}"
        for name in ("events/_delta_log", "events/_delta_log/_sidecars", "events/_temporary/0/_x")
    ]
    assert files == [f"s3a://shop/_t/{path}" for path in hidden]
