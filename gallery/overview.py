"""Makes README's picture from a report: one item, truth and generated, in the gallery's drawing.

    python gallery/overview.py outputs/EXP_NAME/report/report.html HUMANISE/24/2 docs/overview.png

A headless Chromium draws the item once for each joint; its canvases are put side by side. Needs
selenium (extra `test`) and Chromium with its driver. README's picture is of the model that
benchmarks/few_steps/points_8192.yaml trains, sampled with config/fast.yaml laid over that file.
"""

import io
import shutil
import sys
import time
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

JOINTS = ("pelvis", "left foot", "right wrist")
WIDTH, HEIGHT = 400, 290  # of one drawing, pixels
AWAY = 0.85  # how far the eye is, of the distance at first
COLORS = 256  # of the palette: the file stays small
FLAGS = (
    *("--headless=new", "--no-sandbox", "--hide-scrollbars"),
    *("--use-angle=swiftshader", "--enable-unsafe-swiftshader"),  # WebGL without a GPU
)
# Its own style for the canvases: the size of a drawing does not depend on the window.
PREPARE = """
const style = document.createElement("style");
style.textContent = `#gallery .card .views { grid-template-columns: WIDTHpx WIDTHpx !important }
  #gallery .card canvas { width: WIDTHpx !important; height: HEIGHTpx !important }
  #gallery .cards { grid-template-columns: 1000px !important }`;
document.head.append(style);
window.cardOf = (key) => [...document.querySelectorAll("#gallery .card")]
  .find((each) => each.card.item.key === key);
cardOf(arguments[0])?.scrollIntoView();
return cardOf(arguments[0]) !== undefined;
"""
DRAW = """
const card = cardOf(arguments[0]).card;
card.pose = { ...card.pose, away: AWAY };
card.setJoint(card.app.names.indexOf(arguments[1]));
"""
READ = """
const element = cardOf(arguments[0]);
return { caption: element.card.item.caption,
  legend: document.querySelector("#gallery .legend canvas").toDataURL(),
  drawings: [...element.querySelectorAll("canvas")].map((each) => each.toDataURL()) };
"""
COMPOSE = """
const { caption, legend, columns } = arguments[0];
const make = (tag, style, ...inside) => {
  const found = document.createElement(tag);
  Object.assign(found.style, style);
  found.append(...inside);
  return found;
};
const paper = getComputedStyle(document.documentElement).getPropertyValue("--paper");
const rows = ["ground truth", "generated"].map((name, row) => columns.map(({ joint, drawings }) => {
  const image = make("img", { display: "block", borderRadius: "6px" });
  image.src = drawings[row];
  image.style.width = "WIDTHpx";
  const label = make("span", { position: "absolute", left: "10px", top: "7px", fontSize: "15px",
    fontWeight: "600", textShadow: `0 0 4px ${paper}, 0 0 4px ${paper}` }, `${joint}, ${name}`);
  return make("div", { position: "relative" }, image, label);
}));
const grid = make("div", { display: "grid", gap: "6px",
  gridTemplateColumns: "repeat(3, WIDTHpx)" }, ...rows.flat());
const bar = make("img", { width: "200px", height: "14px", borderRadius: "3px" });
bar.src = legend;
const key = make("span", { display: "flex", gap: "8px", alignItems: "center", fontSize: "15px",
  fontWeight: "400" }, "far", bar, "close");
const title = make("div", { display: "flex", justifyContent: "space-between", fontSize: "22px",
  fontWeight: "600", padding: "2px 4px 10px" }, `\\u201c${caption}\\u201d`, key);
const picture = make("div", { display: "inline-block", padding: "12px", background: paper,
  lineHeight: "1.3" }, title, grid);
picture.id = "picture";
document.body.replaceChildren(picture);
"""


def sized(script: str) -> str:
    """A script with the size of a drawing, and how far the eye is."""
    for name, value in {"WIDTH": WIDTH, "HEIGHT": HEIGHT, "AWAY": AWAY}.items():
        script = script.replace(name, str(value))
    return script


def wait_until_drawn(driver) -> None:
    """Wait for the gallery to have drawn all that is in view."""
    time.sleep(0.5)
    for _ in range(600):
        if driver.execute_script("return document.documentElement.dataset.galleryIdle") == "1":
            return
        time.sleep(0.1)
    raise SystemExit("the gallery did not come to rest within a minute")


def main(page: str, item: str, target: str, scheme: str = "light") -> None:
    """Write the picture.

    Args:
        page: report.html.
        item: its name, SET/INDEX/CAPTION.
        target: the PNG.
        scheme: light or dark.
    """
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome")
    for flag in FLAGS:
        options.add_argument(flag)
    driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    try:
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        driver.set_window_size(1400, 1000)
        driver.get(Path(page).resolve().as_uri())
        if not driver.execute_script(sized(PREPARE), item):
            raise SystemExit(f"{page}: no item {item} among its first ones")
        wait_until_drawn(driver)
        columns = []
        for joint in JOINTS:
            driver.execute_script(sized(DRAW), item, joint)
            wait_until_drawn(driver)
            found = driver.execute_script(READ, item)
            columns.append({"joint": joint, "drawings": found["drawings"]})

        content = {key: found[key] for key in ("caption", "legend")} | {"columns": columns}
        driver.execute_script(sized(COMPOSE), content)
        time.sleep(0.5)
        shot = driver.find_element("id", "picture").screenshot_as_png
    finally:
        driver.quit()
    picture = Image.open(io.BytesIO(shot)).convert("RGB")
    picture.quantize(COLORS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
        target, optimize=True
    )
    print(f"{target}: {picture.width} x {picture.height}, {Path(target).stat().st_size} bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
