"""What a training of the unified ViT-cGAN notes along the way."""

from __future__ import annotations

from typing import Any


class History:
    """What was found along the way, kept through interruptions.

    Attributes:
        rows: of each comparison its "step" and figures.
        chosen: generated images for each real one that joined the classification loss, summed over steps.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.chosen = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "chosen": self.chosen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows, self.chosen = state["rows"], state["chosen"]
