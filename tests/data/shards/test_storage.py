"""Fetching from servers that fail, and the bounded cache, against a client that plays them."""

import logging
import os
import pickle
import shutil
import threading
import time
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from botocore import UNSIGNED
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError

from vgglab.data.shards.cache import Chunk, ChunkCache
from vgglab.data.shards.storage import Storage
from vgglab.data.shards.storage_errors import MissingFileError
from vgglab.errors import InputError

DOWN = EndpointConnectionError(endpoint_url="http://server")


def answer(status: int) -> ClientError:
    return ClientError(
        {"Error": {"Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject"
    )


class Bucket:
    """Plays litdata's downloader: fails as it is told, then gives what is in `folder`."""

    def __init__(self, folder: Path, *failures: Exception) -> None:
        self.folder = folder
        self.failures = list(failures)
        self.asked: list[str] = []
        self.lock = threading.Lock()

    def download_fileobj(self, address: str, stream: BinaryIO) -> None:
        self.asked.append(address)
        with self.lock:
            failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            stream.write(b"half")
            raise failure
        with (self.folder / Path(address).name).open("rb") as file:
            shutil.copyfileobj(file, stream)


def storage(bucket: Bucket, **settings: Any) -> Storage:
    made = Storage("s3://bucket/set", **settings)
    made._downloader = os.getpid(), bucket
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "remote").mkdir()
    (tmp_path / "remote" / "file").write_bytes(b"content")
    return tmp_path / "remote"


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vgglab.data.shards.storage._FIRST_PAUSE", 0.01)
    monkeypatch.setattr("vgglab.data.shards.storage._LONGEST_PAUSE", 0.02)


@pytest.mark.parametrize("error", [DOWN, answer(503), answer(500), answer(429), TimeoutError()])
def test_a_server_that_does_not_answer_is_asked_again(
    folder: Path, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    bucket = Bucket(folder, error, error, error)
    with caplog.at_level(logging.WARNING):
        assert storage(bucket, retry_seconds=60).read("file") == b"content"
    said = [record.getMessage() for record in caplog.records]
    assert len(bucket.asked) == 4
    assert len(said) == 2  # not one for each attempt
    assert "s3://bucket/set/file" in said[0]
    assert "trying again for 1 min 0 s" in said[0]
    assert "back after" in said[1]


def test_after_the_time_one_line_says_for_how_long(folder: Path) -> None:
    start = time.monotonic()
    with pytest.raises(
        InputError, match=r"s3://bucket/set/file: Could not connect .*http://server"
    ):
        storage(Bucket(folder, *[DOWN] * 1000), retry_seconds=0.3).read("file")
    assert 0.3 <= time.monotonic() - start < 5


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (answer(404), r"no such bucket or file \(404\)"),
        (answer(403), r"access denied \(403\)"),
        (NoCredentialsError(), "no credentials.*AWS_PROFILE.*data.anonymous=true"),
        (answer(400), "no"),
        (ValueError("Invalid endpoint: x"), "Invalid endpoint: x"),
        (OSError("[SSL: CERTIFICATE_VERIFY_FAILED]"), "certificate is not trusted.*AWS_CA_BUNDLE"),
    ],
)
def test_what_waiting_does_not_mend_ends_at_once(folder: Path, error: Exception, says: str) -> None:
    bucket = Bucket(folder, error)
    with pytest.raises(InputError, match=f"^s3://bucket/set/file: .*{says}"):
        storage(bucket, retry_seconds=60).read("file")
    assert len(bucket.asked) == 1


def test_a_file_that_should_be_there_is_waited_for_a_little(folder: Path) -> None:
    bucket = Bucket(folder, DOWN, answer(404), answer(404))
    target = folder / "copy"
    storage(bucket).download("file", target, 7, time.monotonic() + 60)
    assert target.read_bytes() == b"content"  # and nothing of the halves before
    assert sorted(file.name for file in folder.iterdir()) == ["copy", "file"]


