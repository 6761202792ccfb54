"""Items found by their own names: misspelt, shuffled, a part of them, and in other words; by letters, by letters and
meaning, against trigrams (as PostgreSQL's pg_trgm compares), words as they stand, and meaning alone.

    python benchmarks/search_names.py FILE [QUERIES]

FILE is Online Retail's (csv, csv.gz) or another with the columns `StockCode` and `Description`. Found is an item whose
name has the same words, among the first ten. Other words come from OTHERS, a list made by hand: a name is asked for in
other words where two of its words, and two in five, have one. The ratio is the recall@10 of two words of a name, each
of four letters or more with one fault, over that of trigrams with their usual threshold. How many items are found for
what no gift shop sells (ABSENT) stands beside it.
"""

from __future__ import annotations

import json
import math
import random
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from run import NOTHING_MEASURED  # noqa: E402

from jobs.searched import Like, Names  # noqa: E402
from spark_udfs.name_search import Doubles, index_of, plain  # noqa: E402
from training.state.text_encoder import load_encoder  # noqa: E402
from training.state.text_weights import weights_folder  # noqa: E402

GOAL, K = 1.0, 10
TRIGRAMS_LEAST = 0.3  # pg_trgm.similarity_threshold, its default
LETTERS = "abcdefghijklmnopqrstuvwxyz"
OTHERS = dict(
    pair.split(":")
    for pair in """
    lantern:lamp bag:sack mug:cup box:chest christmas:xmas red:crimson vintage:antique childrens:kids plate:dish
    clock:timepiece holder:stand frame:surround cushion:pillow bottle:flask garland:wreath small:little large:big
    pink:rose metal:iron wooden:timber sign:plaque hanging:suspended umbrella:brolly purse:wallet sticker:decal
    jar:pot necklace:pendant card:note candle:taper notebook:jotter tin:can doll:toy rabbit:bunny black:dark
    ivory:cream gift:present paper:tissue bowl:basin basket:hamper apron:pinafore kitchen:cooking garden:yard
    party:celebration birthday:anniversary cake:pastry spoon:ladle towel:cloth ring:band bracelet:bangle
    flower:blossom butterfly:moth tree:fir lights:lamps light:lamp photo:picture storage:keeping glass:crystal
    drawer:compartment cabinet:cupboard cover:sheath wall:mural decoration:ornament magnet:magnetic set:collection
    retro:oldfashioned assorted:various design:pattern silver:silvery cream:beige
    """.split()  # noqa: SIM905
)


ABSENT = (
    "laptop", "iphone charger", "motor oil", "running shoes", "dishwasher", "printer cartridge", "tennis racket",
    "car tyre", "lawn mower", "vacuum cleaner", "baby stroller", "bicycle pump", "headphones", "television", "sofa bed",
    "toothpaste", "dog leash", "guitar strings", "swimming goggles", "protein powder",
)  # fmt: skip


def fault(word: str, random_: random.Random) -> str:
    """Two letters changed places, one gone, one too many or another one; words of three letters stay."""
    if len(word) < 4:
        return word
    place, letter = random_.randrange(len(word) - 1), random_.choice(LETTERS)
    first, rest = word[:place], word[place:]
    return random_.choice(
        [f"{first}{rest[1]}{rest[0]}{rest[2:]}", first + rest[1:], first + letter + rest, first + letter + rest[1:]]
    )


def faults(name: str, random_: random.Random) -> str:
    return " ".join(fault(word, random_) for word in name.split())


def part(name: str, random_: random.Random) -> str:
    words = [word for word in name.split() if len(word) > 2]
    return " ".join(random_.sample(words, min(2, len(words))))


def shuffled(name: str, random_: random.Random) -> str:
    words = name.split()
    return " ".join(random_.sample(words, len(words)))


def in_other_words(name: str, _: random.Random) -> str:
    words = name.split()
    known = sum(word in OTHERS for word in words)
    return " ".join(OTHERS.get(word, word) for word in words) if known >= max(2, 0.4 * len(words)) else ""


ASKED: dict[str, Callable[[str, random.Random], str]] = {
    "as it is": lambda name, _: name,
    "shuffled": shuffled,
    "misspelt": faults,
    "two words": part,
    "two words, misspelt": lambda name, random_: faults(part(name, random_), random_),
    "other words": in_other_words,
}


