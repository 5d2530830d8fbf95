"""One browser for all tests of a process: starting it takes seconds."""

import pytest
from galleries import Browser, need_browser


@pytest.fixture(scope="session")
def shared_browser():
    need_browser()
    browser = Browser()
    yield browser
    browser.driver.quit()


@pytest.fixture
def browser(shared_browser):
    """A browser with the window of a screen and an empty console."""
    shared_browser.driver.get("about:blank")
    shared_browser.resize(1200, 900)
    shared_browser.log()
    return shared_browser