def test_a_file_that_is_larger_than_it_may_be_is_refused(folder: Path) -> None:
    target = folder / "copy"
    with pytest.raises(InputError, match="s3://bucket/set/file: larger than the 6 bytes"):
        storage(Bucket(folder)).download("file", target, 6, time.monotonic() + 60)
    with pytest.raises(InputError, match="s3://bucket/set/file: larger than the 6 bytes"):
        storage(Bucket(folder)).read("file", most=6)
    with pytest.raises(InputError, match="remote/file: larger than the 6 bytes"):
        Storage(str(folder)).read("file", most=6)
    assert [file.name for file in folder.iterdir()] == ["file"]


def test_one_process_of_a_node_speaks(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bucket = Bucket(folder, *[DOWN] * 30)

    def wait() -> None:
        storage(bucket, retry_seconds=60, notices=tmp_path / "notices").read("file")

    threads = [threading.Thread(target=wait) for _ in range(3)]
    with caplog.at_level(logging.WARNING):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len([r for r in caplog.records if "trying again" in r.getMessage()]) == 1


def test_a_folder_needs_no_client(folder: Path) -> None:
    there = Storage(str(folder))
    assert there.read("file") == b"content"
    with pytest.raises(MissingFileError, match="remote/other: no such file"):
        there.read("other")
    with pytest.raises(InputError, match=r"data.uri=ftp://server: a local folder, s3://bucket"):
        Storage("ftp://server")


def test_options_reach_the_clients_of_both_providers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_REGION", raising=False)
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    plain = Storage("s3://bucket")._options()
    assert set(plain) == {"config"}  # the endpoint, the region and the credentials are boto3's
    assert plain["config"].retries["total_max_attempts"] < 5  # litdata's own is 1000
    other = Storage("s3://bucket", endpoint="https://minio:9000", anonymous=True)._options()
    assert other["endpoint_url"] == "https://minio:9000"
    assert other["region_name"] == "us-east-1"
    assert other["config"].s3 == {"addressing_style": "path"}
    assert other["config"].signature_version is UNSIGNED
    assert Storage("gs://bucket")._options() == {}
    google = Storage("gs://bucket", endpoint="http://fake:4443")._options()
    assert google == {"client_options": {"api_endpoint": "http://fake:4443"}}


def test_google_s_uri_and_options_reach_litdata(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    def get_downloader(*arguments: Any) -> Bucket:
        made.append(arguments)
        return Bucket(folder)

    monkeypatch.setattr("litdata.streaming.downloader.get_downloader", get_downloader)
    there = Storage("gs://bucket/set/", endpoint="http://fake:4443")
    assert there.read("file") == b"content"
    uri, *_, options, _ = made[0]
    assert uri == "gs://bucket/set/"
    assert options == {"client_options": {"api_endpoint": "http://fake:4443"}}


def test_google_s_missing_package_is_named() -> None:
    pytest.importorskip("litdata")
    try:
        import google.cloud.storage  # noqa: F401
    except ImportError:
        with pytest.raises(InputError, match="gs://bucket needs: uv pip install google-cloud-stor"):
            Storage("gs://bucket").read("file")


class Chunks:
    """A bucket of ten chunks of 100 bytes, and a cache with room for `room` of them."""

    def __init__(self, tmp_path: Path, room: int | None) -> None:
        remote = tmp_path / "chunks"
        remote.mkdir()
        listed = []
        for i in range(10):
            (remote / f"chunk-{i}.bin").write_bytes(bytes([i]) * 100)
            listed.append(Chunk(f"chunk-{i}.bin", 100, 5))
        self.bucket = Bucket(remote)
        root = tmp_path / "cache"
        self.folder = root / "key" / "train"
        self.folder.mkdir(parents=True)
        limit = None if room is None else 100 * room
        self.cache = ChunkCache(storage(self.bucket), listed, self.folder, root, limit)

    def held(self) -> set[int]:
        return {int(file.stem[-1]) for file in self.folder.glob("*.bin")}


def test_the_chunks_not_used_for_longest_go(tmp_path: Path) -> None:
    chunks = Chunks(tmp_path, room=3)
    for used in (0, 1, 2, 0, 3):
        assert chunks.cache.file(used).read_bytes() == bytes([used]) * 100
        time.sleep(0.01)  # the file system's clock
    assert chunks.held() == {0, 2, 3}
    assert len(chunks.bucket.asked) == 4  # 0 was there the second time


def test_the_limit_counts_all_data_sets_and_what_was_left_half(tmp_path: Path) -> None:
    chunks = Chunks(tmp_path, room=3)
    other = chunks.cache.root / "older" / "val"
    other.mkdir(parents=True)
    for name in ("chunk-0.bin", "chunk-1.bin.part"):
        (other / name).write_bytes(bytes(100))
        os.utime(other / name, (1, 1))
    for used in range(3):
        chunks.cache.file(used)
    assert not list(other.iterdir())
    assert chunks.held() == {0, 1, 2}


def test_a_torn_chunk_is_fetched_again(tmp_path: Path) -> None:
    chunks = Chunks(tmp_path, room=None)
    (chunks.folder / "chunk-4.bin").write_bytes(b"")  # as a power cut may leave it
    assert chunks.cache.file(4).read_bytes() == bytes([4]) * 100


def test_a_chunk_of_another_size_than_the_index_says_is_refused(tmp_path: Path) -> None:
    chunks = Chunks(tmp_path, room=None)
    (chunks.bucket.folder / "chunk-4.bin").write_bytes(b"short")
    with pytest.raises(InputError, match=r"s3://bucket/set/chunk-4.bin: 5 bytes.* 100"):
        chunks.cache.file(4)
    assert not chunks.held()


def test_chunks_are_fetched_ahead_by_threads_that_a_pickled_cache_leaves_behind(
    tmp_path: Path,
) -> None:
    chunks = Chunks(tmp_path, room=None)
    chunks.bucket.failures = [DOWN]  # what fails is left to who needs it
    chunks.cache.prefetch([7, 8, 9])
    deadline = time.monotonic() + 10
    while len(chunks.held()) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(chunks.held()) == 2
    copy = pickle.loads(pickle.dumps(chunks.cache))
    assert copy._ahead is None
    for chunk in (7, 8, 9):
        chunks.cache.file(chunk)


def test_what_is_fetched_slowly_is_not_taken_for_a_leftover(tmp_path: Path) -> None:
    chunks = Chunks(tmp_path, room=2)
    part = chunks.folder / "chunk-0.bin.part"

    def slow(address: str, stream: BinaryIO) -> None:
        stream.write(bytes(100))
        if "chunk-0" in address:
            os.utime(part, (1, 1))  # it has not grown for long
            for other in (1, 2, 3):
                chunks.cache.file(other)

    chunks.bucket.download_fileobj = slow  # type: ignore[method-assign]
    assert chunks.cache.file(0).read_bytes() == bytes(100)
    assert chunks.held() == {0, 3}


def test_what_is_being_fetched_has_its_room(tmp_path: Path) -> None:
    chunks = Chunks(tmp_path, room=3)
    most = 0

    def slow(address: str, stream: BinaryIO) -> None:
        nonlocal most
        parts = [file for file in chunks.folder.iterdir() if file.suffix in (".bin", ".part")]
        most = max(most, len(parts))
        time.sleep(0.02)
        stream.write(bytes(100))

    chunks.bucket.download_fileobj = slow  # type: ignore[method-assign]
    for first in (0, 3, 6):
        chunks.cache.file(first)
        chunks.cache.prefetch(range(first, first + 3))
        time.sleep(0.1)
    assert most <= 3