class Words:
    """Words as they stand, each weighing how rare it is: the cosine of sets of words."""

    def __init__(self, names: list[str]) -> None:
        self.rows: dict[str, list[int]] = {}
        for row, name in enumerate(names):
            for word in set(name.split()):
                self.rows.setdefault(word, []).append(row)
        self.weights = {word: math.log1p(len(names) / len(rows)) for word, rows in self.rows.items()}
        self.lengths = np.zeros(len(names))
        for word, rows in self.rows.items():
            self.lengths[rows] += self.weights[word] ** 2

    def like(self, query: str) -> Doubles:
        both = np.zeros(len(self.lengths))
        for word in set(query.split()) & set(self.rows):
            both[self.rows[word]] += self.weights[word] ** 2
        return both / np.sqrt(np.maximum(self.lengths, 1e-300))


class Trigrams:
    """Padded trigrams of words, all alike: what two sets share over what both have (Jaccard)."""

    def __init__(self, names: list[str]) -> None:
        self.rows: dict[str, list[int]] = {}
        self.counts = np.zeros(len(names))
        for row, name in enumerate(names):
            pieces = self.of(name)
            self.counts[row] = len(pieces)
            for piece in pieces:
                self.rows.setdefault(piece, []).append(row)

    @staticmethod
    def of(text: str) -> set[str]:
        return {f"  {word} "[at : at + 3] for word in text.split() for at in range(len(word) + 1)}

    def like(self, query: str) -> Doubles:
        both, asked = np.zeros(len(self.counts)), self.of(query)
        for piece in asked & set(self.rows):
            both[self.rows[piece]] += 1
        return both / np.maximum(self.counts + len(asked) - both, 1)


def main() -> int:
    if len(sys.argv) < 2:
        print("search_names: name the file of order lines (Online Retail)")
        return NOTHING_MEASURED
    torch.set_num_threads(1)
    rows = pd.read_csv(sys.argv[1], usecols=["StockCode", "Description"], encoding_errors="replace").dropna()
    many = int([*sys.argv[2:], "300"][0])
    raw = rows.drop_duplicates("StockCode")["Description"].tolist()
    names = [name.strip() for name in plain(pa.array(raw))]
    encoder = load_encoder(weights_folder(None))
    meanings, words, trigrams, index = encoder.vectors(raw), Words(names), Trigrams(names), index_of(pa.array(raw))
    bought = np.zeros(len(raw), np.int64)
    letters, both = (Names(index, bought, one, held) for one, held in ((None, None), (encoder, meanings)))
    ways: dict[str, Callable[[str], Like]] = {
        "letters": letters.like,
        "letters and meaning": both.like,
        "trigrams": lambda query: whole(trigrams.like(query), TRIGRAMS_LEAST),
        "trigrams, all": lambda query: whole(trigrams.like(query)),
        "words": lambda query: whole(words.like(query)),
        "meaning": lambda query: whole((meanings @ encoder.vectors([query])[0]).astype(np.float64)),
    }
    detail: dict[str, dict[str, float]] = {}
    for title, change in ASKED.items():
        random_ = random.Random(1)
        drawn = [(place, change(names[place], random_)) for place in random_.sample(range(len(names)), len(names))]
        asked = [(place, query) for place, query in drawn if query][:many]
        detail[title] = {name: recall(names, asked, way) for name, way in ways.items()} | {"queries": len(asked)}
        print(f"  {title:20} {detail[title]}", flush=True)
    hard = detail["two words, misspelt"]
    ratio = round(hard["letters"] / hard["trigrams"], 3)
    absent = {name: float(np.mean([len(ways[name](query).places) for query in ABSENT])) for name in list(ways)[:3]}
    told = {"items": len(raw), "recall_at_10": detail, "found_of_what_is_absent": absent}
    unit = "x recall@10 of trigrams, two misspelt words"
    print(json.dumps({"name": "search_names", "ratio": ratio, "goal": GOAL, "unit": unit, "detail": told}))
    return 0


def whole(likeness: Doubles, least: float = 1e-9) -> Like:
    zeros = np.zeros(len(likeness))
    return Like(likeness, likeness >= least, zeros.astype(np.int64), zeros)


def recall(names: list[str], asked: list[tuple[int, str]], way: Callable[[str], Like]) -> float:
    found = [any(names[one] == names[place] for one in way(query).best(K)) for place, query in asked]
    return round(float(np.mean(found)), 3)


if __name__ == "__main__":
    sys.exit(main())
