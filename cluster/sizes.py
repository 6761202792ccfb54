"""Pure arithmetic of sizes: how many threads a rank gets, how much memory an embedding table takes."""

from __future__ import annotations


def threads_per_rank(cores: int, ranks_on_host: int) -> int:
    """Threads for each rank's own arithmetic, at least one: more ranks than cores share them as well as they can."""
    return max(1, cores // max(1, ranks_on_host))


def table_bytes(rows: int, dimension: int, *, optimizer: str, ranks: int = 1, sharded: bool = False) -> int:
    """Bytes that a float32 embedding table and its optimizer state take on one rank.

    Args:
        rows: indices of the vocabulary, the unknown one included.
        dimension: width of a row.
        optimizer: `rowwise_adagrad` keeps one number a row, `sparse_adam` two rows a row.
        ranks: world size.
        sharded: rows are dealt out over the ranks instead of held by each.
    """
    rows_here = -(-rows // ranks) if sharded else rows
    state = {"rowwise_adagrad": 1, "sparse_adam": 2 * dimension}[optimizer]
    return rows_here * (dimension + state) * 4
