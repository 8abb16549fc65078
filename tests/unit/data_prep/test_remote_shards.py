"""Shards behind a URL: the bytes of local ones, through a cache that keeps its bound, whatever network and disk do."""

from __future__ import annotations

import dataclasses
import errno
import functools
import http.server
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import packing
from data_prep.__main__ import main
from data_prep.shards import CacheSettings, ShardError, ShardWriter, TokenShards, Windows, remote, write_manifest
from data_prep.shards.cache import DIGEST_BYTES, SUBFOLDER, ChunkCache
from data_prep.shards.format import BLOCK_BYTES, HEADER_BYTES
from data_prep.shards.storage import open_bytes
from data_prep.shards.takedown import write_takedowns
from data_prep.tokenise import HISTORY
from tests.corpora import FINGERPRINT

CHUNK = BLOCK_BYTES


class Flaky(MemoryFileSystem):
    """memory:// that fails as told, and counts."""

    protocol = "flaky"
    store: ClassVar[dict] = {}
    pseudo_dirs: ClassVar[list] = [""]
    failures = 0
    requests: ClassVar[Counter] = Counter()

    @classmethod
    def _strip_protocol(cls, path):
        return MemoryFileSystem._strip_protocol(path.replace("flaky://", "memory://"))

    def cat_file(self, path, start=None, end=None, **kwargs):
        Flaky.requests[self._strip_protocol(path), start] += 1
        if Flaky.failures > 0:
            Flaky.failures -= 1
            raise ConnectionResetError("the line was cut")
        content = super().cat_file(path, start=start, end=end, **kwargs)
        return content[:-1] if Flaky.failures < 0 else content  # a transfer that ends too early


