"""The page in a real browser: what it shows, and that no name of a file or a class becomes anything but text."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("selenium", reason="pip install selenium")
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from tests.serving.conftest import Served
from tests.support.browser import browser
from tests.support.bundles import copied, sealed_again
from transfer import load_bundle
from transfer.calibration.guarantees import Guarantees
from transfer.serving.page import read_page

pytestmark = pytest.mark.slow
Start = Callable[..., Served]
HOSTILE = "<img src=x onerror=\"document.title='owned'\">"


def drop(window: Any, *paths: Path) -> list[Any]:
    """Choose files as a person does, and return the cards once all are answered."""
    window.find_element(By.ID, "choose").send_keys("\n".join(map(str, paths)))
    cards = WebDriverWait(window, 60).until(
        lambda _: (
            window.find_elements(By.CSS_SELECTOR, ".card")
            if not window.find_elements(By.CSS_SELECTOR, ".waiting")
            else []
        )
    )
    return list(cards)


def text(card: Any, selector: str) -> str:
    return card.find_element(By.CSS_SELECTOR, selector).text


def open_page(window: Any, found: Served) -> None:
    window.get(found.url)
    WebDriverWait(window, 60).until(lambda _: "golden test" in window.find_element(By.ID, "facts").text)


def test_the_page_asks_for_nothing_from_elsewhere() -> None:
    page = read_page()
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:)|https?://(?!www\.w3\.org/2000/svg)|@import|url\(""", page)
    for unsafe in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", " style=", " onclick="):
        assert unsafe not in page, unsafe


def test_photos_are_shown_with_their_classes_and_errors_in_words(served: Start, bundle: Path, tmp_path: Path) -> None:
    photos = sorted((bundle / "golden").glob("[0-2].[!p]*")) or sorted((bundle / "golden").glob("[0-2].png"))
    bad = tmp_path / "holiday.jpg"
    bad.write_bytes(b"no photo")
    large = tmp_path / "large.png"
    large.write_bytes(bytes(1_000_001))
    found = served(bundle, "--port", "0", "--format", "onnx", "--max_bytes", "1MB")
    with browser() as window:
        open_page(window, found)
        facts = "lite0@d=0.25,w=0.25, 10 classes · golden test passed on 8 inputs"
        assert window.find_element(By.ID, "facts").text == facts
        assert window.title == window.find_element(By.ID, "title").text == "digits_tiny"
        cards = drop(window, *photos, bad, large)
        assert [text(card, ".name") for card in cards] == [path.name for path in (*photos, bad, large)]
        for card in cards[: len(photos)]:
            shares = [float(found.text.strip("< %")) for found in card.find_elements(By.CSS_SELECTOR, ".share")]
            assert len(shares) == 5 and shares == sorted(shares, reverse=True)
            assert text(card, ".verdict") == text(card, ".given .label")
            assert card.find_element(By.TAG_NAME, "img").get_property("naturalWidth") > 0
            widths = [found.size["width"] for found in card.find_elements(By.CSS_SELECTOR, ".fill")]
            assert widths == sorted(widths, reverse=True) and widths[0] > 0
        assert "not an image of a format that is read" in text(cards[-2], ".note")
        assert text(cards[-1], ".note").lower().startswith("1 mb: at most 1 mb")
        assert window.find_element(By.ID, "summary").text == f"{len(cards)} photos, 2 could not be read"
        window.find_element(By.ID, "clear").click()
        assert not window.find_elements(By.CSS_SELECTOR, ".card")
        found.process.kill()
        found.process.wait(60)
        (card,) = drop(window, photos[0])
        assert "No answer" in text(card, ".note")


def test_an_unknown_photo_is_shown_as_one_with_its_nearest_classes(served: Start, bundle: Path, tmp_path: Path) -> None:
    opened = load_bundle(bundle)
    photos = sorted(path for path in (bundle / "golden").glob("[0-7].*") if ".pixels" not in path.name)
    expected = opened.predict(photos, guarantees=Guarantees(coverage=0.5))
    assert {prediction.unknown for prediction in expected} == {True, False}
    found = served(bundle, "--port", "0", "--format", "onnx", "--coverage", "0.5")
    assert found.rule.startswith("unknown is what ranks below ")
    with browser() as window:
        open_page(window, found)
        for card, prediction in zip(drop(window, *photos), expected, strict=True):
            assert text(card, ".verdict") == ("unknown" if prediction.unknown else prediction.class_name)
            assert text(card, ".label") == prediction.class_name
            assert len(card.find_elements(By.CSS_SELECTOR, ".given")) == (0 if prediction.unknown else 1)
            assert len(card.find_elements(By.CSS_SELECTOR, ".note")) == (1 if prediction.unknown else 0)


