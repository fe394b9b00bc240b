"""What is used of litdata beyond what it documents: another version of it may change that."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest

writer = pytest.importorskip("litdata.streaming.writer")
downloader = pytest.importorskip("litdata.streaming.downloader")
sampler = pytest.importorskip("litdata.streaming.sampler")


@pytest.mark.parametrize(
    ("function", "given", "named"),
    [
        (writer.BinaryWriter, ["folder"], {"chunk_size": 4}),
        (writer.BinaryWriter.done, ["self"], {}),
        (sampler.ChunkedIndex, [], {"index": 3, "chunk_index": 0}),
        (downloader.get_downloader, ["s3://bucket/", "", [], {}, {}], {}),
        (downloader.Downloader.download_fileobj, ["self", "s3://bucket/a", "a file"], {}),
    ],
)
def test_it_is_called_as_it_wants_to_be(
    function: Callable[..., Any], given: list[Any], named: dict[str, Any]
) -> None:
    inspect.signature(function).bind(*given, **named)


def test_the_downloaders_arguments_have_their_places() -> None:
    names = list(inspect.signature(downloader.get_downloader).parameters)
    assert names == ["remote_dir", "cache_dir", "chunks", "storage_options", "session_options"]
