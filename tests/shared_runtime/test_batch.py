from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from shared_runtime.batch import BatchResult, run_batch
from shared_runtime.errors import DataError, UsageError


class Work:
    def __init__(self, out: Path) -> None:
        self.out = out
        self.seen: list[str] = []

    def __call__(self, path: Path, name: str) -> list[str]:
        self.seen.append(path.name)
        text = path.read_text()
        if text == "bad":
            raise DataError("row 2: not\na number")
        if text == "crash":
            raise RuntimeError("boom")
        if text == "stop":
            raise KeyboardInterrupt
        self.out.mkdir(exist_ok=True)
        (self.out / name).write_text(text.upper())
        (self.out / f"{name}.map").write_text(text)
        return [f"{name}.map"]


@pytest.fixture
def inputs(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "in"
    folder.mkdir()
    for name, text in {"a": "one", "b": "bad", "c": "crash", "d": "two"}.items():
        (folder / name).write_text(text)
    return sorted(folder.iterdir())


def go(inputs: list[Path], work: Work, **options: object) -> BatchResult:
    return run_batch(inputs, work.out, work, **{"made_with": "m", "suffix": ".txt", **options})


def test_one_bad_file_stops_nothing(inputs: list[Path], tmp_path: Path) -> None:
    work = Work(tmp_path / "out")
    result = go(inputs, work)
    failures = {"b": "row 2: not a number", "c": "RuntimeError: boom"}
    assert result == BatchResult(done=2, skipped=0, failures=failures)
    assert (work.out / "d.txt").read_text() == "TWO"
    rows = list(csv.reader((work.out / "failures.csv").read_text().splitlines()))
    assert rows == [["file", "error"], *map(list, failures.items())]
    manifest = json.loads((work.out / "manifest.json").read_text())["items"]
    assert manifest["a"]["status"] == "done" and manifest["a"]["output"] == "a.txt"
    assert manifest["b"]["status"] == "failed" and manifest["b"]["output"] is None
    assert len(manifest["a"]["sha256"]) == 64


def test_only_what_is_not_done_is_done_again(inputs: list[Path], tmp_path: Path) -> None:
    work = Work(tmp_path / "out")
    go(inputs, work)
    work.seen.clear()
    inputs[1].write_text("mended")
    result = go(inputs, work)
    assert work.seen == ["b", "c"], "failed files are tried again"
    assert (result.done, result.skipped, list(result.failures)) == (1, 2, ["c"])
    work.seen.clear()
    inputs[0].write_text("changed")
    (work.out / "d.txt").unlink()
    go(inputs, work)
    assert work.seen == ["a", "c", "d"]
    assert (work.out / "a.txt").read_text() == "CHANGED"
    work.seen.clear()
    go(inputs, work, overwrite=True)
    assert work.seen == ["a", "b", "c", "d"]
    work.seen.clear()
    go(inputs, work, made_with="another model")
    assert work.seen == ["a", "b", "c", "d"]


def test_an_item_is_done_only_with_all_its_files(inputs: list[Path], tmp_path: Path) -> None:
    work = Work(tmp_path / "out")
    go(inputs, work)
    (work.out / "a.txt.map").unlink()
    work.seen.clear()
    go(inputs[:1], work)
    assert work.seen == ["a"]
    assert (work.out / "a.txt.map").is_file()


def test_a_folder_can_be_one_item(tmp_path: Path) -> None:
    series, out = tmp_path / "series", tmp_path / "out"
    (series / "part").mkdir(parents=True)
    (series / "part" / "1").write_text("x")
    seen = []

    def work(path: Path, name: str) -> list[str]:
        seen.append(path.name)
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("y")
        return []

    for _ in range(2):
        run_batch([series], out, work, made_with="m", suffix=".txt")
    assert seen == ["series"]
    (series / "part" / "1").rename(series / "part" / "2")
    run_batch([series], out, work, made_with="m", suffix=".txt")
    assert seen == ["series", "series"], "a renamed file inside is a change"


def test_an_interrupted_pass_continues(inputs: list[Path], tmp_path: Path) -> None:
    work = Work(tmp_path / "out")
    inputs[2].write_text("stop")
    with pytest.raises(KeyboardInterrupt):
        go(inputs, work)
    assert work.seen == ["a", "b", "c"]
    inputs[2].write_text("three")
    work.seen.clear()
    assert go(inputs, work).skipped == 1
    assert work.seen == ["b", "c", "d"]


@pytest.mark.parametrize("text", ["{", "[]", '{"items": {"a": {"status": "done"}}}', "{}"])
def test_a_manifest_that_is_none_is_refused(text: str, inputs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "manifest.json").write_text(text)
    with pytest.raises(UsageError, match="is no manifest of a batch"):
        go(inputs, Work(out))
    assert (out / "manifest.json").read_text() == text


def test_equal_names_in_several_folders_stay_apart(tmp_path: Path) -> None:
    out = tmp_path / "out"
    inputs = [tmp_path / "in" / above / "CT" for above in ("p1", "p2")]
    for path in inputs:
        path.mkdir(parents=True)
        (path / "slice").write_text(str(path))

    def work(path: Path, name: str) -> list[str]:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(path.parent.name)
        return []

    def again() -> BatchResult:
        root = tmp_path / "in"
        return run_batch(inputs, out, work, made_with="m", suffix=".txt", root=root)

    assert again() == BatchResult(2, 0, {})
    assert [(out / above / "CT.txt").read_text() for above in ("p1", "p2")] == ["p1", "p2"]
    assert again() == BatchResult(0, 2, {})


def test_a_wrong_setting_is_no_failure_of_a_file(inputs: list[Path], tmp_path: Path) -> None:
    def work(path: Path, name: str) -> list[str]:
        raise UsageError("data.mirror: wrong")

    with pytest.raises(UsageError, match=r"data\.mirror"):
        run_batch(inputs, tmp_path / "out", work, made_with="m", suffix=".txt")
    assert not list((tmp_path / "out").glob("*.json"))


def test_a_change_of_a_part_is_noticed(tmp_path: Path) -> None:
    first, further, out = tmp_path / "in_0000", tmp_path / "in_0001", tmp_path / "out"
    out.mkdir()
    first.write_text("x")
    further.write_text("y")
    seen = []

    def work(path: Path, name: str) -> list[str]:
        seen.append(path.name)
        (out / name).write_text("z")
        return []

    def again() -> None:
        options = {"made_with": "m", "suffix": ".txt"}
        run_batch([first], out, work, parts=lambda _: [first, further], **options)

    again()
    again()
    assert seen == ["in_0000"]
    further.write_text("changed")
    again()
    assert seen == ["in_0000"] * 2


def test_an_item_that_cannot_be_read_is_a_failure(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.symlink_to(tmp_path / "nowhere")
    result = go([gone], Work(tmp_path / "out"))
    assert "FileNotFoundError" in result.failures["gone"]
