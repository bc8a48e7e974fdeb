"""The pages in a real browser: nothing overflows, nothing complains, on a phone and a wide screen, light and dark.

Screenshots are kept in build/screenshots.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from illama_deploy.report import render_history, render_html
from illama_deploy.report.renderers import render_inspection, render_properties
from illama_deploy.report.rows import SITE_COLUMNS, site_rows
from illama_deploy.steps.inspect import Inspection

from ..conftest import ROOT
from ..reports import document, properties

pytestmark = pytest.mark.slow

SCREENSHOTS = ROOT / "build" / "screenshots"
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
#: Elements that reach beyond the window.
BEYOND = """() => [...document.querySelectorAll('body *')]
    .filter(e => e.getBoundingClientRect().right > innerWidth + 0.5 || e.getBoundingClientRect().left < -0.5)
    .map(e => e.tagName + ' ' + e.textContent.slice(0, 40))"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"there is no browser here: none of {', '.join(BROWSERS)}")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"], timeout=180_000)
        yield running
        running.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    content = document()
    long = "a/very/long/path/without/any/space/in/it/" * 4 + "model.onnx"
    content["artifacts"][3]["info"]["name"] = content["gates"][0]["artifact"] = long
    (folder / "report.html").write_text(render_html(content), encoding="utf-8")
    [quantized] = content["quantized"]
    table = Inspection(SITE_COLUMNS, site_rows(quantized), "18 sites", quantized)
    (folder / "inspect.html").write_text(render_inspection("illama-out/quantized", table), encoding="utf-8")
    evaluation = {
        "artifact": content["artifacts"][3]["info"],
        "data": content["data"],
        "skipped": ["digit 4"],
        "images": 500,
        **{"top1": 81.08, "top5": 98.4, "ece": 0.0591, "nll": 0.6123, "brier": 0.2871},
        "properties": properties(0.41, 41.2),
    }
    (folder / "evaluate.html").write_text(render_properties(evaluation), encoding="utf-8")
    reports = [document(created=f"2026-11-{day}T08:00:00Z") for day in range(10, 18)]
    (folder / "history.html").write_text(render_history(reports)["history.html"], encoding="utf-8")
    return folder


def _screenshot(page: Any, path: Path) -> None:
    """Chromium says "Unable to capture screenshot" now and then where the machine has more to do than it can."""
    from playwright.sync_api import Error

    for attempt in range(5):
        try:
            page.screenshot(path=path, full_page=True)
            return
        except Error:
            if attempt == 4:
                raise


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", ["report", "history", "inspect", "evaluate"])
def test_page_fits(browser: Any, pages: Path, name: str, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    page.set_default_timeout(180_000)
    complaints: list[str] = []
    fetched: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: fetched.append(request.url))
    address = (pages / f"{name}.html").as_uri()
    page.goto(address)
    page.evaluate("() => document.querySelectorAll('details').forEach(e => e.open = true)")
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    _screenshot(page, SCREENSHOTS / f"{name}-{width}-{scheme}.png")
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    assert page.evaluate(BEYOND) == []
    assert complaints == []
    assert [url for url in fetched if not url.startswith("data:")] == [address]
    dark = page.evaluate("() => getComputedStyle(document.body).backgroundColor") == "rgb(20, 22, 26)"
    assert dark == (scheme == "dark")
    context.close()
