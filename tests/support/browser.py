"""A page as headless Chromium sees it."""

import os
import re
import shutil
import subprocess

import pytest

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)

REQUIRED = "IXI_BROWSER"
"""Where this environment variable is set, tests that need a browser fail without one."""

browser = pytest.mark.skipif(
    CHROMIUM is None and not os.environ.get(REQUIRED),
    reason=f"pages as a browser shows them (no chromium on the PATH, and {REQUIRED} is not set)",
)


def chromium():
    """The browser's program; a test without one fails."""
    assert CHROMIUM, "no chromium on the PATH: install Debian's package chromium"
    return CHROMIUM


# Counts what a person would see as broken, and leaves the counts where --dump-dom shows them.
PROBE = """<script>
addEventListener("load", () => {
  const images = [...document.images], root = document.documentElement;
  const broken = images.filter(image => !image.complete || !image.naturalWidth).length;
  root.setAttribute("data-seen", [images.length, broken, root.scrollWidth > innerWidth].join(" "));
});
</script>"""


def see(html, path, *, width):
    """(images, broken ones, whether the page scrolls sideways), and what the console says."""
    path.write_text(html.replace("</body>", PROBE + "</body>"))
    done = subprocess.run(
        [
            *(chromium(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
            *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
            *("--disable-sync", f"--user-data-dir={path.parent / 'profile'}"),
            *("--enable-logging=stderr", "--dump-dom"),
            *(f"--window-size={width},1000", path.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=240,
    )
    seen = re.search(r'data-seen="(\d+) (\d+) (\w+)"', done.stdout)
    assert seen, done.stderr
    images, broken, sideways = seen.groups()
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return (int(images), int(broken), sideways == "true"), console
