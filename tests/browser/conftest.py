"""A browser without a screen, and JupyterLab on copies of the notebooks; nothing reaches the checkout or the home."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = ["--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update"]
SETTINGS = {
    "apputils-extension/notification": '{"fetchNews": "false", "checkForUpdates": false}',
    "notebook-extension/tracker": '{"windowingMode": "none"}',  # every cell is in the page, wherever it is scrolled to
}


@pytest.fixture(scope="session")
def browser() -> Iterator:
    """Chromium: one that is installed, or the one that Playwright fetched; a test without either says so."""
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="Playwright is not installed; `make test-browser` does it"
    )
    with sync_api.sync_playwright() as playwright:
        own = playwright.chromium.executable_path
        path = next(filter(None, map(shutil.which, NAMES)), own if Path(own).exists() else None)
        if path is None:
            pytest.skip(f"there is no browser: none of {', '.join(NAMES)} is on the path and Playwright fetched none")
        as_root = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium has no sandbox for root
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS + as_root)
        yield browser
        browser.close()


@pytest.fixture
def page(browser) -> Iterator:
    """A page that reaches this machine only."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    context.route(
        lambda url: not url.startswith(("http://127.0.0.1", "ws://127.0.0.1", "file:", "data:", "blob:")),
        lambda route: route.abort(),
    )
    context.set_default_timeout(60_000)
    yield context.new_page()
    context.close()


@pytest.fixture
def lab(browser, tmp_path) -> Iterator[str]:
    """The address of a JupyterLab that shows copies of the notebooks, as `make lab` does, with settings of its own."""
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks", ignore=shutil.ignore_patterns(".*"))
    for name, text in SETTINGS.items():
        file = tmp_path / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    places = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
    }
    environment = os.environ | {name: str(tmp_path / place) for name, place in places.items()} | {"REIDKIT_LIVE": "1"}
    environment.pop("MPLBACKEND", None)  # it would keep the notebooks from showing a picture
    options = ["--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", "--ServerApp.port=0"]
    options += ["--IdentityProvider.token=", "--LabApp.news_url=None", "--LabApp.extension_manager=readonly"]
    log = tmp_path / "lab.log"
    with log.open("w") as output:
        command = [sys.executable, "-m", "jupyterlab", *options, "--notebook-dir=notebooks"]
        server = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=output, stderr=output)
        try:
            yield _address(server, tmp_path / "runtime", log)
        finally:
            server.terminate()  # it ends its kernels
            try:
                server.wait(timeout=30)
            finally:
                server.kill()


def _address(server: subprocess.Popen, runtime: Path, log: Path) -> str:
    """Wait until the server has written down where it listens."""
    for _ in range(1200):
        assert server.poll() is None, f"JupyterLab ended:\n{log.read_text()}"
        for record in runtime.glob("jpserver-*.json"):
            return json.loads(record.read_text())["url"]
        time.sleep(0.1)
    raise AssertionError(f"JupyterLab does not start:\n{log.read_text()}")
