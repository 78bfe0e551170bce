"""The report in a real browser, Debian's chromium (`make browser`): width, keyboard, hover, filters, print."""

from __future__ import annotations

import base64
import runpy
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmark import report

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no chromium and chromedriver: make browser"),
]
HERE = Path(__file__).parent
QUICK = HERE.parents[1] / "results" / "reference" / "quick"
shared = SimpleNamespace(**runpy.run_path(str(HERE / "test_report.py")))
FOCUSABLE = "a[href], button, select, input, summary, [tabindex='0']"
VISIBLE = "(e) => e.checkVisibility({ visibilityProperty: true }) && !e.disabled"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_page_load_timeout(120)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the quick sweep, with a run that failed and one that was stopped."""
    folder = tmp_path_factory.mktemp("report") / "quick"
    shutil.copytree(QUICK, folder)
    runs = sorted((folder / "runs").iterdir())
    (runs[0] / "result.json").unlink()
    (runs[0] / "failure.json").write_text('{"exception": "RuntimeError: out of memory", "traceback": "T"}')
    (runs[1] / "result.json").unlink()
    return report.write_report(folder)


def visit(browser: Any, page: Path, width: int, height: int = 900) -> None:
    """Load the page in a window of that size; whatever it logs is an error."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "screen"})
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page.as_uri())
    assert browser.execute_script("return !document.getElementById('app').hidden")
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_nothing_is_wider_than_the_window(browser: Any, page: Path, width: int) -> None:
    visit(browser, page, width)
    wide = browser.execute_script(
        "return [...document.querySelectorAll('body *')].filter((e) => !e.closest('.scroll') &&"
        f" ({VISIBLE})(e) && e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.outerHTML.slice(0, 100))"
    )
    assert wide == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_nothing_is_loaded(browser: Any, page: Path) -> None:
    visit(browser, page, 1280)
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0


