"""Pictures of each section of a report: python docs/screenshots/make.py results/report/index.html [out]

Needs playwright and a Chromium on the PATH.
"""

import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

HEIGHT = 1000


def prepare(page: Page, task: str) -> None:
    """What a reader would choose: two runs with masks if there are two, and what these leave of the log-ratio."""
    tokens = page.locator(f"#{task}-tokens")
    masked = tokens.locator("[data-side=left] option[value^=sparsepo]")
    if masked.count() > 1:
        tokens.locator("[data-control=value]").select_option("weighted_log_ratio")
        tokens.locator("[data-side=left] [data-control=run]").select_option(masked.first.get_attribute("value"))


def shoot(page: Page, part: str, out: Path) -> None:
    """A section as it is, not taller than `HEIGHT`."""
    section = page.locator(f"article:not([hidden]) section[id$='-{part}']")
    section.scroll_into_view_if_needed()
    page.wait_for_timeout(1500)  # figures draw when they come into view
    page.evaluate("document.querySelectorAll('nav').forEach(nav => { nav.style.position = 'static'; })")
    section.screenshot(path=out)
    with Image.open(out) as image:
        image.crop((0, 0, image.width, min(image.height, HEIGHT))).convert("RGB").save(out, optimize=True)


def main(report: Path, out: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as made:
        browser = made.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name, width, colours in (("", 1280, "light"), ("-dark", 1280, "dark"), ("-narrow", 390, "light")):
            page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=colours)
            page.goto(report.resolve().as_uri())
            prepare(page, page.locator("article").first.get_attribute("data-task"))
            parts = ("summary", "frontier", "dynamics", "tokens", "samples", "runs") if not name else ("tokens",)
            for part in parts:
                if page.locator(f"section[id$='-{part}']").count():
                    shoot(page, part, out / f"{part}{name}.png")
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else Path(__file__).parent))
