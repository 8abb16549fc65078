"""What a site says of its pages' use, in files of its own: robots.txt (RFC 9309) and /.well-known/tdmrep.json (TDMRep, W3C
community group report of 2024, section 6.1)."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
from protego import Protego

from data_prep.sources import page_facts

AGENTS = (
    "AI2Bot", "Ai2Bot-Dolma", "anthropic-ai", "Applebot-Extended", "Bytespider", "CCBot", "Claude-Web", "ClaudeBot",
    "cohere-ai", "cohere-training-data-crawler", "DeepSeekBot", "Diffbot", "FacebookBot", "Google-Extended", "GPTBot",
    "Kangaroo Bot", "meta-externalagent", "omgili", "PanguBot", "TikTokSpider", "Timpibot", "Webzio-Extended",
)  # fmt: skip
"""Crawlers that gather text to train language models, of the catalogue at github.com/ai-robots-txt/ai.robots.txt (2025); those
that search or answer for a user are left out."""
_AGENT_NAMES = ("user-agent", "useragent")
REMEMBERED = 100_000
"""Hosts whose rules an archive may teach, so that memory stays bounded; further ones forget the first."""


class SiteRules:
    """The rules by host: from a folder of files, and from the archive as it is read."""

    def __init__(self, agents: list[str], folder: Path | None):
        self._agents, self._folder = agents, folder
        self._robots: dict[str, Robots | None] = {}
        self._reserved: dict[str, list[tuple[re.Pattern[str], bool]]] = {}

    def learn(self, url: str, raw: bytes) -> bool:
        """Take over a robots.txt or tdmrep.json; False when the URL is of neither."""
        host, path = _host(url), urlsplit(url).path
        if path == "/robots.txt":
            _remember(self._robots, host, _robots(raw))
        elif path == "/.well-known/tdmrep.json":
            _remember(self._reserved, host, _reservations(raw))
        else:
            return False
        return True

    def signals(self, url: str, others: list[str]) -> dict[str, list[str]]:
        """{"opt_out": [...]} with the agents that the page is denied to, a reservation of rights, and the `others`; {} when
        there are none."""
        host = _host(url)
        self._look_up(host)
        rules = self._robots[host]
        found = rules.denials(url, self._agents) if rules is not None else []
        if _is_reserved(url, self._reserved[host]):
            found.append("tdmrep.json")
        return {"opt_out": [*others, *found]} if others or found else {}

    def _look_up(self, host: str) -> None:
        """Read the folder's files of a host, once."""
        if host not in self._robots:
            raw = _read(self._folder, f"{host}.txt")
            _remember(self._robots, host, None if raw is None else _robots(raw))
        if host not in self._reserved:
            raw = _read(self._folder, f"{host}.tdmrep.json")
            _remember(self._reserved, host, [] if raw is None else _reservations(raw))


def _host(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError:  # http://[x
        return ""


def _read(folder: Path | None, name: str) -> bytes | None:
    if folder is None or "/" in name or name.startswith("."):
        return None
    file = folder / name
    return file.read_bytes() if file.is_file() else None


def _remember(known: dict[str, Any], host: str, rules: Any) -> None:
    known[host] = rules
    if len(known) > REMEMBERED:
        del known[next(iter(known))]


def _robots(raw: bytes) -> Robots:
    return Robots(raw[: 500 << 10])  # RFC 9309, 2.5: at least 500 KiB are read


class Robots:
    """A robots.txt, brought into the form that Protego reads as RFC 9309 means it.

    A byte order mark goes. A group ends where a user-agent line follows a rule, with no other line: Crawl-delay, Content-Usage
    and unknown lines between user-agent lines do not end it. Of an agent, only its product token counts ("GPTBot/1.0").
    Content-Usage and Content-Signal (IETF aipref drafts, contentsignals.org) that deny training speak for their group's agents.
    """

    def __init__(self, raw: bytes):
        lines: list[str] = []
        self._unused: dict[str, list[str]] = {}
        """Paths, by agent in lower case, whose use for training is denied."""
        agents: list[str] = []
        ruled = False
        for line in _text(raw).splitlines():
            name, colon, value = (part.strip() for part in line.split("#", 1)[0].partition(":"))
            name = name.lower().replace(" ", "-")
            if not colon:
                continue
            if name in _AGENT_NAMES:
                agents, ruled = ([] if ruled else agents), False
                token = re.match(r"[\w.*-]+(?:[ ][\w.*-]+)*", value)
                agents.append(token.group().lower() if token else value.lower())
                lines.append(f"User-agent: {agents[-1]}")
            elif name in ("allow", "disallow"):
                ruled = True
                lines.append(f"{name}: {value}")
            elif name in ("content-usage", "content-signal") and page_facts.denies_training(value):
                path = value.split()[0] if value.startswith("/") else "/"
                for agent in agents or ["*"]:
                    self._unused.setdefault(agent, []).append(path)
        self._protego = Protego.parse("\n".join(lines))

    def denials(self, url: str, agents: list[str]) -> list[str]:
        """What denies training on a page: "robots.txt: AGENT" for each agent that may not fetch it, or for its stated use."""
        found = [f"robots.txt: {agent}" for agent in agents if not self._protego.can_fetch(url, agent.lower())]
        if self._unused:
            path = urlsplit(url).path or "/"
            named = {"*", *(agent.lower() for agent in agents)}
            if any(path.startswith(start) for agent in named for start in self._unused.get(agent, ())):
                found.append("robots.txt: ai-train=no")
        return found


def _text(raw: bytes) -> str:
    """The characters of a robots.txt: UTF-8 (RFC 9309, 2.3), or what its byte order mark says."""
    for mark, encoding in ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")):
        if raw.startswith(mark):
            return raw[len(mark) :].decode(encoding, "replace")
    return raw.decode("utf-8", "replace")


def _reservations(raw: bytes) -> list[tuple[re.Pattern[str], bool]]:
    """(pattern of paths, reserved), in order; what is not in form says nothing."""
    try:
        entries = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return []
    found = []
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and isinstance(entry.get("location"), str):
            reserved = str(entry.get("tdm-reservation")) in ("1", "True", "true")
            found.append((_pattern(entry["location"]), reserved))
    return found


@lru_cache(maxsize=1024)
def _pattern(location: str) -> re.Pattern[str]:
    """A location of TDMRep: a path's beginning, * for any characters, $ for the end."""
    ends = location.endswith("$")
    parts = re.sub(r"\*+", "*", location.removesuffix("$")).split("*")
    return re.compile(".*?".join(map(re.escape, parts)) + ("$" if ends else ""), re.DOTALL)


def _is_reserved(url: str, rules: list[tuple[re.Pattern[str], bool]]) -> bool:
    if not rules:
        return False
    parts = urlsplit(url)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return next((reserved for pattern, reserved in rules if pattern.match(path)), False)
