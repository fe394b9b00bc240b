"""A run's folder with everything in it, and its page as a reader sees it."""

import base64
import io
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from PIL import Image

from vgglab.reporting.history import CSVHistory

ENVIRONMENT: dict[str, Any] = {
    "command": "python scripts/train.py 'name=<script>alert(1)</script>'",
    "started": "2026-01-02T03:04:05+00:00",
    "versions": {"torch": "2.15.0", "vgglab": None},
    "git": {"commit": "0123abcd", "dirty": True, "diff_sha256": "feedbeef"},
    "hardware": {
        "cpu": "A Fast One",
        "cores": 8,
        "memory": 32 * 2**30,
        "gpus": [{"name": "Big GPU", "memory": 80 * 2**30}],
    },
    "os": "Linux",
}
STATUS: dict[str, Any] = {
    "status": "finished",
    "error": None,
    "started": "2026-01-02T03:04:05+00:00",
    "attempt_started": "2026-01-02T04:04:05+00:00",
    "ended": "2026-01-02T05:04:05+00:00",
    "seconds": 4000.0,
    "devices": 9,
    "device_seconds": 36000.0,
    "attempts": 2,
}
LAYER = {"name": "conv1<i>", "type": "Conv2d", "output": [4, 8, 8], "parameters": 112}
NETWORK: dict[str, Any] = {
    "input_size": [3, 32, 32],
    "parameters": 1_500_000,
    "trainable": 112,
    "mult_adds": 2_300_000_000,
    "layers": [LAYER | {"mult_adds": 6912, "receptive_field": 3}],
}


def png(side: int = 64) -> str:
    """A picture in base64."""
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), "teal").save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def mistake(**changes: Any) -> dict[str, Any]:
    made = {"true": "<i>cat", "predicted": "dog", "probability": 0.987, "true_probability": 0.004}
    return {**made, "index": 1234, "image": png(), **changes}


def fill(run: Path) -> None:
    """Everything a finished run has."""
    (run / ".hydra").mkdir(parents=True)
    config = "name: <b>bold</b>\nmirror: https://example.org/data\ntrainer: {}\n"
    (run / ".hydra" / "config.yaml").write_text(config)
    (run / ".hydra" / "overrides.yaml").write_text("- optimizer.lr=0.05\n- name=<u>\n")
    for name, content in {
        "environment": ENVIRONMENT,
        "status": STATUS,
        "network": NETWORK,
        "metrics": {"test/loss": 0.04567, "test/top1": 0.98765, "test/top5": 0.99912},
        "confusion": {"classes": ["<i>cat", "dog"], "matrix": [[31, 9], [0, 17]]},
        "mistakes": {"mistakes": [mistake()]},
        "skipped": {"count": 1, "images": ["train/<u>/7.jpg: empty file"]},
    }.items():
        change(run, name, content)
    history = CSVHistory(str(run))
    for step in range(10):
        metrics = {"epoch": step // 5, "train/loss": 2 / (step + 1), "lr": 0.1}
        speed = {
            "throughput/images_per_second": 1200.0 + step,
            "throughput/data_wait_fraction": 0.02,
            "throughput/mfu": 0.31,
        }
        history.log_metrics({**metrics, **speed}, step)
    history.log_metrics({"epoch": 1, "val/loss": 0.5, "val/top1": 0.9123, "val/top5": 0.99}, 9)


def change(run: Path, name: str, content: Any) -> None:
    """Replace one of the folder's JSON files."""
    (run / f"{name}.json").write_text(json.dumps(content))


class Page(HTMLParser):
    """Checks that elements nest, and collects what a reader and a browser would see."""

    VOID = frozenset({"meta", "img", "line", "polyline", "circle", "rect"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href")]
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)
