"""The dashboard in a real Chromium, over real runs: it follows, it steers, its figures are the ledger's, it fits.

With FEDLORA_PICTURES=docs/images the pictures of docs/dashboard.md are made anew.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest
import yaml
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from fedlora.privacy.accounting import Event, epsilon
from fedlora.privacy.ledger import LedgerFiles, read_ledger
from server.dashboard.drawing import units
from server.store.audit import append_event
from server.store.opening import open_existing
from server.store.reading import find_run
from tests.federations import CLIENTS
from tests.server.dashboard.chromium import NARROW, WIDE, Browser, chromium, elsewhere
from tests.server.dashboard.scene import PASSWORD, Scene, dashboard, fill, simulation, tiny

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
PICTURES = os.environ.get("FEDLORA_PICTURES")


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dashboard")
    fill(folder)
    with dashboard(folder) as scene:
        yield scene


@pytest.fixture(scope="module")
def window(tmp_path_factory, scene):
    with chromium(tmp_path_factory.mktemp("profile")) as window:
        window.open(scene.link)
        window.see("Runs")
        yield window


@pytest.fixture
def browser(window, scene):
    """Logged in as whoever the test before was; nothing noted yet."""
    window.requests()
    window.complaints()
    yield window
    assert elsewhere(window.requests(), scene.url) == []
    assert window.complaints() == []


def run_id(scene: Scene, name: str) -> str:
    store = open_existing(scene.store)
    try:
        with store.reading() as connection:
            return find_run(connection, name).run
    finally:
        store.close()


def log_in(browser: Browser, scene: Scene, role: str) -> None:
    browser.driver.delete_all_cookies()
    browser.open(f"{scene.url}/login")
    browser.one("#user").send_keys(role)
    browser.one("#password").send_keys(PASSWORD + Keys.ENTER)
    browser.see("Log out")


def rounds_done(browser: Browser) -> int:
    return int(re.search(r"Rounds\s+(\d+) of", browser.text()).group(1))


def pages(scene: Scene) -> dict[str, str]:
    return {
        "runs": "/",
        "run": f"/run/{run_id(scene, 'fedsvd')}",
        "privacy": "/privacy",
        "sites": "/sites",
        "events": "/events",
    }


@pytest.mark.parametrize("name", ["runs", "run", "privacy", "sites", "events"])
def test_every_page_fits_1280_and_390_pixels_in_light_and_dark(browser, scene, name, tmp_path):
    path = pages(scene)[name]
    for width, dark in ((WIDE, False), (NARROW, True)):
        browser.open(scene.url + path, width=width, dark=dark)
        browser.until(lambda: browser.all("h1"), why="the page has a heading")
        shade = "dark" if dark else "light"
        browser.one(f"body.body--{shade}")
        browser.until(lambda: not browser.all(".nicegui-echart:empty"), why="charts are drawn")
        assert browser.overflow() <= 0
        assert unlabelled(browser) == []
        browser.picture(Path(PICTURES or tmp_path) / f"dashboard-{name}-{shade}.png")


def unlabelled(browser: Browser) -> list[str]:
    """Buttons, fields and pictures that a screen reader could not name."""
    return browser.driver.execute_script(
        """
        const named = (e) => e.textContent.trim() || e.getAttribute("aria-label") || e.labels?.length || e.title;
        const shown = (e) => e.offsetParent !== null && !e.closest("[aria-hidden=true]") && e.type !== "hidden";
        const controls = [...document.querySelectorAll("button, a, input, select, [role=img]")];
        const pictures = [...document.querySelectorAll("img:not([alt])")];
        return [...controls.filter((e) => shown(e) && !named(e)), ...pictures].map((e) => e.outerHTML.slice(0, 200));
        """
    )


def test_a_run_is_followed_without_a_reload_and_steered(browser, scene):
    log_in(browser, scene, "operator")
    with simulation(scene, "live", "rounds.count=2000"):
        browser.open(scene.url + "/")
        browser.see("live", patience_s=240)  # it has to load torch first
        browser.until(
            lambda: browser.driver.find_element(By.LINK_TEXT, "live").click() or True, why="the run is a link"
        )
        browser.until(lambda: rounds_done(browser) >= 1, why="a round is shown")
        browser.driver.execute_script("window.notReloaded = true")
        before = rounds_done(browser)
        browser.until(lambda: rounds_done(browser) >= before + 2, why="rounds come by themselves")

        press(browser, "Pause")
        browser.until(lambda: browser.one("h1 .badge").text == "paused", why="it is paused")
        paused_at = rounds_done(browser)
        press(browser, "Resume")
        browser.until(lambda: rounds_done(browser) > paused_at, why="rounds go on")
        press(browser, "Stop after this round")
        browser.until(lambda: browser.one("h1 .badge").text == "stopped", why="it is stopped")
        assert browser.driver.execute_script("return window.notReloaded")
    browser.open(f"{scene.url}/events")
    for verb in ("pause", "resume", "stop"):
        browser.see(f"verb {verb}")
    browser.see("operator")


def test_a_run_is_started_from_a_recipe_after_its_plan(browser, scene):
    log_in(browser, scene, "operator")
    browser.open(f"{scene.url}/start")
    browser.one("textarea").send_keys("train: {lrr: 1}")
    browser.button("Check and plan").click()
    browser.see("unknown setting train.lrr; did you mean train.lr?")
    assert not browser.button("Start").is_enabled()
    browser.one("textarea").send_keys(Keys.CONTROL + "a")
    recipe = tiny(scene.folder, "rounds.count=1", "privacy.epsilon=2").model_dump(mode="json")
    browser.one("textarea").send_keys(yaml.safe_dump(recipe, default_flow_style=True, width=10_000))
    name = browser.one('input[aria-label="Name of the run"]')
    name.send_keys(Keys.CONTROL + "a")
    name.send_keys("by-hand")
    browser.button("Check and plan").click()
    browser.see("at most 2.000 at δ = 1e-05", patience_s=240)
    browser.see("than dense)")
    press(browser, "Start")
    browser.until(
        lambda: browser.driver.find_element(By.LINK_TEXT, "by-hand").click() or True,
        why="the run is listed",
        patience_s=240,
    )
    browser.until(lambda: browser.one("h1 .badge").text == "finished", why="it has finished", patience_s=240)
    browser.button("Download adapter")
    browser.see("Sent up")


def follow(browser: Browser, name: str) -> bool:
    """Click on a link; False while it is not there."""
    browser.driver.find_element(By.LINK_TEXT, name).click()
    return True


def press(browser: Browser, label: str) -> None:
    """Press a button and confirm it."""
    browser.button(label).click()
    browser.until(lambda: browser.all(".q-dialog .dialog"), why="it asks once more")
    browser.until(
        lambda: next(one for one in browser.all(".q-dialog button") if one.text == label).click() or True,
        why=f"{label} is confirmed",
    )
    browser.until(lambda: not browser.all(".q-dialog"), why="the question is gone")


def test_the_privacy_page_says_what_the_ledgers_say(browser, scene):
    browser.open(f"{scene.url}/privacy")
    browser.see("Receipts")
    browser.until(lambda: len(ledger_rows(browser)) >= 2 * len(CLIENTS), why="every ledger has a row")
    for out in ("private", "seeded"):
        for site in CLIENTS:
            chain = read_ledger(LedgerFiles(scene.folder / "runs" / out / "sites" / site, "default"), public_key=None)
            charges = [entry.fields for entry in chain.entries if entry.kind == "charge"]
            row = next(row for row in ledger_rows(browser) if row["site"] == site and row["receipts"] == len(charges))
            events = [Event(rate=c["rate"], noise_multiplier=c["noise_multiplier"], steps=c["steps"]) for c in charges]
            assert row["spent"] == units.epsilon(epsilon(events, delta=float(row["delta"])))
            assert ("insecure" in row["ledger"]) == (out == "seeded")
            assert row["red"] == (out == "seeded")
    browser.button("Check every signature").click()
    browser.see("Every stored receipt is signed and unchanged.")


def ledger_rows(browser: Browser) -> list[dict]:
    """The table of ledgers, as it is shown."""
    return browser.driver.execute_script(
        """
        const rows = [...document.querySelectorAll('section[aria-label="Ledgers"] tbody tr')];
        const text = (row, label) => row.querySelector(`[data-label="${label}"]`).innerText;
        return rows.map((row) => ({
          site: text(row, "Site").split("\\n")[0],
          spent: text(row, "ε spent").trim(),
          delta: text(row, "δ"),
          ledger: text(row, "Ledger"),
          receipts: Number(text(row, "Ledger").match(/(\\d+) receipt/)[1]),
          red: row.classList.contains("bad"),
        }));
        """
    )


def test_runs_are_put_side_by_side(browser, scene):
    browser.open(f"{scene.url}/")
    browser.see("fedsvd")
    assert "Against dense" not in browser.text()
    browser.one('input[aria-label="Compare"]').click()
    browser.until(lambda: len(browser.all(".q-menu .q-item")) >= 4, why="runs can be chosen")
    for name in ("fedit · fedit", "fedsvd · fedsvd"):
        browser.until(lambda name=name: choose(browser, name), why=f"{name} is chosen")
        time.sleep(2)  # a second choice before the server has answered the first takes the first one's place
    browser.one("body").send_keys(Keys.ESCAPE)
    browser.see("Against dense")
    browser.until(lambda: len(browser.all('section[aria-label="Comparison"] tbody tr')) == 2, why="both are compared")


def choose(browser: Browser, name: str) -> bool:
    next(one for one in browser.all(".q-menu .q-item") if one.text.startswith(name)).click()
    return True


def test_what_is_new_moves_nothing_that_was_there(browser, scene):
    browser.open(f"{scene.url}/events")
    newest = browser.one("tbody tr").get_attribute("data-key")
    browser.driver.execute_script(
        """
        const row = document.querySelector("tbody tr");
        row.known = true;
        getSelection().selectAllChildren(row.querySelector("code"));
        """
    )
    selected = browser.driver.execute_script("return getSelection().toString()")
    assert selected
    store = open_existing(scene.store)
    with store.writing() as connection:
        append_event(connection, "test-looked", who="ada", at=time.time())
    store.close()
    browser.see("test-looked")
    rows = browser.driver.execute_script(
        "return [...document.querySelectorAll('tbody tr')].map((row) => [row.dataset.key, row.known === true])"
    )
    assert rows[:2] == [[str(int(newest) + 1), False], [newest, True]]
    assert browser.driver.execute_script("return getSelection().toString()") == selected


def test_a_viewer_sees_all_and_can_change_nothing(browser, scene):
    log_in(browser, scene, "viewer")
    browser.open(scene.url + pages(scene)["run"])
    browser.see("Clients by round")
    assert not [one for one in browser.all("button") if one.text in ("Pause", "Resume", "Stop now", "Exclude a site")]


def test_the_page_of_somebody_who_is_removed_leads_to_the_login(browser, scene):
    from server.dashboard.doors.access import Access, Role, access_path

    access = Access(access_path(str(scene.store)))
    access.add_user("guest", Role.VIEWER, PASSWORD)
    log_in(browser, scene, "guest")
    access.remove_user("guest")
    browser.until(lambda: "/login" in browser.driver.current_url, why="the login is shown")


def test_light_and_dark_are_a_button_and_the_first_tab_stop_skips_to_the_content(browser, scene):
    log_in(browser, scene, "viewer")
    browser.open(f"{scene.url}/privacy")
    browser.until(lambda: browser.all("body.body--light"), why="the page is light")
    browser.one("body").send_keys(Keys.TAB)
    assert browser.driver.switch_to.active_element.text == "Skip to the content"
    browser.button("Light or dark").click()
    browser.until(lambda: browser.all("body.body--dark"), why="the page is dark")
    browser.driver.execute_script("localStorage.clear()")


def test_times_are_local_and_utc_on_hover(browser, scene):
    browser.driver.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": "Asia/Kolkata"})
    browser.open(f"{scene.url}/events")
    shown = browser.one("tbody time")
    utc = re.search(r"(\d\d):(\d\d):\d\d UTC", shown.get_attribute("title"))
    minutes = (60 * int(utc.group(1)) + int(utc.group(2)) + 330) % 1440
    browser.until(lambda: f"{minutes // 60:02}:{minutes % 60:02}" in shown.text, why="the time is India's")
    browser.driver.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": ""})
