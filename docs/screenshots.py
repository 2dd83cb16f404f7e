"""Screenshots of reports at two widths and in both themes, into screenshots/, to be looked at before a release.

Run `make screenshots`, or `python docs/screenshots.py REPORT.html…` for reports that exist.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "screenshots"
SOURCES = {"paper": "paper", "sweep": str(ROOT / "results" / "parallel-law")}
WIDTHS = (1280, 390)


def main(files: list[Path]) -> None:
    """Take a screenshot of each report, made from `SOURCES` if none is given."""
    from playwright.sync_api import sync_playwright

    OUT.mkdir(exist_ok=True)
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for file in files or _reports():
            for width in WIDTHS:
                for theme in ("light", "dark"):
                    path = OUT / f"{file.stem}-{width}-{theme}.png"
                    _shoot(browser, file, path, width, theme)
                    print(path.relative_to(ROOT))
        browser.close()


def _reports() -> list[Path]:
    import scalelab as sl

    made = [sl.report(source, out=OUT / f"{name}.html", progress=True).path for name, source in SOURCES.items()]
    for path in made:
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1e6:.2f} MB")
    return made


def _shoot(browser: Any, file: Path, path: Path, width: int, theme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
    page = context.new_page()
    page.on("console", lambda message: print(f"{file.name}: {message.type}: {message.text}"))
    page.on("pageerror", lambda error: print(f"{file.name}: {error}"))
    page.goto(file.resolve().as_uri())
    page.wait_for_timeout(300)  # charts settle
    wide = page.evaluate("document.documentElement.scrollWidth")
    if wide > width:
        print(f"{file.name}: {wide} pixels wide at {width}")
    page.screenshot(path=path, full_page=True)
    context.close()


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
