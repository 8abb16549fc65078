"""The trainer without its list of architectures whose plans do not say how they must be cut."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from trainer.model import tensor_parallel
from trainer.train import main

tensor_parallel.PACKED.clear()
sys.exit(main())
