from __future__ import annotations

import logging
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure as MatplotlibFigure

from shared_runtime import charts
from shared_runtime.domain import Figure
from shared_runtime.report import MOST_ROWS, IndexItem, Report, render, render_index

logging.getLogger("matplotlib").setLevel(logging.WARNING)

HOSTILE = "<img src=x onerror=alert(1)>"
METRICS = {
    "model": "Net",
    "split": "test",
    "n_scored": 12345,
    "seed": 3,
    "metrics": {"mse": {"value": 0.5, "ci_low": 0.4, "ci_high": 0.6}},
    "baselines": {"repeat": {"mse": 0.25}},
}
HISTORY = pd.DataFrame({"epoch": [1, 2], "train_loss": [2.0, 1.0], "val_loss": [1.0, 1.5]})


def drawing(points: int = 5) -> MatplotlibFigure:
    with charts.style():
        figure = MatplotlibFigure(figsize=(4, 2))
        axes = figure.subplots()
        axes.scatter(range(points), range(points))
        axes.set_title("αβγ <&>")
    return figure


def report(**more: object) -> Report:
    return Report(
        **{
            "domain": "toy",
            "model": "Net",
            "summary": HOSTILE,
            "paper": HOSTILE,
            "disclaimer": "Not for clinical use.",
            "facts": {"parameters": 265},
            "metrics": METRICS,
            "figures": [Figure("First.", HOSTILE, drawing())],
            "tables": {"Rows": pd.DataFrame({"n": range(MOST_ROWS + 4), "x": 1 / 3})},
            "history": HISTORY,
            "data": {"n_rows": 3, "columns": ["a", "b"], "share": 0.123456, "none": None},
            "command": "heed toy train",
            "config": {"domain": "toy", "data": {"path": HOSTILE}},
            "environment": {"packages": {"torch": "2"}},
            **more,
        }
    )


def test_everything_is_said_once_and_escaped() -> None:
    page = render(report())
    assert HOSTILE not in page and page.count("&lt;img src=x onerror=alert(1)&gt;") == 4
    for text in (
        "12 345 items of the test part",
        "[0.4000, 0.6000]",
        "Not for clinical use.",
        "0.1235",
    ):
        assert text in page
    assert "<td>0.3333</td>" in page and "4 more rows are not shown" in page
    assert page.index("mse") < page.index("Net</th>") < page.index("repeat</th>")
    assert re.search(r'<td class="best">0.2500<', page), "the baseline is better and is marked"
    assert "none</dd>" in page


def test_many_metrics_below_each_other() -> None:
    value = {"value": 0.5, "ci_low": None, "ci_high": None}
    many = {**METRICS, "metrics": {f"m{n}": value for n in range(6)}, "baselines": {}}
    page = render(report(metrics=many))
    assert '<th scope="col" class="model">Net</th>' in page
    assert '<th scope="row">m5</th><td class=" model">0.5000</td>' in page


def test_nothing_outside_is_named() -> None:
    page = render(report())
    assert set(re.findall(r"https?://[^\"' ]+", page)) <= {"http://www.w3.org/2000/svg"}
    assert "<script" not in page and "@import" not in page and "<?xml" not in page


def test_empty_sections_are_left_out() -> None:
    page = render(Report(domain="toy", model="Net", summary="s"))
    assert "<h2>" not in page and "<svg" not in page


def test_note_instead_of_an_explanation() -> None:
    assert "no attention here" in render(report(explanation_note="no attention here"))


def test_figures_follow_the_page_colours() -> None:
    svg = charts.embed(drawing())
    assert svg.startswith("<svg") and charts.INK not in svg
    assert "var(--ink)" in svg and "var(--series-0)" in svg
    style = (Path(charts.__file__).parent / "templates/style.css").read_text()
    assert set(re.findall(r"var\((--[a-z0-9-]+)\)", svg)) <= set(re.findall(r"(--[\w-]+):", style))


def test_a_large_figure_becomes_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charts, "LARGEST_SVG", 100)
    assert charts.embed(drawing()).startswith('<img alt="" style="max-width: 480px" src="data:ima')


def test_same_figure_same_text() -> None:
    assert charts.embed(drawing()) == charts.embed(drawing())


def test_loss_curves_mark_the_lowest_validation_loss() -> None:
    axes = charts.loss_curves(HISTORY).axes[0]
    assert axes.get_title(loc="right") == "lowest validation loss 1 in epoch 1"
    assert [line.get_label() for line in axes.lines[:2]] == ["training", "validation"]


def test_index() -> None:
    items = [
        IndexItem("toy", "Net", "s", "toy/run/report.html", 3, METRICS),
        IndexItem("bird", error=HOSTILE),
    ]
    page = render_index("Demonstration", "s", items)
    assert '<a href="toy/run/report.html">Net</a>' in page
    assert "bird did not finish" in page and HOSTILE not in page


def chromium() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    pytest.skip("no Chromium here: apt-get install chromium")


def browse(page: Path, tmp_path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [
        chromium(),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--enable-logging=stderr",
        f"--user-data-dir={tmp_path / 'profile'}",
        *options,
        page.as_uri(),
    ]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=90)


def complaints(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.browser
def test_renders_without_console_error_or_outside_request(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(render(report()))
    net_log = tmp_path / "net.json"
    ended = browse(page, tmp_path, "--dump-dom", f"--log-net-log={net_log}")
    assert complaints(ended.stderr) == []
    assert "<svg" in ended.stdout and "Not for clinical use." in ended.stdout
    asked = set(re.findall(r'"url":"(https?://[^"]*)"', net_log.read_text()))
    assert not {url for url in asked if "google" not in url}, asked


@pytest.mark.browser
def test_the_browser_test_notices_an_outside_request(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    text = render(report()).replace("<header>", '<header><img src="http://outside.test/a.png">')
    page.write_text(text)
    assert complaints(browse(page, tmp_path, "--dump-dom").stderr), "the page's policy refuses it"


@pytest.mark.browser
@pytest.mark.parametrize("width", [1200, 400])
def test_nothing_is_wider_than_the_page(tmp_path: Path, width: int) -> None:
    page = tmp_path / "report.html"
    page.write_text(render(report()))
    shot = tmp_path / "shot.png"
    browse(page, tmp_path, f"--screenshot={shot}", f"--window-size={width},900")
    from matplotlib.image import imread

    image = imread(shot)
    assert image.shape[:2] == (900, width)
    assert image[..., :3].std() > 0.02, "not a blank page"
