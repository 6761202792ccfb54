"""A bucket on 127.0.0.1 for tests: the part of S3's protocol that Delta tables use, with its signatures checked.

Objects are files below a folder, so a test can take one away or cut one short. Requests must be signed (AWS Signature
Version 4) over the key as S3 itself would write it, so a client that encodes a key otherwise is refused here as it is
there.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar, NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlsplit
from xml.sax.saxutils import escape, unescape

KEY_ID, SECRET, BUCKET, REGION = "AKIAMILLRACETEST", "planted/secret+of+the+test", "shop", "eu-central-1"
# Buckets that answer everything with an error, and one that does not answer.
ANSWERS = {"denied": (403, "AccessDenied"), "busy": (503, "SlowDown")}
SILENT = "silent"


class Store(NamedTuple):
    """A bucket that is served.

    Attributes:
        folder: its objects, as files below it.
        endpoint: the URL that it answers at.
    """

    folder: Path
    endpoint: str

    @property
    def options(self) -> dict[str, str]:
        """What a user gives to reach it, the secret included."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": REGION,
            "AWS_ACCESS_KEY_ID": KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET,
        }


@contextmanager
def serve(folder: Path, delay_s: float = 0) -> Iterator[Store]:
    """Serve a folder as the bucket `shop`, on a free port of 127.0.0.1, from a process of its own.

    Delta-rs holds Python's lock while it opens a file, so a server in the same process would never answer it.
    """
    command = [sys.executable, "-m", __name__, str(folder), str(delay_s)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield Store(folder, f"http://127.0.0.1:{int(process.stdout.readline())}")


class _Server(ThreadingHTTPServer):
    request_queue_size = 128  # a connection past the queue is not refused, it is never answered


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or a body waits for the headers to be acknowledged, 40 ms
    folder: Path
    delay_s: float
    parts: ClassVar[dict[str, dict[int, bytes]]] = {}  # of uploads in parts, by key

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_PUT = do_POST = do_GET  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        return

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        bucket, _, key = unquote(urlsplit(self.path).path).removeprefix("/").partition("/")
        time.sleep(60 if bucket == SILENT else self.delay_s)
        if bucket in ANSWERS:
            self._send(*ANSWERS[bucket])
        elif self._signature() != _given(self.headers["Authorization"] or "", "Signature"):
            self._send(403, "SignatureDoesNotMatch")
        elif bucket != BUCKET:
            self._send(404, "NoSuchBucket")
        elif "uploads=" in self.path or "uploadId=" in self.path:
            self._upload(key, body)
        elif self.command == "PUT":
            self._put(self.folder / key, body)
        elif self.command == "POST":
            self._delete(body.decode())
        elif self.command == "GET" and not key:
            self._list()
        elif (self.folder / key).is_file():
            self._get((self.folder / key).read_bytes())
        else:
            self._send(404, "NoSuchKey")

    def _put(self, file: Path, body: bytes) -> None:
        if self.headers.get("If-None-Match") == "*" and file.exists():
            self._send(412, "PreconditionFailed")
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(body)
        self._send(200, ETag=_etag(body))

    def _upload(self, key: str, body: bytes) -> None:
        """An upload in parts: begun, given a part, or completed, which makes the object."""
        number = dict(parse_qsl(urlsplit(self.path).query)).get("partNumber")
        if "uploads=" in self.path:
            self.parts[key] = {}
            told = f"<Bucket>{BUCKET}</Bucket><Key>{escape(key)}</Key><UploadId>1</UploadId>"
            self._send(200, f"<InitiateMultipartUploadResult>{told}</InitiateMultipartUploadResult>".encode())
        elif number is not None:
            self.parts[key][int(number)] = body
            self._send(200, ETag=_etag(body))
        else:
            whole = b"".join(part for _, part in sorted(self.parts.pop(key).items()))
            (self.folder / key).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / key).write_bytes(whole)
            told = f"<Key>{escape(key)}</Key><ETag>{escape(_etag(whole))}</ETag>"
            self._send(200, f"<CompleteMultipartUploadResult>{told}</CompleteMultipartUploadResult>".encode())

    def _delete(self, body: str) -> None:
        """DeleteObjects."""
        keys = [unescape(key) for key in re.findall(r"<Key>(.*?)</Key>", body)]
        for key in keys:
            (self.folder / key).unlink(missing_ok=True)
        told = "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in keys)
        self._send(200, f"<DeleteResult>{told}</DeleteResult>".encode())

    def _get(self, found: bytes) -> None:
        headers = {"ETag": _etag(found), "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
        asked = self.headers.get("Range")
        if asked is None:
            self._send(200, found, **headers)
            return
        first, _, last = asked.removeprefix("bytes=").partition("-")
        start = int(first) if first else max(0, len(found) - int(last))
        stop = min(len(found), int(last) + 1) if first and last else len(found)
        if start >= len(found):
            self._send(416, "InvalidRange")
            return
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(found)}"
        self._send(206, found[start:stop], **headers)

    def _list(self) -> None:
        """ListObjectsV2 of a prefix, all in one page."""
        query = dict(parse_qsl(urlsplit(self.path).query))
        files = sorted(
            (str(f.relative_to(self.folder)), f.stat().st_size) for f in self.folder.rglob("*") if f.is_file()
        )
        found = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>0</ETag><Size>{size}</Size></Contents>"
            for key, size in files
            if key.startswith(query["prefix"]) and key > query.get("start-after", "")
        )
        self._send(200, f"<ListBucketResult><IsTruncated>false</IsTruncated>{found}</ListBucketResult>".encode())

    def _signature(self) -> str:
        """What the request's signature must be (AWS Signature Version 4, for S3: the path is encoded once)."""
        given = self.headers["Authorization"] or ""
        _, day, region, service, _ = (_given(given, "Credential") or "////").split("/", 4)
        names = _given(given, "SignedHeaders").split(";")
        place = urlsplit(self.path)
        query = sorted((quote(k, "-_.~"), quote(v, "-_.~")) for k, v in parse_qsl(place.query, keep_blank_values=True))
        request = "\n".join(
            [
                self.command,
                quote(unquote(place.path), "/-_.~"),
                "&".join(f"{k}={v}" for k, v in query),
                *[f"{name}:{' '.join((self.headers[name] or '').split())}" for name in names],
                "",
                ";".join(names),
                self.headers["x-amz-content-sha256"] or "",
            ]
        )
        scope = f"{day}/{region}/{service}/aws4_request"
        digest = hashlib.sha256(request.encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{self.headers['x-amz-date']}\n{scope}\n{digest}"
        key = f"AWS4{SECRET}".encode()
        for part in (day, REGION, "s3", "aws4_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        return hmac.digest(key, text.encode(), "sha256").hex()

    def _send(self, status: int, found: bytes | str = b"", **headers: str) -> None:
        """Answer with a body, or with the name of an error and, as S3 does, the headers that came."""
        echo = f"<CanonicalRequest>{escape(str(self.headers))}</CanonicalRequest>"
        body = found if isinstance(found, bytes) else f"<Error><Code>{found}</Code>{echo}</Error>".encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _given(authorization: str, name: str) -> str:
    """One field of an Authorization header; empty if it has none."""
    fields = authorization.removeprefix("AWS4-HMAC-SHA256 ").split(", ")
    return next((field.partition("=")[2] for field in fields if field.startswith(f"{name}=")), "")


def _etag(body: bytes) -> str:
    return f'"{hashlib.md5(body).hexdigest()}"'


if __name__ == "__main__":
    _Handler.folder, _Handler.delay_s = Path(sys.argv[1]), float(sys.argv[2])
    with _Server(("127.0.0.1", 0), _Handler) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        print(server.server_port, flush=True)
        sys.stdin.read()  # until whoever started it lets go of it, or is gone
        server.shutdown()