fsspec.register_implementation("flaky", Flaky)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Three shards of several blocks each."""
    folder = tmp_path_factory.mktemp("remote") / "train"
    folder.mkdir()
    rng = np.random.default_rng(3)
    names = [f"shard-{index:05d}.tokens" for index in range(3)]
    for name in names:
        with ShardWriter(folder / name, 60_000, eod_id=0, tokenizer_fingerprint=FINGERPRINT) as writer:
            for _ in range(120):
                writer.add(rng.integers(1, 60_000, rng.integers(1, 9000)), text_bytes=7)
    write_manifest(folder, names)
    return folder


@pytest.fixture
def url(corpus) -> str:
    Flaky.store.clear()
    Flaky.failures = 0
    Flaky.requests.clear()
    file_system = fsspec.filesystem("flaky")
    for file in corpus.iterdir():
        file_system.pipe_file(f"/bucket/train/{file.name}", file.read_bytes())
    return "flaky://bucket/train"


@pytest.fixture
def cache(tmp_path) -> CacheSettings:
    return CacheSettings(tmp_path / "cache", max_bytes=10**8, chunk_bytes=CHUNK, attempts=4, first_wait=0.001)


def cached(cache: CacheSettings) -> list[Path]:
    return [path for folder in (cache.folder / SUBFOLDER).iterdir() if folder.is_dir() for path in folder.iterdir()]


def cached_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob(f"{SUBFOLDER}/*/*"))


def stream(shards: TokenShards) -> np.ndarray:
    return shards.read(0, shards.tokens)


def assert_same(corpus: Path, remote: TokenShards) -> None:
    local = TokenShards.open(corpus)
    for name in ("tokens", "documents", "text_bytes", "fingerprint", "eod_id", "vocab_size", "dtype"):
        assert getattr(remote, name) == getattr(local, name)
    assert np.array_equal(stream(remote), stream(local))
    assert np.array_equal(remote.document_starts(), local.document_starts())
    assert list(remote.shard_spans()) == list(local.shard_spans())


def test_remote_shards_are_the_local_ones(corpus, url, cache):
    shards = TokenShards.open(url, cache=cache)
    assert_same(corpus, shards)
    shards.verify_all()
    assert all(count <= 1 for (path, start), count in Flaky.requests.items() if start is not None)
    before = Flaky.requests.total()
    assert_same(corpus, TokenShards.open(url, cache=cache))
    assert Flaky.requests.total() - before == 1, "all but the manifest comes from the cache"


def test_file_urls_and_local_paths_through_the_cache(corpus, cache):
    assert_same(corpus, TokenShards.open(corpus.as_uri(), cache=cache))
    assert len(cached(cache)) > 10
    shutil.rmtree(cache.folder)
    always = CacheSettings(cache.folder, cache.max_bytes, CHUNK, always=True)
    assert_same(corpus, TokenShards.open(corpus, cache=always))
    assert len(cached(cache)) > 10


class Ranges(http.server.SimpleHTTPRequestHandler):
    """A static server that knows byte ranges."""

    def do_GET(self):
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        content, status = path.read_bytes(), 200
        if wanted := self.headers.get("Range"):
            first, last = wanted.removeprefix("bytes=").split("-")
            content, status = content[int(first) : int(last) + 1], 206
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        """Nothing."""


def test_over_http(corpus, cache):
    pytest.importorskip("aiohttp")
    handler = functools.partial(Ranges, directory=str(corpus.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        assert_same(corpus, TokenShards.open(f"{address}/train", cache=cache))
        with pytest.raises(ShardError, match=r"no manifest\.json"):
            TokenShards.open(f"{address}/nothing", cache=cache)
        server.shutdown()


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_part_of_a_file(tmp_path_factory, data):
    content = np.random.default_rng(0).integers(0, 256, data.draw(st.integers(1, 5 * CHUNK)), np.uint8)
    folder = tmp_path_factory.mktemp("file")
    content.tofile(folder / "x")
    file = open_bytes((folder / "x").as_uri(), CacheSettings(folder / "cache", 64 * CHUNK, CHUNK))
    edges = st.sampled_from(
        [0, 1, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + CHUNK, HEADER_BYTES + CHUNK + 1, len(content)]
    )
    for _ in range(5):
        start = min(data.draw(edges | st.integers(0, len(content))), len(content))
        stop = min(max(data.draw(edges | st.integers(0, len(content))), start), len(content))
        file.fetch(start, stop - start)
        assert np.array_equal(file.read(start, stop - start), content[start:stop])
    with pytest.raises(ShardError, match="too early"):
        file.read(len(content) - 1, 2)


def test_takedowns_are_read_from_the_remote_folder(corpus, url, cache, tmp_path):
    local = TokenShards.open(corpus)
    entry = {"time": "", "reason": "", "request": [], "documents": [{"id": "a", "url": None, "start": 0, "tokens": 5}]}
    write_takedowns(tmp_path, local.fingerprint, [entry])
    assert len(TokenShards.open(url, cache=cache).takedowns) == 0
    fsspec.filesystem("flaky").pipe_file("/bucket/train/takedown.json", (tmp_path / "takedown.json").read_bytes())
    assert len(TokenShards.open(url, cache=cache).takedowns) == 1, "a ledger may change, and is never cached"


def test_packed_windows_through_a_url(corpus, cache, tmp_path):
    folder = tmp_path / "train"
    shutil.copytree(corpus, folder)
    with pytest.raises(
        ShardError, match=r"file://.*/plans/best_fit-512\.plan: this pack plan has not been made.* --length 512"
    ):
        Windows(TokenShards.open(folder.as_uri(), cache=cache), 512, "best_fit")
    packing.make(TokenShards.open(folder), "best_fit", 512)
    local = Windows(TokenShards.open(folder), 512, "best_fit", documents=True)
    remote = Windows(TokenShards.open(folder.as_uri(), cache=cache), 512, "best_fit", documents=True)
    assert remote.fingerprint == local.fingerprint and len(remote) == len(local)
    indices = np.random.default_rng(0).permutation(len(local))
    remote.prefetch(indices[:50])
    for name in ("inputs", "targets", "real", "positions"):
        assert np.array_equal(getattr(remote.read(indices), name), getattr(local.read(indices), name))


def test_commands_take_a_url(corpus, cache, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    folder = tmp_path / "train"
    shutil.copytree(corpus, folder)
    shards = TokenShards.open(folder)
    for name, first, last in shards.shard_spans():
        starts = shards.document_starts_in(first, last)
        facts = {"id": name, "source": "s", "licence": "MIT", "url": "u", "text_bytes": 1, "metadata": "{}"}
        rows = [facts | {"start": a - first, "tokens": b - a} for a, b in pairwise([*starts.tolist(), last])]
        table = pa.Table.from_pylist(rows, HISTORY)
        pq.write_table(table, folder / name.replace("shard-", "documents-").replace(".tokens", ".parquet"))
    url = folder.as_uri()
    plan = packing.make(shards, "best_fit", 32).path
    assert main(["verify", url]) == 0
    said = capsys.readouterr().out
    assert f"{url}: " in said and f"{url}/plans/{plan.name}: whole" in said
    plan.write_bytes(plan.read_bytes()[:-1])
    assert main(["verify", url]) == 2 and f"{url}/plans/{plan.name}: truncated" in capsys.readouterr().err
    plan.unlink()
    assert main(["trace", url, "--window", "0", "--length", "64"]) == 0
    assert capsys.readouterr().out.split()[-5:] == ["tokens", "shard-00000.tokens", "s", "MIT", "u"]
    assert main(["pack", url, "--length", "64", "--dry-run"]) == 0 and "not written" in capsys.readouterr().out
    assert main(["pack", url, "--length", "64"]) == 2 and "to a local folder only" in capsys.readouterr().err
    assert main(["takedown", url, "x", "--reason", "r"]) == 2 and "to a local folder only" in capsys.readouterr().err
    assert any((tmp_path / "home" / "moenda" / "shards").iterdir())


def test_requests_are_tried_again_and_then_the_error_names_url_and_attempts(corpus, url, cache):
    Flaky.failures = cache.attempts - 1
    shards = TokenShards.open(url, cache=cache)
    Flaky.failures = cache.attempts - 1
    assert np.array_equal(stream(shards), stream(TokenShards.open(corpus)))
    Flaky.failures = 10**6
    with pytest.raises(ShardError, match=r"flaky://bucket/train/manifest.json: .* in 4 attempts.*the line was cut"):
        TokenShards.open(url, cache=cache)
    Flaky.failures = 0
    shutil.rmtree(cache.folder)
    shards = TokenShards.open(url, cache=CacheSettings(cache.folder, chunk_bytes=CHUNK, attempts=2, first_wait=0.001))
    Flaky.failures = -1
    with pytest.raises(ShardError, match=r"shard-0000\d.tokens: .* in 2 attempts.*bytes came for bytes"):
        stream(shards)


@pytest.mark.parametrize("name", ["manifest.json", "shards.index", "shard-00000.tokens", "shard-00002.tokens"])
def test_what_is_missing_is_named(url, cache, name):
    fsspec.filesystem("flaky").rm(f"/bucket/train/{name}")
    with pytest.raises(ShardError, match=name):
        stream(TokenShards.open(url, cache=cache))


def test_a_damaged_cache_is_fetched_again(corpus, url, cache):
    expected = stream(TokenShards.open(corpus))
    assert np.array_equal(stream(TokenShards.open(url, cache=cache)), expected)
    rng = np.random.default_rng(5)
    for round_ in range(3):
        for path in cached(cache):
            raw = bytearray(path.read_bytes())
            if round_ == 0:
                raw[rng.integers(len(raw))] ^= 1
            elif round_ == 1:
                del raw[rng.integers(len(raw)) :]  # torn by a power cut
            else:
                raw[:] = bytes(len(raw))
            path.unlink()
            path.write_bytes(raw)
        assert np.array_equal(stream(TokenShards.open(url, cache=cache)), expected)


def test_a_cache_that_is_emptied_while_in_use(corpus, url, cache):
    shards, expected = TokenShards.open(url, cache=cache), stream(TokenShards.open(corpus))
    for _ in range(2):
        assert np.array_equal(stream(shards), expected)
        shutil.rmtree(cache.folder)


def test_a_chunk_that_came_wrong_is_fetched_again(corpus, url, cache):
    """With a true checksum of its own, so only the shard's can tell."""
    expected = stream(TokenShards.open(corpus))
    stream(TokenShards.open(url, cache=cache))
    store = ChunkCache(cache)
    for path in cached(cache):
        raw = bytearray(path.read_bytes()[:-DIGEST_BYTES])
        raw[len(raw) // 2] ^= 1
        path.unlink()
        store._store(str(path), bytes(raw))
    assert np.array_equal(stream(TokenShards.open(url, cache=cache)), expected)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_damage_at_the_origin_is_an_error(corpus, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("origin") / "train"
    shutil.copytree(corpus, folder)
    path = folder / data.draw(st.sampled_from(["shards.index", "shard-00000.tokens", "shard-00001.tokens"]))
    raw = bytearray(path.read_bytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(raw)
    settings_ = CacheSettings(folder.parent / "cache", chunk_bytes=CHUNK, attempts=2, first_wait=0)
    with pytest.raises(ShardError, match=r"file://.*/(shards.index|shard-0000\d.tokens)"):
        TokenShards.open(folder.as_uri(), cache=settings_).verify_all()


def test_a_corpus_built_anew_is_not_mixed_with_what_is_cached(corpus, cache, tmp_path):
    folder = tmp_path / "train"
    shutil.copytree(corpus, folder)
    stream(TokenShards.open(folder.as_uri(), cache=cache))
    names = [f"shard-{index:05d}.tokens" for index in (1, 0, 2)]
    (folder / names[0]).rename(folder / "x")
    (folder / names[1]).rename(folder / names[0])
    (folder / "x").rename(folder / names[1])
    write_manifest(folder, sorted(names))
    assert_same(folder, TokenShards.open(folder.as_uri(), cache=cache))


def _read_all(url: str, settings_: CacheSettings, seed: int, expected: np.ndarray, failed) -> None:
    shards = TokenShards.open(url, cache=settings_)
    rng = np.random.default_rng(seed)
    for _ in range(60):
        starts = rng.integers(0, shards.tokens - 500, 4)
        out = np.zeros(4 * 500, np.int64)
        shards.prefetch(starts[::-1], np.full(4, 500))
        shards.read_into(starts, np.full(4, 500), out, np.arange(4) * 500)
        if any(not np.array_equal(out[i * 500 : (i + 1) * 500], expected[s : s + 500]) for i, s in enumerate(starts)):
            failed.set()


def test_the_bound_holds_while_processes_read(corpus, tmp_path):
    """At every moment; a process that is killed while it writes leaves nothing that is taken for a chunk."""
    small = CacheSettings(tmp_path / "cache", max_bytes=16 * CHUNK, chunk_bytes=CHUNK)
    expected, context = stream(TokenShards.open(corpus)), multiprocessing.get_context("spawn")
    failed = context.Event()
    workers = [context.Process(target=_read_all, args=(corpus.as_uri(), small, seed, expected, failed)) for seed in range(3)]
    for worker in workers:
        worker.start()
    most, killed, locked = 0, False, ChunkCache(small)
    while any(worker.is_alive() for worker in workers):
        with locked._locked("lock"):  # or a chunk that goes and one that comes meanwhile both count
            size = cached_bytes(small.folder)
        most = max(most, size)
        if size > 8 * CHUNK and not killed:
            workers[0].kill()
            killed = True
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers[1:]] == [0, 0] and killed and not failed.is_set()
    assert 8 * CHUNK < most <= small.max_bytes
    assert sum(path.stat().st_size for path in corpus.iterdir()) > 2 * small.max_bytes


def test_chunks_used_longest_ago_go_first(tmp_path):
    cache = CacheSettings(tmp_path / "cache", max_bytes=16 * (CHUNK + 16), chunk_bytes=CHUNK)
    store, buffer = ChunkCache(cache), memoryview(bytearray(1))
    chunks = [cache.folder / SUBFOLDER / ("ab" * 16) / str(number) for number in range(20)]
    for number, chunk in enumerate(chunks[:16]):
        store.read_into(str(chunk), 0, buffer, lambda number=number: bytes([number]) * CHUNK)
        os.utime(chunk, ns=(number, chunk.stat().st_mtime_ns))
    ChunkCache(cache).read_into(str(chunks[0]), 5, buffer, lambda: pytest.fail("it is there"))
    store.fetch(str(chunks[16]), lambda: b"x" * CHUNK)
    kept = {int(path.name) for path in cached(cache)}
    assert {0, 16} < kept and not {1, 2} & kept and len(kept) >= 13


def test_a_read_only_folder_serves_what_it_holds(corpus, url, cache, monkeypatch):
    TokenShards.open(url, cache=cache).verify_all()
    held = sorted(cached(cache))
    whole_open = os.open

    def open_to_read(path, flags, *more, **options):
        if flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR) and Path(path).is_relative_to(cache.folder):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return whole_open(path, flags, *more, **options)

    def refused(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "open", open_to_read)  # root may write anywhere, so that rights would prove nothing here
    for name in ("utime", "replace", "mkdir"):
        monkeypatch.setattr(os, name, refused)
    remote._cache.cache_clear()
    read_only = dataclasses.replace(cache, max_bytes=16 * CHUNK)  # less than it holds: nothing is removed
    shards = TokenShards.open(url, cache=read_only)
    shards.verify_all()
    assert_same(corpus, shards)
    assert sorted(cached(cache)) == held
    next(chunk for chunk in held if chunk.name == "1").unlink()
    remote._cache.cache_clear()
    said = "moenda-chunks: the cache of remote shards cannot be used: Read-only file system. .* not in it, or is damaged"
    with pytest.raises(ShardError, match=said):
        TokenShards.open(url, cache=read_only).verify_all()


def test_settings_that_cannot_be_are_refused(tmp_path, url):
    with pytest.raises(ValueError, match="a multiple of 65,536"):
        CacheSettings(chunk_bytes=100_000)
    with pytest.raises(ValueError, match="less than 16 chunks"):
        CacheSettings(max_bytes=2**20)
    (tmp_path / "file").write_text("")
    with pytest.raises(ShardError, match="cache of remote shards cannot be used"):
        TokenShards.open(url, cache=CacheSettings(tmp_path / "file" / "cache"))
    with pytest.raises(ShardError, match="nosuchprotocol://bucket"):
        TokenShards.open("nosuchprotocol://bucket/train", cache=CacheSettings(tmp_path / "cache"))


def test_hints_fetch_ahead(corpus, url, cache):
    shards = TokenShards.open(url, cache=cache)
    starts = np.arange(0, shards.tokens - 10, 20_000)
    shards.prefetch(starts, np.full(len(starts), 10))
    shards._prefetcher._hints.join()
    before = Flaky.requests.total()
    out = np.zeros(10, np.int64)
    for start in starts.tolist():
        shards.read_into(np.array([start]), np.array([10]), out, np.array([0]))
        assert np.array_equal(out, shards.read(start, start + 10))
    assert Flaky.requests.total() - before <= 3, "the chunks of the checksum tables at most"
    local = TokenShards.open(corpus)
    local.prefetch(starts, np.full(len(starts), 10))
    assert local._prefetcher is None


def test_nothing_but_chunks_is_ever_removed(corpus, url, cache):
    foreign = {cache.folder / "project" / "notes.txt": b"mine", cache.folder / "project" / "src" / "7": b"mine, too"}
    foreign[cache.folder / SUBFOLDER / ("ab" * 16) / "readme"] = b"nobody's"
    foreign[cache.folder / SUBFOLDER / "other" / "3"] = bytes(100_000)
    for path, content in foreign.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    small = dataclasses.replace(cache, max_bytes=16 * cache.chunk_bytes)
    shards = TokenShards.open(url, cache=small)
    for _ in range(2):  # more than it holds, so that chunks are removed
        assert np.array_equal(shards.read(0, shards.tokens), stream(TokenShards.open(corpus)))
    assert {path: path.read_bytes() for path in foreign} == foreign


@pytest.mark.parametrize("name", ["with space", "100%25", "a#b", "c?d"])
def test_a_local_path_through_the_cache_whatever_its_name(corpus, tmp_path, cache, name):
    folder = shutil.copytree(corpus, tmp_path / name / "train")
    shards = TokenShards.open(folder, cache=dataclasses.replace(cache, always=True))
    assert np.array_equal(stream(shards), stream(TokenShards.open(corpus)))


def test_a_process_that_ends_waits_for_no_hint():
    code = (
        "import time; from data_prep.shards.prefetch import Prefetcher; hints = Prefetcher()\n"
        "for _ in range(100): hints.hint(lambda: time.sleep(60))\n"
        "print('done')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
