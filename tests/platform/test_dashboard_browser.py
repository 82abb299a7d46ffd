"""The dashboard in a real Chromium: what only a browser can tell."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait
from tests.platform.conftest import Organisation, Recorder
from tests.platform.dashboard_data import HOSTILE, messages

from egisai.identity import agent_id


class Browser:
    """A Chromium, logged in as the server's operator, looking at one organisation."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver
        self.org: Organisation

    def open(self, path: str) -> None:
        join = "&" if "?" in path else "?"
        self.driver.get(f"{self.org.server.url}{path}{join}organisation={self.org.name}")

    def text(self, selector: str = "main") -> str:
        return self.driver.find_element(By.CSS_SELECTOR, selector).text

    def all(self, selector: str) -> list[str]:
        """What is in each of them, read at one moment: between two questions the page may patch one away."""
        script = "return Array.from(document.querySelectorAll(arguments[0]), (element) => element.innerText.trim())"
        return self.driver.execute_script(script, selector)

    def run(self, script: str) -> object:
        return self.driver.execute_script(script)

    def until(self, holds: Callable[[], object], what: str) -> None:
        WebDriverWait(self.driver, 15, poll_frequency=0.1).until(lambda _driver: holds(), what)

    def until_live(self) -> None:
        self.until(lambda: self.text("#live") == "live", "the page never went live")

    def complaints(self) -> list[str]:
        """What the console has said since the last time."""
        return [entry["message"] for entry in self.driver.get_log("browser")]


@pytest.fixture
def browser(driver: webdriver.Chrome, org: Organisation) -> Browser:
    """Logs in through a one-time link, as an operator does."""
    with org.server.auth() as auth:
        token = auth.create_login()
    driver.get(f"{org.server.url}/login?token={token}")
    assert driver.current_url == f"{org.server.url}/"
    browser = Browser(driver)
    browser.org = org
    browser.complaints()
    return browser


def test_the_dashboard_shows_agents_and_filters(browser: Browser, recorder: Recorder) -> None:
    """From the login link to agents, and by clicks to one user's calls, whose filter is in the URL."""
    org = browser.org
    for agent, user in (("billing", "ada"), ("triage", "ada"), ("triage", "bob")):
        recorder.call(agent=agent, organisation=org.name, user_id=user)
    org.store(recorder.spans())
    browser.open("/agents")
    assert sorted(browser.all("td.first")) == ["billing", "triage"]
    browser.open("/calls")
    assert len(browser.all("tbody tr")) == 3
    browser.driver.find_element(By.LINK_TEXT, "ada").click()
    browser.until(lambda: "user_id=ada" in browser.driver.current_url, "the link did not filter")
    assert browser.all("td[data-label=User]") == ["ada", "ada"]
    assert browser.all(".chips li")[0].split()[:2] == ["user", "ada"]
    field = browser.driver.find_element(By.NAME, "agent")
    field.send_keys("triage", Keys.ENTER)
    browser.until(lambda: "agent=triage" in browser.driver.current_url, "the form did not filter")
    assert "session_id=" not in browser.driver.current_url
    assert browser.all("td[data-label=Agent]") == ["triage"]
    assert browser.complaints() == []


def test_a_workflow_has_a_lane_per_agent(browser: Browser, recorder: Recorder) -> None:
    """Each lane is wide enough to see its calls in, and each bar leads to its call."""
    org = browser.org
    for agent in ("planner", "writer", "writer"):
        recorder.call(agent=agent, organisation=org.name, workflow_id="w-1")
    org.store(recorder.spans())
    browser.open("/workflows/w-1")
    assert browser.all(".lane .name") == ["planner", "writer"]
    bars = browser.driver.find_elements(By.CSS_SELECTOR, ".lane .bout")
    assert len(bars) == 3
    assert all(bar.rect["width"] > 100 for bar in bars)
    assert bars[1].rect["y"] != bars[2].rect["y"]  # they overlap in time
    bars[0].click()
    browser.until(lambda: "/calls/" in browser.driver.current_url, "the bar leads nowhere")
    assert "planner" in browser.text()
    assert browser.complaints() == []


def test_a_page_lives(browser: Browser, recorder: Recorder) -> None:
    """Calls appear without a reload, also the first ones; what was typed and where one was stay as they are."""
    org = browser.org
    browser.open("/")
    browser.until_live()
    assert "Nothing has arrived yet" in browser.text()
    browser.run("window.same = 1")
    recorder.call(agent="accounts", organisation=org.name)
    org.store(recorder.spans())
    browser.until(lambda: "accounts" in browser.text(), "the first call did not appear")
    assert browser.run("return window.same") == 1
    bar = browser.driver.find_element(By.CSS_SELECTOR, ".plot .bar").rect
    plot = browser.driver.find_element(By.CSS_SELECTOR, ".plot svg + svg").rect
    assert bar["x"] + bar["width"] <= plot["x"] + plot["width"] + 1  # the newest bar is not cut off

    browser.open(f"/agents/{agent_id(org.name, 'name', 'accounts')}")
    browser.until_live()
    name = browser.driver.find_element(By.ID, "name")
    name.clear()
    name.send_keys("Half a na")
    for _ in range(3):
        recorder.call(agent="accounts", organisation=org.name)
        org.store(recorder.spans())
    browser.until(lambda: len(browser.all("tbody tr")) == 4, "the calls did not appear while typing")
    assert name.get_property("value") == "Half a na"
    assert browser.driver.switch_to.active_element == name
    assert browser.complaints() == []


