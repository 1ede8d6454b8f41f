"""One folder per run: the same files in every domain, each written whole or not at all."""

from __future__ import annotations

import json
import logging
import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from shared_runtime.errors import UsageError
from shared_runtime.files import replacing

if TYPE_CHECKING:
    import pandas as pd

_PACKAGES = ("heed", "torch", "lightning", "numpy", "pandas", "scipy", "safetensors")
_ENVIRONMENT = "environment.json"
_RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK")


@dataclass(frozen=True)
class RunFolder:
    """A run's files. Under several processes only the first writes."""

    path: Path

    @classmethod
    def create(
        cls, out: Path, *, config: Mapping[str, Any] | None = None, resume: bool = False
    ) -> RunFolder:
        """Make the folder of a new run, or open the unfinished one to resume.

        Args:
            out: Folder; missing or empty for a new run.
            config: Resolved configuration; written to `config.yaml`, or compared with it.
            resume: Continue the unfinished run in `out` if there is one.

        Raises:
            UsageError: The folder holds a finished run, an unfinished one without `resume`, one
                with another configuration, or files that are no run.
        """
        folder = cls(out)
        if not folder.writes:
            return folder
        if out.exists() and not out.is_dir():
            raise UsageError(f"--out {out}: is a file; give a folder")
        if folder.finished:
            raise UsageError(f"--out {out}: holds a finished run; choose another folder")
        if (out / _ENVIRONMENT).exists():
            if not resume:
                raise UsageError(
                    f"--out {out}: holds an unfinished run; "
                    "add --resume to continue it, or choose another folder"
                )
            if config is not None:
                folder._check_same(config)
            return folder
        if out.exists() and any(not _unfinished_write(entry) for entry in out.iterdir()):
            raise UsageError(f"--out {out}: is not empty and holds no run; choose another folder")
        if config is not None:
            folder.write_config(config)
        folder.write_json(_ENVIRONMENT, {**environment(), "finished": None})
        return folder

    @property
    def writes(self) -> bool:
        """Whether this process is the one that writes."""
        return all(int(os.environ.get(name, "0")) == 0 for name in _RANKS)

    @property
    def finished(self) -> bool:
        """Whether the run has ended and its files are complete."""
        path = self.path / _ENVIRONMENT
        return path.exists() and bool(json.loads(path.read_text("utf-8")).get("finished"))

    def finish(self) -> None:
        """Mark the run as complete; the last thing a run writes."""
        path = self.path / _ENVIRONMENT
        self.write_json(_ENVIRONMENT, {**json.loads(path.read_text("utf-8")), "finished": _now()})

    def write_text(self, name: str, text: str) -> Path:
        """Write `text` as UTF-8."""
        return self.write_bytes(name, text.encode("utf-8"))

    def write_bytes(self, name: str, content: bytes) -> Path:
        """Write `content` whole or not at all."""
        path = self.path / name
        if self.writes:
            with replacing(path) as partial:
                partial.write_bytes(content)
        return path

    def write_json(self, name: str, value: Mapping[str, Any]) -> Path:
        """Write `value` as JSON; NaN and infinity are refused, as JSON has neither."""
        return self.write_text(name, json.dumps(value, indent=2, allow_nan=False) + "\n")

    def write_config(self, config: Mapping[str, Any]) -> Path:
        """Write the resolved configuration, which can be run again as it is."""
        return self.write_text("config.yaml", _yaml(config))

    def write_rows(self, name: str, rows: Sequence[Mapping[str, Any]]) -> Path:
        """Write a list of records as CSV or Parquet."""
        import pandas as pd

        return self.write_frame(name, pd.DataFrame(list(rows)))

    def write_frame(self, name: str, frame: pd.DataFrame) -> Path:
        """Write a table without its index, as `name` ends: `.csv` or `.parquet`."""
        path = self.path / name
        if path.suffix not in (".csv", ".parquet"):
            raise UsageError(f"{path}: expected a name that ends in .csv or .parquet")
        if self.writes:
            with replacing(path) as partial:
                if path.suffix == ".csv":
                    frame.to_csv(partial, index=False)
                else:
                    frame.to_parquet(partial, index=False)
        return path

    @contextmanager
    def log(self) -> Iterator[logging.Logger]:
        """Also write the `heed` logger's lines to `run.log` inside the block."""
        logger = logging.getLogger("heed")
        if not self.writes:
            yield logger
            return
        self.path.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(self.path / "run.log", encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        level = logger.level
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            yield logger
        finally:
            logger.setLevel(level)
            logger.removeHandler(handler)
            handler.close()

    def _check_same(self, config: Mapping[str, Any]) -> None:
        path = self.path / "config.yaml"
        before = flatten(yaml.safe_load(path.read_text("utf-8")) if path.exists() else {})
        now = flatten(yaml.safe_load(_yaml(config)))
        different = [
            f"{key} (was {before.get(key)!r}, now {now.get(key)!r})"
            for key in sorted({*before, *now})
            if before.get(key) != now.get(key)
        ]
        if different:
            raise UsageError(
                f"cannot resume {self.path}: {', '.join(different)} changed; "
                "ask for the same configuration, or choose another --out"
            )


def environment() -> dict[str, Any]:
    """Return what a run depends on besides its configuration: versions, machine, threads."""
    import torch

    return {
        "started": _now(),
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "packages": package_versions(),
    }


def package_versions() -> dict[str, str]:
    """Return the installed versions of the packages results depend on."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested mapping with dotted keys: `{"a": {"b": 1}}` gives `{"a.b": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _yaml(config: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _unfinished_write(entry: Path) -> bool:
    """Whether a killed process left `entry` behind before the run had begun."""
    return entry.name in ("config.yaml", "run.log") or entry.name.endswith(".partial")
