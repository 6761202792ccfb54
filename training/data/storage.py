"""Object stores: one file system a bucket, and what a store's refusal says to a person.

Some stores answer a wrong signature with the request as they understood it: key id, session token and all (S3's
`CanonicalRequest`); others carry a signature in the URL. So of a store's answer only the name of its error is shown, of
a URL nothing behind the question mark, and the store's own error is not chained.
"""

from __future__ import annotations

import re

LOCAL = "file:"
_BRANCH = re.compile(r"\s*(?:\x1b\[\d+m)?↳(?:\x1b\[\d+m)?\s*")
_ANSWER = re.compile(r"<.*", re.DOTALL)
_CODE = re.compile(r"<Code>\s*(\w+)")
_QUERY = re.compile(r"(\w+://[^\s?]+)\?\S*")
_LOCAL_URL = re.compile(r"(file|dbfs):(?://[^/]*)?(?=/)")
_STORES_OWN = re.compile(r"Error performing [A-Z]+ |Generic [\w ]+ error|lacked the necessary privileges")


def from_store(error: BaseException) -> bool:
    """Whether an error is an object store's, by way of delta-rs, and not the local disk's or Parquet's."""
    return isinstance(error, OSError) and bool(_STORES_OWN.search(str(error)))


def cut_short(error: BaseException) -> bool:
    """Whether a store was asked for bytes behind an object's end: it is shorter than the log says."""
    return from_store(error) and "416 Range Not Satisfiable" in str(error)


def reason(error: BaseException) -> str:
    """An error of delta-rs's in one line, without what may be secret."""
    text = _BRANCH.sub(": ", str(error).strip())
    return " ".join(_QUERY.sub(r"\1", _ANSWER.sub(_code, text)).split())


def split_root(path: str) -> tuple[str, str]:
    """Where a path of the log leads: (bucket, key) of a URL, (`LOCAL`, path) of a local one, ("", path) in the table.

    A shallow clone names its source's files by URL. Nothing in the path is escaped, so a local one is not parsed as a
    URL again.
    """
    local = _LOCAL_URL.match(path)
    if local is not None:
        return LOCAL, ("/dbfs" if local[1] == "dbfs" else "") + path[local.end() :]
    scheme, separator, rest = path.partition("://")
    if not separator:
        return "", path
    bucket, _, key = rest.partition("/")
    return f"{scheme}://{bucket}", key


def _code(answer: re.Match[str]) -> str:
    found = _CODE.search(answer[0])
    return found[1] if found else "(its answer is left out)"
