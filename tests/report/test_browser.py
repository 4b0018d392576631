"""The page in a real browser: no console message, no request, nothing wider than a phone."""

import http.server
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
)
POLICY = (
    '<meta http-equiv="Content-Security-Policy" '
    "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">"
)
# A browser window has a least width; a frame has none.
FRAME = """<!doctype html><title>unmeasured</title><iframe src="/report.html" style="width:WIDTHpx;border:0"
onload="document.title = this.contentDocument.documentElement.scrollWidth"></iframe>"""


class Site:
    """Pages served on this machine, and the paths that were asked for."""

    def __init__(self) -> None:
        self.pages: dict[str, bytes] = {}
        self.asked: list[str] = []
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.asked.append(self.path)
                self.send_response(200 if self.path in site.pages else 404)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.end_headers()
                self.wfile.write(site.pages.get(self.path, b""))

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)


@pytest.fixture
def site() -> Iterator[Site]:
    """A site that runs for one test."""
    site = Site()
    thread = threading.Thread(target=site.server.serve_forever)
    thread.start()
    yield site
    site.server.shutdown()
    thread.join()
    site.server.server_close()


def browse(site: Site, path: str, profile: Path) -> tuple[str, list[str]]:
    """The page's elements after it was laid out, and what the browser's console said."""
    assert CHROMIUM is not None
    address = f"http://127.0.0.1:{site.server.server_port}{path}"
    command = [CHROMIUM, *OPTIONS, f"--user-data-dir={profile}", "--window-size=1400,900", "--dump-dom", address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_no_console_message_and_no_request(site: Site, full: str, tmp_path: Path) -> None:
    """The browser says nothing about the page, and asks for nothing but the full."""
    site.pages["/report.html"] = full.encode()
    shown, console = browse(site, "/report.html", tmp_path)
    assert "What the numbers rest on" in shown
    assert console == []
    assert site.asked == ["/report.html"]


def test_a_page_with_faults_would_be_noticed(site: Site, full: str, tmp_path: Path) -> None:
    """The same check sees a script that the policy refuses, and sees an image that is fetched."""
    fault = "</main><script>nothing()</script>"
    site.pages["/report.html"] = full.replace("</main>", fault).encode()
    assert browse(site, "/report.html", tmp_path / "a")[1] != []
    assert POLICY in full
    site.pages["/report.html"] = full.replace(POLICY, "").replace("</main>", '</main><img src="/x.png">').encode()
    browse(site, "/report.html", tmp_path / "b")
    assert "/x.png" in site.asked


@pytest.mark.parametrize("width", [380, 1280])
def test_the_page_is_never_wider_than_its_window(site: Site, full: str, tmp_path: Path, width: int) -> None:
    """Neither a phone nor a desktop scrolls the page sideways: wide tables scroll inside their own box."""
    site.pages["/report.html"] = full.encode()
    site.pages["/frame.html"] = FRAME.replace("WIDTH", str(width)).encode()
    assert f"<title>{width}</title>" in browse(site, "/frame.html", tmp_path)[0]
    unboxed = full.replace("overflow-x: auto", "overflow-x: visible")
    site.pages["/report.html"] = unboxed.replace("max-width: 100%", "min-width: 1300px").encode()
    assert f"<title>{width}</title>" not in browse(site, "/frame.html", tmp_path / "wide")[0]
