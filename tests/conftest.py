"""Property tests have no deadline: what an example takes depends on what else the machine does."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("moenda", deadline=None)
settings.load_profile("moenda")
