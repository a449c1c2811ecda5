"""A program of somebody else's, as the type checker sees it: not run, but checked (`test_surface.py`)."""

from collections.abc import Mapping
from typing import Any, assert_type

import aljava
from aljava import Comparison, Dataset, Store, Written
from aljava.errors import InvalidOption, NotFound


def keep(rows: Mapping[str, list[int]]) -> int:
    written = aljava.write(rows, "trades.arrow", compression="zstd:3", durable=True)
    assert_type(written, Written)
    assert_type(written.seconds, float)
    assert_type(aljava.append(rows, "trades.arrow"), Written)
    return written.rows


def look(path: str) -> list[str]:
    dataset = aljava.open(path)
    assert_type(dataset, Dataset)
    assert_type(dataset.num_rows, int)
    assert_type(dataset.files, list[str])
    assert_type(dataset.filter(None), Dataset)
    assert_type(dataset.to_numpy(), dict[str, Any])
    return dataset.files


def share(store: Store) -> str:
    key = store.put({"id": [1, 2, 3]}, "ids")
    assert_type(key, str)
    assert_type(store.infos()[0].damage, str | None)
    assert_type(store.stats().bytes_used, int)
    return key


def choose(path: str) -> str:
    comparison = aljava.compare(path, codecs=["lz4", "zstd"], formats=True, goal="size")
    assert_type(comparison, Comparison)
    assert_type(comparison.choice.codec, str)
    assert_type(comparison.dominated, dict[str, str])
    assert_type(comparison.to_html(), str)
    return comparison.advice


def careful(path: str) -> bool:
    try:
        verified = aljava.verify(path)
    except (NotFound, InvalidOption, aljava.AljavaError) as error:
        assert_type(str(error), str)
        return False
    return verified.ok
