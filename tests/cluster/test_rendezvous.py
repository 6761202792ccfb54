"""Who may write where the ranks of a launch meet."""

from __future__ import annotations

import urllib.error
import urllib.request

import pytest

from cluster.rendezvous import rendezvous
from cluster.spark_ranks import FAILED, Board


def test_only_who_knows_the_secret_may_write_or_read() -> None:
    with rendezvous("127.0.0.1", [("127.0.0.1", 2)]) as slots:
        assert [slot["HOROVOD_RANK"] for slot in slots] == ["0", "1"]
        port = slots[0]["HOROVOD_GLOO_RENDEZVOUS_PORT"]
        ranks, place = Board(slots[1]), f"http://127.0.0.1:{port}"
        for path in (FAILED, f"{'0' * 32}:{port}/{FAILED}", f":{port}/{FAILED}"):
            for method, data in (("PUT", b"1"), ("GET", None), ("DELETE", None), ("HEAD", None)):
                request = urllib.request.Request(f"{place}/{path}", data=data, method=method)
                with pytest.raises(urllib.error.HTTPError, match="403"):
                    urllib.request.urlopen(request, timeout=5.0)
        assert not ranks.has(FAILED)
        ranks.put(FAILED)
        assert ranks.has(FAILED)


def test_each_launch_has_a_secret_of_its_own() -> None:
    hosts = [("127.0.0.1", 1)]
    with rendezvous("127.0.0.1", hosts) as one, rendezvous("127.0.0.1", hosts) as other:
        secrets = {slots[0]["HOROVOD_GLOO_RENDEZVOUS_ADDR"].rpartition("/")[2] for slots in (one, other)}
    assert len(secrets) == 2
    assert all(len(secret) == 32 for secret in secrets)