def test_a_page_waits_while_somebody_marks_text(browser: Browser, recorder: Recorder) -> None:
    """Marked text is not swapped away; when the mark is gone, the page catches up. So it does after a pause."""
    org = browser.org
    recorder.call(agent="billing", organisation=org.name)
    org.store(recorder.spans())
    browser.open("/calls")
    browser.until_live()
    browser.run("getSelection().selectAllChildren(document.querySelector('td.first a'))")
    recorder.call(agent="triage", organisation=org.name)
    org.store(recorder.spans())
    browser.until(lambda: browser.text("#live") == "paused", "the page does not say that it waits")
    assert len(browser.all("tbody tr")) == 1
    browser.run("getSelection().removeAllRanges()")
    browser.until(lambda: len(browser.all("tbody tr")) == 2, "the page did not catch up")

    browser.driver.find_element(By.ID, "live").click()
    assert browser.text("#live") == "paused"
    recorder.call(agent="triage", organisation=org.name)
    org.store(recorder.spans())
    browser.driver.find_element(By.ID, "live").click()
    browser.until(lambda: len(browser.all("tbody tr")) == 3, "the page did not catch up after the pause")
    assert browser.complaints() == []


def test_pages_work_without_scripts(browser: Browser, recorder: Recorder) -> None:
    """With JavaScript off, lists, filters and forms are all there."""
    org = browser.org
    recorder.call(agent="billing", organisation=org.name, user_id="ada")
    org.store(recorder.spans())
    browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.open(f"/agents/{agent_id(org.name, 'name', 'billing')}")
        name = browser.driver.find_element(By.ID, "name")
        name.clear()
        name.send_keys("Accounts", Keys.ENTER)
        browser.until(lambda: "done=rename" in browser.driver.current_url, "the form was not sent")
        assert "Accounts" in browser.text("h1")
        browser.driver.find_element(By.LINK_TEXT, "Calls").click()
        browser.until(lambda: "/calls" in browser.driver.current_url, "the link leads nowhere")
        assert browser.all("td[data-label=Agent]") == ["Accounts"]
        assert not browser.driver.find_element(By.ID, "live").is_displayed()
    finally:
        browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_the_theme_changes_without_a_reload_and_is_kept(browser: Browser) -> None:
    browser.open("/")
    before = browser.run("return getComputedStyle(document.body).backgroundColor")
    browser.driver.find_element(By.CSS_SELECTOR, "[data-theme-form] button").click()
    assert browser.run("return getComputedStyle(document.body).backgroundColor") != before
    browser.open("/calls")
    assert browser.run("return getComputedStyle(document.body).backgroundColor") != before
    browser.driver.delete_cookie("egis_theme")


def test_narrow_pages_do_not_scroll_sideways(browser: Browser, recorder: Recorder) -> None:
    """On a telephone every page is as wide as the screen, whatever the names are."""
    org = browser.org
    for text in HOSTILE:
        recorder.call(agent=text, organisation=org.name, user_id=text, session_id=text, workflow_id="w", model=text)
    org.store(recorder.spans())
    metrics = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        for path in ("/", "/agents", "/calls", "/users", "/sessions", "/workflows", "/workflows/w"):
            browser.open(path)
            assert browser.run("return document.documentElement.scrollWidth") == 390, path
    finally:
        browser.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_plat_hostile_in_the_browser(browser: Browser, recorder: Recorder) -> None:
    """Nothing a span carries runs, becomes an element or speaks to the console, on any page, live patches included."""
    org = browser.org
    for text in HOSTILE:
        recorder.call(
            agent=text,
            organisation=org.name,
            user_id=text,
            user_role=text,
            session_id=text,
            workflow_id=text,
            model=text,
            attributes=messages(text),
        )
    org.store(recorder.spans())
    browser.open("/calls")
    calls = [a.get_attribute("href") or "" for a in browser.driver.find_elements(By.CSS_SELECTOR, "td.first a")]
    browser.open("/agents")
    agents = [a.get_attribute("href") or "" for a in browser.driver.find_elements(By.CSS_SELECTOR, "td.first a")]
    browser.open("/workflows")
    workflows = [a.get_attribute("href") or "" for a in browser.driver.find_elements(By.CSS_SELECTOR, "td.first a")]
    assert (len(calls), len(agents), len(workflows)) == (len(HOSTILE),) * 3
    lists = [f"{org.server.url}/{path}?organisation={org.name}" for path in ("", "users", "sessions")]
    for address in (*calls, *agents, *workflows, *lists):
        browser.driver.get(address)
        assert browser.run("return document.title").endswith("· Egis"), address  # type: ignore[union-attr]
        _assert_harmless(browser)
    recorder.call(agent=HOSTILE[1], organisation=org.name, user_id=HOSTILE[0], workflow_id="arrives-live")
    org.store(recorder.spans())
    browser.open("/calls")
    browser.until_live()
    recorder.call(agent=HOSTILE[1], organisation=org.name, user_id=HOSTILE[0], attributes=messages(HOSTILE[1]))
    org.store(recorder.spans())
    browser.until(lambda: len(browser.all("tbody tr")) == len(HOSTILE) + 2, "the call did not appear")
    _assert_harmless(browser)


def _assert_harmless(browser: Browser) -> None:
    assert browser.run("return typeof window.broken") == "undefined", browser.driver.current_url
    foreign = (
        "return document.querySelectorAll('main img, main script, main svg[onload], [onmouseover], iframe').length"
    )
    assert browser.run(foreign) == 0, browser.driver.current_url
    assert browser.complaints() == [], browser.driver.current_url
