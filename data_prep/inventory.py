"""What a build was made of, so that it can grow: inputs that were added are built, and none that is gone goes unnoticed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.stage import StageError, differences, listed, write_json

INVENTORY_FILE = "inputs.json"


@dataclass(frozen=True)
class Inventory:
    """The sources of a build, by name."""

    settings: dict[str, dict[str, Any]]
    """What decides how a source is read."""
    inputs: dict[str, dict[str, list[Any]]]
    """Of each input: its size in bytes, and what tells whether it has changed."""

    @classmethod
    def read(cls, folder: Path) -> Inventory | None:
        """That of the build in `folder`, None where there is none."""
        file = folder / INVENTORY_FILE
        return cls(**json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None

    def write(self, folder: Path) -> None:
        """Keep it in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / INVENTORY_FILE, {"settings": self.settings, "inputs": self.inputs})


@dataclass(frozen=True)
class Growth:
    """How the inputs differ from those of the build that was there."""

    added: list[str]
    changed: list[str]
    """Those with another size or time of change: they are read again."""
    removed: list[str]


def growth(before: Inventory | None, now: Inventory) -> Growth:
    """What came, changed and went; nothing in a first build."""
    if before is None:
        return Growth([], [], [])
    old, new = _flat(before), _flat(now)
    return Growth(
        [name for name in new if name not in old],
        [name for name, state in new.items() if old.get(name, state) != state],
        [name for name in old if name not in new],
    )


def require_allowed(folder: Path, before: Inventory | None, now: Inventory, allow_removed: bool, rebuild: bool) -> None:
    """Refuse what would take documents out of a corpus, or read a source in another way, without being asked to: `rebuild` asks
    for both, `allow_removed` for the first.

    Raises StageError.
    """
    if before is None or rebuild:
        return
    both = [name for name in now.settings if name in before.settings]
    if changes := [line for name in both for line in differences(before.settings[name], now.settings[name], name)]:
        raise StageError(
            f"{folder} was built differently: {listed(changes)}. Nothing was changed. Run with --rebuild to read these sources "
            f"anew, or choose another output folder."
        )
    found = growth(before, now)
    if (found.removed or found.changed) and not allow_removed:
        lost = {"are gone": found.removed, "have changed": found.changed}
        counts = " and ".join(f"{len(names):,} {how} ({listed(names)})" for how, names in lost.items() if names)
        raise StageError(
            f"of the {len(_flat(before)):,} inputs that {folder} was built from, {counts}. Nothing was changed. Put them back "
            f"as they were, or run with --allow-removed: what they held then leaves the corpus, what they hold now is built."
        )


def _flat(inventory: Inventory) -> dict[str, list[Any]]:
    return {f"{source}: {name}": state for source, inputs in inventory.inputs.items() for name, state in inputs.items()}