@pytest.mark.parametrize("width", [390, 1280])
def test_tab_reaches_every_control(browser: Any, page: Path, width: int) -> None:
    from selenium.webdriver import ActionChains, Keys

    visit(browser, page, width)
    expected = browser.execute_script(
        f'const all = [...document.querySelectorAll("{FOCUSABLE}")].filter({VISIBLE});'
        "all.forEach((e, i) => { e.dataset.stop = i; }); return all.length"
    )
    assert expected > 80
    browser.execute_script(
        "window.stops = []; addEventListener('focusin', (event) => stops.push(event.target.dataset.stop))"
    )
    for _ in range(expected // 20 + 2):
        keys = ActionChains(browser)
        for _ in range(20):
            keys.send_keys(Keys.TAB)
        keys.perform()
    reached = set(browser.execute_script("return window.stops"))
    missed = [i for i in range(expected) if str(i) not in reached]
    where = [
        browser.execute_script(f"return document.querySelector('[data-stop=\"{i}\"]').outerHTML.slice(0, 120)")
        for i in missed[:5]
    ]
    assert missed == [], where


def tip(browser: Any) -> str:
    return str(browser.execute_script("const t = document.getElementById('tip'); return t.hidden ? '' : t.innerText"))


def test_values_appear_on_hover_and_by_keyboard(browser: Any, page: Path) -> None:
    from selenium.webdriver import ActionChains, Keys
    from selenium.webdriver.common.by import By

    visit(browser, page, 1280)
    chart = browser.find_element(By.CSS_SELECTOR, "#curve-panels svg.chart")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", chart)
    ActionChains(browser).pause(0.3).move_to_element(chart).pause(0.2).perform()
    (name, setting) = ("dgr", browser.find_element(By.CSS_SELECTOR, "#curve-panels h3").text)
    data = shared.data_of(page.read_text())
    shown = tip(browser)
    seen = int(shown.split()[0])
    assert "classes seen" in shown
    place = next(i for i, s in enumerate(data["settings"]) if s["name"] == setting)
    values = [
        entry["curves"]["accuracy_seen"][data["steps"][entry["steps"]].index(seen)]
        for entry in data["results"]
        if entry["s"] == place and data["methods"][entry["m"]]["name"] == name
    ]
    (line,) = (line for line in shown.splitlines() if line.strip().startswith(name) and "_" not in line)
    assert f"{sum(values) / len(values) / 100:.1f}" in line
    browser.execute_script("arguments[0].focus()", chart)
    ActionChains(browser).send_keys(Keys.HOME).perform()
    first = tip(browser)
    ActionChains(browser).send_keys(Keys.ARROW_RIGHT).perform()
    assert "classes seen" in first and int(tip(browser).split()[0]) > int(first.split()[0])
    ActionChains(browser).send_keys(Keys.ESCAPE).perform()
    for section in ("class-panels", "confusion-panels"):
        target = browser.find_element(By.CSS_SELECTOR, f"#{section} svg[tabindex]")
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", target)
        ActionChains(browser).pause(0.3).move_to_element(target).pause(0.2).perform()
        assert tip(browser), section


def test_the_leaderboard_sorts_and_filters_and_curves_are_toggled(browser: Any, page: Path) -> None:
    from selenium.webdriver.common.by import By

    visit(browser, page, 1280)

    def names() -> list[str]:
        return [e.text.strip() for e in browser.find_elements(By.CSS_SELECTOR, "#board tbody th")]

    before = names()
    assert {"dgr", "replay"} <= set(before)
    browser.find_element(By.CSS_SELECTOR, "#board [data-sort='name']").click()
    assert names() == sorted(before) and names() != before
    browser.find_element(By.ID, "query").send_keys("icarl")
    assert names() and all("icarl" in name for name in names())
    browser.find_element(By.ID, "query").clear()
    browser.execute_script("document.getElementById('query').dispatchEvent(new Event('input'))")
    lines = "return document.querySelectorAll('#curve-panels svg:first-of-type g[data-m]').length"
    with_all = browser.execute_script(lines)
    browser.find_element(By.CSS_SELECTOR, "#method-chips .chip input").click()
    assert browser.execute_script(lines) < with_all and len(names()) == len(before) - 1


def test_failures_are_named(browser: Any, page: Path) -> None:
    from selenium.webdriver.common.by import By

    visit(browser, page, 1280)
    overview = browser.find_element(By.ID, "overview").text
    assert (
        "RuntimeError: out of memory" in overview
        and "58 of 60 done" in browser.find_element(By.TAG_NAME, "header").text
    )
    browser.find_element(By.CSS_SELECTOR, "#run-state option[value='failed']").click()
    rows = browser.find_elements(By.CSS_SELECTOR, "#run-table tbody tr:not(.details)")
    assert len(rows) == 1 and "out of memory" in rows[0].text
    rows[0].find_element(By.TAG_NAME, "button").click()
    assert "training.lr" in browser.find_element(By.CSS_SELECTOR, "#run-table .details").text


def test_it_prints(browser: Any, page: Path) -> None:
    visit(browser, page, 1280)
    pdf = base64.b64decode(browser.print_page())
    assert pdf[:5] == b"%PDF-" and pdf.count(b"/Type /Page\n") >= 3
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    shown = browser.execute_script(
        f"return [...document.querySelectorAll('nav, .controls, #run-more')].filter({VISIBLE}).length"
    )
    assert shown == 0


def test_text_from_the_folder_runs_nothing(browser: Any, tmp_path: Path) -> None:
    shared.hostile_folder(tmp_path)
    visit(browser, report.write_report(tmp_path), 390)
    for button in browser.find_elements("css selector", "#run-table button"):
        browser.execute_script("arguments[0].click()", button)
    assert browser.execute_script("return window.hacked") is None
    assert browser.execute_script("return document.querySelectorAll('img, b:not(section b)').length") == 0
    assert "<img src=x" in browser.find_element("id", "runs").text
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
