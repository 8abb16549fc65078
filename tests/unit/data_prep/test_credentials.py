"""What is said, and not tried again, where a store refuses; empty ranges are not asked for."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from data_prep.shards import CacheSettings, ShardError, TokenShards, credentials, remote


class NoCredentialsError(Exception):
    """As botocore's, by name and words."""

    def __init__(self) -> None:
        super().__init__("Unable to locate credentials")


class ClientError(Exception):
    """As botocore's, by form."""

    def __init__(self, code: str, words: str):
        super().__init__(f"An error occurred ({code}) when calling the HeadObject operation: {words}")
        self.response = {"Error": {"Code": code, "Message": words}}


class HttpError(Exception):
    """As gcsfs's and aiohttp's, by form."""

    def __init__(self, status: int, words: str = ""):
        super().__init__(words)
        self.status = self.code = status


def caused(cause: Exception) -> Exception:
    error = OSError(22, "it did not work")
    error.__cause__ = cause
    return error


REFUSALS = [
    NoCredentialsError(),
    ClientError("ExpiredToken", "The provided token has expired."),
    ClientError("400", "Bad Request"),
    ClientError("403", "Forbidden"),
    ClientError("InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records."),
    OSError(22, "Bad Request"),  # what s3fs makes of a HEAD with an expired token
    PermissionError("The provided token has expired."),
    PermissionError(13, "Forbidden"),
    HttpError(401, "Invalid Credentials"),
    HttpError(403),
    caused(ClientError("ExpiredToken", "The provided token has expired.")),
]
OTHERS = [
    ConnectionResetError(104, "reset by peer"),
    ClientError("SlowDown", "Please reduce your request rate."),
    ClientError("500", "Internal Server Error"),
    HttpError(503, "Service Unavailable"),
    OSError(22, "Invalid argument"),
    TimeoutError("no answer"),
    FileNotFoundError(2, "No such file"),
]


class S3Like(MemoryFileSystem):
    """s3like://, which raises as told and gives the whole object for an empty range, as s3fs does."""

    protocol = "s3like"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    refusal: ClassVar[Exception | None] = None
    asked: ClassVar[Counter[str]] = Counter()

    @classmethod
    def _strip_protocol(cls, path):
        return MemoryFileSystem._strip_protocol(path.replace("s3like://", "memory://"))

    def info(self, path, **kwargs):
        S3Like.asked["info"] += 1
        if S3Like.refusal:
            raise S3Like.refusal
        return super().info(path, **kwargs)

    def cat_file(self, path, start=None, end=None, **kwargs):
        S3Like.asked["cat_file"] += 1
        return super().cat_file(path) if start == end else super().cat_file(path, start, end, **kwargs)


@pytest.fixture
def store(monkeypatch):
    fsspec.register_implementation("s3like", S3Like, clobber=True)
    monkeypatch.setattr(S3Like, "asked", Counter())
    monkeypatch.setattr(S3Like, "store", {})
    monkeypatch.setattr(remote.time, "sleep", lambda seconds: S3Like.asked.update(["sleep"]))
    return S3Like()


def settings(tmp_path) -> CacheSettings:
    return CacheSettings(tmp_path / "cache", attempts=4, first_wait=1)


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda error: f"{type(error).__name__} {error}"[:60])
def test_a_refusal_ends_at_once_and_says_what_to_set(tmp_path, store, monkeypatch, refusal):
    monkeypatch.setattr(S3Like, "refusal", refusal)
    with pytest.raises(ShardError, match="credentials") as error:
        TokenShards.open("s3like://bucket/train", cache=settings(tmp_path))
    assert S3Like.asked["info"] == 1 and S3Like.asked["sleep"] == 0
    assert str(error.value).startswith("s3like://bucket/train/") and "Set those of this store" in str(error.value)


@pytest.mark.parametrize("other", OTHERS, ids=lambda error: f"{type(error).__name__} {error}"[:60])
@pytest.mark.parametrize("url", ["s3://bucket/x", "gs://bucket/x", "https://host/x"])
def test_other_errors_are_not_taken_for_refusals(other, url):
    assert credentials.hint(other, url) is None


@pytest.mark.parametrize(
    ("url", "to_set"),
    [
        ("s3://bucket/x", "AWS_ACCESS_KEY_ID"),
        ("simplecache::s3://bucket/x", "AWS_ACCESS_KEY_ID"),
        ("gs://bucket/x", "GOOGLE_APPLICATION_CREDENTIALS"),
        ("az://container/x", "AZURE_STORAGE_CONNECTION_STRING"),
        ("hf://datasets/x", "HF_TOKEN"),
    ],
)
def test_what_to_set_depends_on_the_store(url, to_set):
    assert to_set in str(credentials.hint(PermissionError("no"), url))


def test_a_bad_request_is_about_credentials_at_s3_alone():
    assert credentials.hint(OSError(22, "Bad Request"), "s3://bucket/x")
    assert credentials.hint(OSError(22, "Bad Request"), "https://host/x") is None


def test_errors_that_are_their_own_cause_end():
    error = OSError("x")
    error.__cause__ = error
    assert credentials.hint(error, "s3://b/x") is None


def test_an_empty_range_is_not_asked_for(tmp_path, store):
    store.pipe_file("/bucket/empty", b"")
    store.pipe_file("/bucket/full", b"0123456789")
    assert store.cat_file("/bucket/full", 5, 5) == b"0123456789"  # the fault that is worked around
    S3Like.asked.clear()
    assert remote.fetch_whole("s3like://bucket/full", settings(tmp_path), 0) == b""
    assert remote.fetch_whole("s3like://bucket/empty", settings(tmp_path), 100) == b""
    assert S3Like.asked["cat_file"] == 0
    assert remote.fetch_whole("s3like://bucket/full", settings(tmp_path), 4) == b"0123"