def test_a_dropped_folder_is_searched_and_sets_are_shown(served: Start, bundle: Path, tmp_path: Path) -> None:
    inner = tmp_path / "photos" / "summer"
    inner.mkdir(parents=True)
    encoded = next((bundle / "golden").glob("0.*")).read_bytes()
    for file in (inner.parent / "a.png", inner / "b.png", inner / ".hidden"):
        file.write_bytes(encoded)
    (expected,) = load_bundle(bundle).predict([encoded], guarantees=Guarantees(sets=0.9))
    found = served(bundle, "--port", "0", "--format", "onnx", "--sets", "0.9")
    assert "sets of 0.9: of " in found.rule
    with browser() as window:
        open_page(window, found)
        data = {"items": [], "files": [str(inner.parent)], "dragOperationsMask": 1}
        for step in ("dragEnter", "dragOver", "drop"):
            window.execute_cdp_cmd("Input.dispatchDragEvent", {"type": step, "x": 400, "y": 200, "data": data})
        WebDriverWait(window, 60).until(lambda _: window.find_element(By.ID, "summary").text == "2 photos")
        cards = window.find_elements(By.CSS_SELECTOR, ".card")
        assert sorted(text(card, ".name") for card in cards) == ["a.png", "b.png"]
        assert expected.class_set is not None
        for card in cards:
            assert text(card, ".set").startswith(f"90.0% set: {', '.join(expected.class_set[:10])}")


def test_a_busy_server_is_asked_again(served: Start, bundle: Path) -> None:
    found = served(bundle, "--port", "0", "--format", "onnx")
    with browser() as window:
        open_page(window, found)
        window.execute_script("""
            const real = window.fetch;
            let refusals = 1;
            const refused = () => Promise.resolve(new Response("", { status: 503 }));
            window.fetch = (...words) => (refusals-- > 0 ? refused() : real(...words));
        """)
        (card,) = drop(window, next((bundle / "golden").glob("0.*")))
        assert card.find_elements(By.CSS_SELECTOR, ".given")


def test_names_are_text_and_no_code(served: Start, bundle: Path, tmp_path: Path) -> None:
    mine = copied(bundle, tmp_path / "mine")
    names = tuple(f"{index}{HOSTILE}" for index in range(10))
    sealed_again(mine, lambda record: replace(record, class_names=names, name=f"model{HOSTILE}"))
    photo = tmp_path / f"{HOSTILE.replace('/', '')}.png"
    photo.write_bytes(next((bundle / "golden").glob("0.*")).read_bytes())
    bad = tmp_path / f"bad{HOSTILE}.jpg"
    bad.write_bytes(b"<script>document.title='owned'</script>")
    found = served(mine, "--port", "0", "--format", "onnx", "--coverage", "0.99")
    with browser() as window:
        open_page(window, found)
        cards = drop(window, photo, bad)
        assert [text(card, ".name") for card in cards] == [photo.name, bad.name]
        assert text(cards[0], ".verdict") in names and window.title == f"model{HOSTILE}"
        images = window.execute_script("return [...document.images].map(image => image.src.split(':')[0])")
        assert set(images) <= {"blob"}
        assert not window.find_elements(By.CSS_SELECTOR, "[onerror]")
        blocked = """
            const made = document.createElement("script");
            try { made.textContent = "document.title = 'owned'"; document.body.append(made); } catch {}
            try { document.body.innerHTML = "<p>owned"; } catch {}
            try { document.body.setAttribute("onclick", "document.title='owned'"); document.body.click(); } catch {}
            return [document.title, document.body.textContent.includes("owned'\\">") ? "text" : "gone"]"""
        assert window.execute_script(blocked) == [f"model{HOSTILE}", "text"]


def test_the_keyboard_suffices_and_a_phone_needs_no_sideways_scrolling(served: Start, bundle: Path) -> None:
    found = served(bundle, "--port", "0", "--format", "onnx")
    with browser() as window:
        window.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride", {"width": 320, "height": 640, "deviceScaleFactor": 2, "mobile": True}
        )
        open_page(window, found)
        drop(window, next((bundle / "golden").glob("0.*")))
        assert window.execute_script("return document.documentElement.scrollWidth") <= 320
        window.execute_script("document.activeElement.blur()")
        reached = []
        for _ in range(3):
            ActionChains(window).send_keys(Keys.TAB).perform()
            focused = window.switch_to.active_element
            reached.append(focused.get_attribute("id") or focused.tag_name)
        assert reached == ["choose", "clear", "summary"]
        window.find_element(By.ID, "clear").send_keys(Keys.ENTER)
        assert window.switch_to.active_element.get_attribute("id") == "choose"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_have_enough_contrast(served: Start, bundle: Path, tmp_path: Path, scheme: str) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no photo")
    found = served(bundle, "--port", "0", "--format", "onnx")
    with browser() as window:
        feature = [{"name": "prefers-color-scheme", "value": scheme}]
        window.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": feature})
        open_page(window, found)
        drop(window, next((bundle / "golden").glob("0.*")), bad)
        for selector in ("h1", ".facts", ".drop strong", ".drop u", "#limits", "#clear", ".name", ".share", ".note"):
            front, back = window.execute_script(_COLOURS, selector)
            assert contrast(front, back) >= 4.5, (selector, front, back)


# The colour of the words that a selector finds, and the first that is not transparent behind them.
_COLOURS = """
let element = document.querySelector(arguments[0]), front = getComputedStyle(element).color, back;
do { back = getComputedStyle(element).backgroundColor; element = element.parentElement; }
while (back.endsWith(", 0)"));
return [front, back];"""


def contrast(front: str, back: str) -> float:
    """The ratio of WCAG 2.2."""

    def luminance(colour: str) -> float:
        parts = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
        linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(front), luminance(back)), reverse=True)
    return (light + 0.05) / (dark + 0.05)
