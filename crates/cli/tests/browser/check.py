"""The report in a real browser: hover, pin, keyboard, contrast, legend, zoom, hostile labels, widths, dark and print.

    check.py EMBEDTUNE CHROMIUM [SCREENSHOTS]

EMBEDTUNE is the program, CHROMIUM the browser, SCREENSHOTS a folder for pictures of every page. Needs playwright;
`run` beside this file finds or installs what is missing.
"""

import csv
import json
import pathlib
import re
import struct
import subprocess
import sys
import tempfile
import time

from playwright.sync_api import sync_playwright

PROGRAM, CHROMIUM = sys.argv[1:3]
SHOTS = pathlib.Path(sys.argv[3]) if len(sys.argv) > 3 else None
DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}
HOSTILE = [
    "<script>window.hacked = 1</script>",
    "\"'><img src=x onerror='window.hacked=1'>",
    "\u202eتسمية عربية",
    "🧥👟 {{data}} </title> 長袖のシャツ" + "袖" * 200,
    "long " + "x" * 10_000,
]
# Where the page leaves the edge of a panel free, and the grid of its places.
EDGE, GRID = 14, 4095


def run(*words, cwd):
    done = subprocess.run([PROGRAM, *map(str, words)], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def idx(path, shape, data):
    path.write_bytes(bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + bytes(data))


def pixels(row, classes):
    """An image of 12 x 12 with a band that tells the class and dots that tell the row."""
    image = [30 + (row * 37 + at * 11) % 60 for at in range(144)]
    band = row % classes * 2
    for at in range(144):
        if at // 12 in (band, band + 1):
            image[at] = 170 + (row * 13 + at * 7) % 80
    return image


def image_data(folder):
    folder.mkdir()
    for part, count in (("train", 80), ("t10k", 60)):
        rows = [value for row in range(count) for value in pixels(row, len(HOSTILE))]
        idx(folder / f"{part}-images-idx3-ubyte", (count, 12, 12), rows)
        idx(folder / f"{part}-labels-idx1-ubyte", (count,), [row % len(HOSTILE) for row in range(count)])
    (folder / "classes.txt").write_text("".join(name + "\n" for name in HOSTILE), encoding="utf-8")


def text_data(folder):
    folder.mkdir()
    words = ["alpha", "beta", "gamma", "delta", "epsilon"]
    for part, count in (("train", 60), ("test", 25)):
        with open(folder / f"{part}.csv", "w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(["text", "label"])
            for row in range(count):
                kind = row % len(HOSTILE)
                table.writerow([f"{words[kind]} {row} {HOSTILE[(kind + 1) % len(HOSTILE)]}", HOSTILE[kind]])


def npy(path, descr, shape, data):
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data)


def vector_data(folder, count, classes):
    """Noise around class means, by a fixed generator."""
    folder.mkdir()
    state = 1

    def noise():
        nonlocal state
        state = (state * 1103515245 + 12345) % 2**31
        return state / 2**31 - 0.5

    for part, rows in (("train", 400), ("test", count)):
        values = [noise() + (1.2 if row % classes % 8 == column else 0) for row in range(rows) for column in range(8)]
        npy(folder / f"{part}.npy", "<f4", f"({rows}, 8)", struct.pack(f"<{len(values)}f", *values))
        npy(folder / f"{part}_labels.npy", "|u1", f"({rows},)", bytes(row % classes for row in range(rows)))


class Page:
    """A report opened with its console and its requests watched."""

    def __init__(self, browser, path, size, dark=False):
        scheme = "dark" if dark else "light"
        self.context = browser.new_context(viewport=size, color_scheme=scheme, has_touch=size is PHONE)
        self.page = self.context.new_page()
        self.complaints, self.requests = [], []
        self.page.on("console", self.heard)
        self.page.on("pageerror", lambda e: self.complaints.append(str(e)))
        self.page.on("request", lambda r: self.requests.append(r.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("#distances svg")
        self.data = json.loads(self.page.locator("#data").text_content())

    def heard(self, message):
        # The checks themselves read the canvas back, again and again.
        if message.type in ("error", "warning") and "willReadFrequently" not in message.text:
            self.complaints.append(message.text)

    def close(self):
        assert not self.complaints, self.complaints
        elsewhere = [url for url in self.requests if not url.startswith(("file:", "data:"))]
        assert not elsewhere, elsewhere
        assert self.page.evaluate("window.hacked") is None
        self.context.close()

    def shot(self, name):
        if SHOTS:
            self.page.mouse.move(0, 0)
            self.page.evaluate("scrollTo(0, 0)")
            self.page.screenshot(path=SHOTS / f"{name}.png", full_page=True)

    def fits(self):
        wide, window = self.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        beyond = """[...document.body.querySelectorAll('*')].filter(e => e.getBoundingClientRect().right > innerWidth + 1
            && !e.closest('.scroll, pre, nav')).map(e => `${e.tagName}.${e.getAttribute('class')}`).slice(0, 8)"""
        assert wide <= window, f"{wide} pixels wide in a window of {window}: {self.page.evaluate(beyond)}"

    def stage(self, variant):
        return self.page.locator(f".stage[aria-label='Projection, {variant['name']}']")

    def place(self, variant, entry):
        """Where an item is drawn, from the panel's corner; the panel is not zoomed."""
        side = self.stage(variant).evaluate("stage => stage.clientWidth")
        return [EDGE + variant["places"][2 * entry + axis] / GRID * (side - 2 * EDGE) for axis in (0, 1)]

    def loneliest(self, variant):
        """The item that is furthest from all others: no doubt what is under the pointer there."""
        shown = self.data["entries"]["shown"]
        at = [variant["places"][2 * i : 2 * i + 2] for i in range(shown)]

        def nearest(i):
            return min((at[i][0] - x) ** 2 + (at[i][1] - y) ** 2 for j, (x, y) in enumerate(at) if j != i)

        return max(range(shown), key=nearest)

    def point(self, variant, entry):
        stage = self.stage(variant)
        stage.scroll_into_view_if_needed()
        x, y = self.place(variant, entry)
        box = stage.bounding_box()
        self.page.mouse.move(box["x"] + 1 + x, box["y"] + 1 + y)
        return box["x"] + 1 + x, box["y"] + 1 + y

    def card(self):
        return self.page.locator("#card")

    def card_item(self):
        words = self.card().locator(".card-words .score")
        return words.text_content() if words.count() else None


def check_hover(page, program_says):
    """Hover and pin show the item that is there, with the neighbours that `embedtune search` finds."""
    data, variant = page.data, page.data["variants"][-1]
    entry = page.loneliest(variant)
    row, label = data["entries"]["row"][entry], data["entries"]["class"][entry]
    x, y = page.point(variant, entry)
    assert page.card_item() == f"item {row}", page.card_item()
    assert page.card().locator(".card-words b bdi").text_content() == data["classes"][label]
    found = program_says(row)
    near = page.card().locator(".near li")
    assert near.count() == len(found)
    for at, hit in enumerate(found):
        name = near.nth(at).locator("bdi").first.get_attribute("title")
        assert name == data["classes"][data["entries"]["class"][variant["near"][entry][at]]]
        assert hit["class"].startswith(name[:150]), (hit, name)
        yes = near.nth(at).locator(".verdict").text_content() == "✓"
        assert yes == (hit["class"].startswith(data["classes"][label][:150]))
        assert abs(float(near.nth(at).locator(".score").text_content()) - hit["similarity"]) < 6e-4
    # Gone with the pointer, unless pinned.
    page.page.mouse.move(2, 2)
    assert page.card_item() is None
    page.page.mouse.move(x, y)
    page.page.mouse.down()
    page.page.mouse.up()
    page.page.mouse.move(2, 2)
    assert page.card_item() == f"item {row}"
    page.page.keyboard.press("Escape")
    assert page.card_item() is None
    return entry


def check_keyboard(page):
    """From item to item without a pointer: arrows, N and P, Enter, Escape; what is found is announced and ringed."""
    data, variant = page.data, page.data["variants"][-1]
    rows, keys, stage = data["entries"]["row"], page.page.keyboard, page.stage(variant)
    page.page.mouse.move(2, 2)
    assert page.card().get_attribute("aria-live") == "polite"
    page.page.evaluate("document.activeElement.blur()")
    stage.scroll_into_view_if_needed()
    # By the tab key, from the last button before it.
    stage.locator("xpath=..").get_by_role("button", name="Whole picture").focus()
    keys.press("Tab")
    assert stage.evaluate("stage => stage === document.activeElement && stage.matches(':focus-visible')")
    assert stage.evaluate("stage => parseFloat(getComputedStyle(stage).outlineWidth)") >= 2
    side = stage.evaluate("stage => stage.clientWidth")
    scrolled = page.page.evaluate("scrollY")

    def nearest(place, fits=lambda x, y: True):
        """The first of the items nearest to a place."""
        found = []
        for entry in range(data["entries"]["shown"]):
            x, y = (page.place(variant, entry)[axis] - place[axis] for axis in (0, 1))
            if fits(x, y):
                found.append((x * x + y * y, entry))
        return min(found)[1] if found else None

    keys.press("ArrowRight")
    here = nearest([side / 2, side / 2])
    assert page.card_item() == f"item {rows[here]}", (page.card_item(), rows[here])
    cones = {
        "ArrowRight": lambda x, y: x > 0 and abs(y) <= x,
        "ArrowLeft": lambda x, y: x < 0 and abs(y) <= -x,
        "ArrowUp": lambda x, y: y < 0 and abs(x) <= -y,
        "ArrowDown": lambda x, y: y > 0 and abs(x) <= y,
    }
    moved = 0
    for key in ["ArrowRight", "ArrowUp", "ArrowLeft", "ArrowDown", "ArrowLeft", "ArrowLeft", "ArrowUp"]:
        there = nearest(page.place(variant, here), cones[key])
        keys.press(key)
        moved += there is not None
        here = here if there is None else there
        assert page.card_item() == f"item {rows[here]}", key
    assert moved >= 3 and page.page.evaluate("scrollY") == scrolled, "arrows scroll the page"
    keys.press("n")
    assert page.card_item() == f"item {rows[(here + 1) % len(rows)]}"
    keys.press("p")
    assert page.card_item() == f"item {rows[here]}"
    # The ring around the item is drawn in the colour of the focus.
    ring = """stage => {
        const context = stage.children[1].getContext('2d'), probe = document.createElement('i');
        probe.style.color = 'var(--accent)';
        document.body.append(probe);
        const wanted = getComputedStyle(probe).color.match(/\\d+/g).map(Number);
        probe.remove();
        const rgba = context.getImageData(0, 0, stage.children[1].width, stage.children[1].height).data;
        let found = 0;
        for (let at = 0; at < rgba.length; at += 4)
            found += rgba[at + 3] > 200 && wanted.every((value, channel) => Math.abs(rgba[at + channel] - value) < 12);
        return found;
    }"""
    assert stage.evaluate(ring) > 10
    keys.press("Enter")
    assert page.card().locator(".close").count() == 1
    page.page.mouse.move(2, 2)
    assert page.card_item() == f"item {rows[here]}"
    keys.press("Escape")
    assert page.card_item() is None
    # It goes on where it was, also where the picture is zoomed and the item out of it.
    keys.press("+")
    keys.press("+")
    keys.press("n")
    assert page.card_item() == f"item {rows[(here + 1) % len(rows)]}"
    keys.press("0")
    page.page.wait_for_timeout(100)
    assert page.page.locator(".stage.moved").count() == 0
    # What the keyboard looked at goes with it, unless pinned.
    keys.press("Tab")
    assert page.card_item() is None


def check_contrast(page):
    """Every line of a chart stands out from the page: 3 to 1 at least."""
    page.page.wait_for_selector("#curves .curve")
    least = page.page.evaluate(
        """() => {
            const channel = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
            const luminance = css => {
                const [r, g, b] = css.match(/[\\d.]+/g).map(Number).map(channel);
                return 0.2126 * r + 0.7152 * g + 0.0722 * b;
            };
            const paper = luminance(getComputedStyle(document.body).backgroundColor);
            const lines = [...document.querySelectorAll('#curves .curve, #histograms path')];
            return Math.min(...lines.map(line => {
                const own = luminance(getComputedStyle(line).stroke);
                return (Math.max(own, paper) + 0.05) / (Math.min(own, paper) + 0.05);
            }));
        }"""
    )
    assert least >= 3, f"a line of contrast {least:.2f}"


def check_figure(browser, path):
    """No text of the figure leaves it, whatever typeface the browser has."""
    page = browser.new_page()
    page.set_content(path.read_text(encoding="utf-8"))
    beyond = page.evaluate(
        """() => {
            const width = document.querySelector('svg').viewBox.baseVal.width;
            return [...document.querySelectorAll('text')].filter(text => {
                const box = text.getBBox();
                return box.x < 0 || box.x + box.width > width;
            }).map(text => text.textContent.slice(0, 40));
        }"""
    )
    assert not beyond, beyond
    assert page.locator("text").count() > len(HOSTILE)
    if SHOTS:
        page.screenshot(path=SHOTS / "figure.png", full_page=True)
    page.close()


def check_legend(page, entry):
    variant = page.data["variants"][-1]
    label = page.data["entries"]["class"][entry]
    button = page.page.locator(f".legend-list button[data-class='{label}']")
    ink = "stage => { const c = stage.firstChild; return c.getContext('2d').getImageData(0, 0, c.width, c.height).data.filter((v, i) => i % 4 === 3 && v).length }"
    before = page.stage(variant).evaluate(ink)
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert page.stage(variant).evaluate(ink) < before
    page.point(variant, entry)
    assert page.card_item() != f"item {page.data['entries']['row'][entry]}", "a hidden item is found"
    button.click()
    assert page.stage(variant).evaluate(ink) == before
    page.page.get_by_role("button", name="None", exact=True).click()
    assert page.stage(variant).evaluate(ink) == 0
    page.page.get_by_role("button", name="All", exact=True).click()
    assert page.stage(variant).evaluate(ink) == before


def check_zoom(page, entry):
    variant = page.data["variants"][-1]
    x, y = page.point(variant, entry)
    time.sleep(0.4)
    page.page.mouse.wheel(0, -400)
    page.page.wait_for_function("document.querySelectorAll('.stage.moved').length === 1")
    page.page.wait_for_timeout(100)
    # The place under the pointer stays under it.
    page.page.mouse.move(x + 1, y)
    assert page.card_item() == f"item {page.data['entries']['row'][entry]}"
    page.stage(variant).locator("xpath=..").get_by_role("button", name="Whole picture").click()
    page.page.wait_for_timeout(100)
    assert page.page.locator(".stage.moved").count() == 0


def check_labels(page):
    names = page.page.locator(".legend-list bdi").all_text_contents()
    # The program orders the classes of text by name.
    for label in HOSTILE:
        assert any(name == label or (name.endswith("…") and label.startswith(name[:-1])) for name in names), names
    assert len(names) == len(HOSTILE)
    assert page.page.locator("img, iframe, link, object, b b").count() == 0
    assert page.page.locator("script").count() == 2
    assert page.page.title().endswith("embedtune")


def check_pictures(page):
    """Every shown item's thumbnail is its image, pixel by pixel."""
    tile, columns = page.data["entries"]["sprite"]["tile"], page.data["entries"]["sprite"]["columns"]
    assert tile == [12, 12]
    gray = page.page.evaluate(
        """async () => {
            const url = getComputedStyle(document.querySelector('.thumb')).backgroundImage.slice(5, -2);
            const image = new Image();
            image.src = url;
            await image.decode();
            const canvas = document.createElement('canvas');
            [canvas.width, canvas.height] = [image.width, image.height];
            const context = canvas.getContext('2d');
            context.drawImage(image, 0, 0);
            const rgba = context.getImageData(0, 0, image.width, image.height).data;
            return {width: image.width, values: Array.from(rgba.filter((_, i) => i % 4 === 0))};
        }"""
    )
    for entry, row in enumerate(page.data["entries"]["row"]):
        corner = entry // columns * 12 * gray["width"] + entry % columns * 12
        lines = [gray["values"][corner + y * gray["width"] :][:12] for y in range(12)]
        assert sum(lines, []) == pixels(row, len(HOSTILE)), f"entry {entry}"
    card = page.data["variants"][-1]
    entry = page.loneliest(card)
    page.point(card, entry)
    style = page.card().locator(".card-top .thumb").evaluate("e => [e.style.width, e.style.backgroundPosition]")
    width = float(style[0][:-2])
    x, y = (float(part[:-2]) for part in style[1].split())
    assert [round(-x / width), round(-y / width)] == [entry % columns, entry // columns]
    page.page.mouse.move(2, 2)


def check_galleries(page):
    data = page.data
    kinds = page.page.locator("#search-controls .choice").nth(1).locator("button")
    variants = page.page.locator("#search-controls .choice").nth(0).locator("button")
    for index, variant in enumerate(data["variants"]):
        variants.nth(index).click()
        for kind, searches in ((0, variant["wrong"]), (1, variant["right"])):
            kinds.nth(kind).click()
            rows = page.page.locator("#gallery > li")
            assert rows.count() == min(12, len(searches))
            if searches:
                first = rows.first.locator(".hits > .hit")
                assert first.count() == len(searches[0]["near"])
                mark = first.first.locator(".verdict").text_content()
                assert mark == "✗✓"[kind], mark
    for index in range(len(data["variants"])):
        page.page.locator("#class-controls button").nth(index).click()
        assert page.page.locator("#accuracy li").count() > 0


def check_speed(page, program_items):
    """Ten thousand points: what a frame takes while zooming, and a search under the pointer."""
    assert page.data["entries"]["shown"] == program_items
    variant = page.data["variants"][-1]
    page.stage(variant).scroll_into_view_if_needed()
    times = page.stage(variant).evaluate(
        """async stage => {
            const box = stage.getBoundingClientRect();
            const at = {clientX: box.left + box.width / 2, clientY: box.top + box.height / 2, bubbles: true};
            const frames = [], moves = [];
            for (let turn = 0; turn < 30; turn++) {
                const before = performance.now();
                stage.dispatchEvent(new WheelEvent('wheel', {...at, deltaY: turn % 2 ? 60 : -80, ctrlKey: true, cancelable: true}));
                await new Promise(requestAnimationFrame);
                await new Promise(done => setTimeout(done));
                frames.push(performance.now() - before);
                const start = performance.now();
                stage.dispatchEvent(new PointerEvent('pointermove', {...at, clientX: at.clientX + turn, pointerType: 'mouse'}));
                moves.push(performance.now() - start);
            }
            const median = values => values.sort((a, b) => a - b)[values.length >> 1];
            return [median(frames), median(moves)];
        }"""
    )
    print(f"{program_items} points: {times[0]:.1f} ms a frame while zooming, {times[1]:.2f} ms a move of the pointer")
    # Software rendering on a busy machine; a graphics card needs a fraction of it.
    assert times[0] < 150 and times[1] < 30, times


def main():
    if SHOTS:
        SHOTS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        at = pathlib.Path(folder)
        image_data(at / "images")
        text_data(at / "texts")
        vector_data(at / "vectors", 10_000, 40)
        run("compare", "-q", "--data", "images", "--epochs", 2, "--batch-size", 16, "--out", "compared", cwd=at)
        run("fit", "-q", "--data", "texts", "--loss", "ArcFaceLoss", "--epochs", 2, "--batch-size", 16, "--out", "read", cwd=at)
        run("fit", "-q", "--data", "vectors", "--loss", "ArcFaceLoss", "--epochs", 1, "--out", "many", cwd=at)
        run("report", "many", "--items", 10_000, "--projection", "pca", cwd=at)

        def search(path):
            return lambda row: json.loads(run("search", "--run", path, "--query", row, "-k", 5, "--json", cwd=at))

        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for name, model, items in (("compared", "compared/CosFaceLoss", 60), ("read", "read", 25), ("many", "many", 10_000)):
            path = at / name / "report.html"
            page = Page(browser, path, DESKTOP)
            page.fits()
            if name == "many":
                check_speed(page, items)
            else:
                entry = check_hover(page, search(model))
                check_keyboard(page)
                check_contrast(page)
                check_legend(page, entry)
                check_zoom(page, entry)
                check_labels(page)
                check_galleries(page)
            if name == "compared":
                check_pictures(page)
            page.shot(f"{name}-desktop")
            page.close()

            page = Page(browser, path, PHONE)
            page.fits()
            if name != "many":
                variant = page.data["variants"][-1]
                entry = page.loneliest(variant)
                page.stage(variant).scroll_into_view_if_needed()
                x, y = page.place(variant, entry)
                page.stage(variant).tap(position={"x": x + 1, "y": y + 1})
                assert page.card_item() == f"item {page.data['entries']['row'][entry]}"
                if SHOTS:
                    page.page.screenshot(path=SHOTS / f"{name}-pinned.png")
                page.card().get_by_role("button").click()
                assert not page.card().is_visible()
            page.shot(f"{name}-phone")
            page.close()

        check_figure(browser, at / "compared" / "figure.svg")
        page = Page(browser, at / "compared" / "report.html", DESKTOP, dark=True)
        check_contrast(page)
        dark = page.page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.shot("compared-dark")
        page.page.emulate_media(media="print")
        assert page.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)" != dark
        assert page.page.locator("nav").is_hidden()
        printed = page.page.pdf(format="A4")
        assert printed.startswith(b"%PDF")
        # A canvas is an image on the paper, an empty one of a few hundred bytes: each panel has one with its points.
        images = [int(size) for size in re.findall(rb"/Subtype /Image\b.*?/Length (\d+)", printed, re.S)]
        assert sum(size > 1000 for size in images) >= page.page.locator(".stage").count() > 0, images
        if SHOTS:
            (SHOTS / "compared.pdf").write_bytes(printed)
        page.close()
        browser.close()
    print("the report passes in the browser")


main()
