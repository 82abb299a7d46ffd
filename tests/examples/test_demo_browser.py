"""What a newcomer sees: the demo's link, opened in a real browser, shows the demo's agents; Ctrl-C ends it all."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.by import By
from tests.examples.test_demo import ENVIRONMENT, examples

from expected import EXAMPLES

__all__ = ["examples"]  # a fixture

SHOWN = ("sub_agents", "by_prompt", "workflow")


def test_the_dashboard_shows_the_demos_agents(driver: webdriver.Chrome, examples: Path) -> None:
    """The printed link logs in; every agent of the demo is a row, and the workflow shows its calls under its agents."""
    command = [sys.executable, str(examples / "demo.py"), *(f"--only={name}" for name in SHOWN)]
    demo = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert demo.stdout is not None
        said = ""
        for line in demo.stdout:
            said += line
            if "Ctrl-C" in line:
                break
        link = re.search(r"http://\S+/login\?token=\S+", said)
        assert link, said
        driver.get(link[0])
        base_url = link[0].partition("/login")[0]
        driver.get(f"{base_url}/agents")
        expected = {row.agent for example in EXAMPLES if example.name in SHOWN for row in example.rows}
        assert {cell.text for cell in driver.find_elements(By.CSS_SELECTOR, "td.first")} == expected
        driver.get(f"{base_url}/workflows")
        driver.find_element(By.CSS_SELECTOR, "td.first a").click()
        text = driver.find_element(By.TAG_NAME, "main").text
        for agent in ("Planner", "Researcher", "Writer", "Reviewer"):
            assert agent in text
        demo.send_signal(signal.SIGINT)
        rest, _ = demo.communicate(timeout=30)
        assert "Traceback" not in said + rest
        assert demo.returncode == 0
    finally:
        demo.kill()
        demo.communicate()
