"""The page in headless Chromium, by clicking, dropping and typing."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset

from monai_rd.inference import Predictor, TrainedBundle
from tests.dicom_files import make_series
from tests.serve.serving import Browser, files_in, serving, zipped
from tests.trained import trained_bundle

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.slow

SCRIPT = "<img src=x onerror=document.title='hacked'>"
CLASSES = [f"clear{SCRIPT}", f"<script>document.title='hacked'</script>{'long ' * 20}", "Überblähung"]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="clicking needs pip install playwright")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("clicking needs Chromium, which is not installed")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    root = tmp_path_factory.mktemp("server")
    bundle = trained_bundle(root, limits=(0.0, 0.0, 0.0), class_names=CLASSES)
    (root / "report.html").write_text("<style>p { color: rgb(1, 2, 3) }</style><p>how good it is</p>")
    with serving(Predictor(TrainedBundle(bundle, device="cpu")), root / "files", sent=10**6, files=100) as one:
        yield one


@pytest.fixture
def page(chromium: Any, server: Browser) -> Iterator[Page]:
    """The first page; nothing is fetched from elsewhere, and no error is in the console at the end."""
    page = chromium.new_page(viewport={"width": 1280, "height": 900})
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.on("filechooser", lambda _: None)  # from now on no real window is opened, whenever a test asks for one
    page.goto(f"http://127.0.0.1:{server.port}/")
    yield page
    assert "hacked" not in page.title()
    page.close()
    assert [text for text in said if "status of 4" not in text] == []  # the console repeats what was refused
    assert [one for one in asked if not one.startswith((f"http://127.0.0.1:{server.port}/", "data:"))] == []


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def change(_: int, ds: Dataset) -> None:
        ds.SeriesDescription = f"thorax {SCRIPT}"

    folder = tmp_path_factory.mktemp("studies") / "ward <b>7</b>"
    with disable_value_validation():
        make_series(folder / "1", slices=9, shape=(40, 44), change=change)
    return folder


def drop(page: Page, *files: Path) -> None:
    """Drag files or folders over the page and let them fall, as a person does with the mouse."""
    box = page.locator("#drop").bounding_box()
    assert box is not None
    place = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
    given = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
    events = page.context.new_cdp_session(page)
    for kind in ("dragEnter", "dragOver", "drop"):
        events.send("Input.dispatchDragEvent", {"type": kind, **place, "data": given})


def answered(page: Page) -> None:
    page.wait_for_url("**/jobs/*", timeout=180_000)
    page.wait_for_selector(".study", timeout=180_000)
    page.wait_for_selector("[data-later]", state="detached", timeout=180_000)


def test_from_a_dropped_folder_to_every_slice(page: Page, study: Path) -> None:
    drop(page, study)
    answered(page)
    assert page.locator("h1").inner_text() == "1 study answered"
    assert f"CT, 9 files, thorax {SCRIPT}" in page.locator(".study").inner_text()
    for picture in page.locator(".study img").all():
        assert picture.evaluate("image => image.complete && image.naturalWidth") == 44
    with page.expect_download() as scores:
        page.get_by_role("link", name="Scores (CSV)").click()
    assert "CT" not in scores.value.suggested_filename
    assert scores.value.path().read_text().startswith("id,series,study,scored,class,probability,p_clear")
    with page.expect_download() as reports:
        page.get_by_role("link", name="DICOM reports (1, zip)").click()
    assert reports.value.path().read_bytes().startswith(b"PK")

    page.get_by_role("link", name="Where did it look?").click()
    where, image = page.locator("#where"), page.locator("#image")
    said = re.compile(r"^\s*[123] of 3: InstanceNumber \d, slice [123] of the 3 it was shown \(0\.\d\d\)")
    where.filter(has_text=said).wait_for()
    page.locator("#place").focus()
    page.keyboard.press("Home")
    assert where.inner_text().startswith("1 of 3")
    page.get_by_role("button", name="Next slice").click()
    assert where.inner_text().startswith("2 of 3")
    assert str(image.get_attribute("src")).endswith("/image/2")
    page.locator(".strip rect").nth(2).click()
    assert where.inner_text().startswith("3 of 3")
    assert page.get_by_role("button", name="Next slice").is_disabled()
    with page.expect_download() as saved:
        page.get_by_role("link", name="Save the picture (PNG)").click()
    assert Image.open(saved.value.path()).size == (1100, 660)

    page.get_by_role("link", name="All studies").click()
    page.get_by_role("button", name="Delete everything").click()
    page.wait_for_selector("#drop")
    assert page.locator(".jobs").count() == 0


def test_folder_and_zip_are_chosen_with_the_keyboard(page: Page, study: Path, tmp_path: Path) -> None:
    page.keyboard.press("Tab")  # the report
    page.keyboard.press("Tab")
    assert page.locator("#folder").evaluate("input => input === document.activeElement")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(study)
    answered(page)
    page.get_by_role("link", name="First page").click()
    assert page.locator(".jobs li").inner_text().startswith("9 files, 1 study")

    packed = tmp_path / "study.zip"
    packed.write_bytes(zipped(files_in(study)))
    with page.expect_file_chooser() as chooser:
        page.get_by_text("Choose a zip file or images").click()
    chooser.value.set_files(packed)
    answered(page)
    assert page.locator("h1").inner_text() == "1 study answered"


def test_what_is_refused_is_said_and_the_page_goes_on(page: Page, study: Path, tmp_path: Path) -> None:
    evil, big, empty = tmp_path / "evil.zip", tmp_path / "big.dcm", tmp_path / "empty"
    evil.write_bytes(zipped({"../../evil.dcm": b"x"}))
    big.write_bytes(bytes(10**6 + 1))
    empty.mkdir()
    for dropped, words in ((evil, "lead out of its folder"), (big, "more than 1.0 MB"), (empty, "no file in it")):
        drop(page, dropped)
        page.get_by_role("alert").filter(has_text=words).wait_for()
        assert page.locator("#drop").is_visible()
    drop(page, study)
    answered(page)


def test_images_in_a_narrow_dark_window(chromium: Any, server: Browser, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (400, 300), np.uint8)
    for name in ("a", "b"):
        Image.fromarray(noise).save(tmp_path / f"{name}.png")
    (tmp_path / "notes.png").write_bytes(b"no image")
    page = chromium.new_page(viewport={"width": 360, "height": 640}, color_scheme="dark")
    page.goto(f"http://localhost:{server.port}/")
    drop(page, *sorted(tmp_path.iterdir()))
    answered(page)
    assert page.locator("h1").inner_text() == "2 studies answered, 1 without an answer"
    assert page.get_by_text("DICOM reports").count() == 0
    page.get_by_role("link", name="Where did it look?").first.click()
    assert page.locator("#heat").evaluate("image => image.decode().then(() => image.naturalWidth)") == 300
    assert page.locator("#place").count() == 0
    wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.locator("html").evaluate(f"() => {wide}") == 0
    page.close()


def test_the_report_has_its_style(page: Page) -> None:
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="The report of its training").click()
    shown = opened.value.get_by_text("how good it is")
    assert shown.evaluate("one => getComputedStyle(one).color") == "rgb(1, 2, 3)"


def test_the_token_is_in_the_address(chromium: Any, server: Browser, tmp_path: Path) -> None:
    predictor = Predictor(TrainedBundle(trained_bundle(tmp_path), device="cpu"))
    with serving(predictor, tmp_path / "files", host="192.168.1.5", token="right-token") as one:
        page = chromium.new_page()
        page.goto(f"http://127.0.0.1:{one.port}/#wrong-token")
        page.get_by_role("alert").filter(has_text="This is not the token").wait_for()
        assert "wrong-token" not in page.url
        page.get_by_label("Token").fill("right-token")
        page.keyboard.press("Enter")
        page.wait_for_selector("#drop")
        page.close()
        page = chromium.new_page()
        page.goto(f"http://127.0.0.1:{one.port}/#right-token")
        page.wait_for_selector("#drop")
        assert page.url == f"http://127.0.0.1:{one.port}/"
        page.close()
