"""The gallery: what its file holds, and what it does in a browser when a person uses it."""

import base64
import csv
import html
import io
import itertools
import json
import re
import time
import zipfile
from html.parser import HTMLParser
from xml.etree import ElementTree

import browser
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from bridge_ebm import (
    bridges,
    definition,
    discovery,
    gallery,
    ink,
    modelling,
    novelty,
    plans,
    raster,
    structure,
    tracing,
)
from bridge_ebm.gallery import Design

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "</script><img src=x onerror=\"window.stolen=1\"> <!-- 'quoted' \u2028 Bogenbrücke 橋 \U0001f309"


def record(**changes):
    """A line of designs.jsonl."""
    usual = {
        "name": "through arch main span with beam side spans",
        "file": "designs/0000.png",
        "energy": -3.25,
        "verdict": "A",
        "reasons": ["stands as drawn on 4 supports"],
        "novelty": 0.12,
        "nearest": "through_arch",
        "explained_by": {"through_arch": 0.6, "beam": 0.35},
        "definition": {"softness": 1.5, "line_contrast": 0.5, "background": 0.0, "ghost": 0.01},
        "symmetry": 0.98,
        "axial_share": 0.5,
        "gain": 2.5,
        "how": "span by span, seed 3",
    }
    return {**usual, **changes}


def design(subtype="beam", size=(48, 192), frames=5, **changes):
    image = bridges.render(subtype, 8, *size)
    noise = np.random.default_rng(0).integers(0, 256, image.shape)
    chain = [(image * t + noise * (1 - t)).astype(np.uint8) for t in np.linspace(0, 1, frames)]
    energies = np.linspace(0.0, -4.0, 401).tolist()
    drawing = np.full((60, 240, 3), 255, np.uint8)
    text = f'<svg xmlns="http://www.w3.org/2000/svg"><title>{subtype}</title></svg>'
    return Design(
        record(**changes), image, drawing, 255 - image, chain, energies, text, [100 * k for k in range(frames)]
    )


SIX = (
    design("beam", name="alpha", file="a.png", novelty=0.1, energy=-1.0, how="span by span, seed 1"),
    design("v_pier_frame", name="beta", file="b.png", verdict="B", novelty=0.2, energy=-5.0, how="conjunction: 2"),
    design("deck_arch", name='=1+1, "c"', verdict="C", novelty=0.02, energy=None, how={"way": "restart", "seed": 3}),
    design(
        "through_arch", name=HOSTILE, explained_by=[["deck_arch", 0.9]], reasons=[HOSTILE], novelty=0.05, how=HOSTILE
    ),
    design("harp_cable_stayed", name="epsilon", explained_by={}, nearest="harp_cable_stayed", novelty=None, gain=3.5),
    design("fan_cable_stayed", name="zeta", frames=0, energy=float("nan"))._replace(svg="", energies=[]),
)


def written(folder, designs=SIX, **options):
    path = folder / "gallery.html"
    gallery.write(path, designs, **options)
    return path


class Tags(HTMLParser):
    """All tags with their attributes, and the content of scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.raw = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] in ("script", "style") and data.strip():
            self.raw.append((self.tags[-1], data))


def embedded(path):
    """The data that the page holds."""
    return json.loads(next(text for (_, a), text in Tags(path.read_text("utf-8")).raw if a.get("id") == "data"))


def decoded(text):
    return Image.open(io.BytesIO(base64.b64decode(text)))


def test_the_page_names_no_address_and_forbids_all(tmp_path):
    page = Tags(written(tmp_path, title=HOSTILE).read_text("utf-8"))
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    for _, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        assert attributes.get("href", "data:").startswith("data:")
        assert "src" not in attributes
    text = " ".join(content for _, content in page.raw)
    assert set(re.findall(r"(?:https?:)?//[\w.]+\.\w+[^\s\"'\\]*", text)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"@import|\burl\(|innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", text)


def test_hostile_texts_stay_data(tmp_path):
    path = written(tmp_path, title=HOSTILE)
    page = Tags(path.read_text("utf-8"))
    assert [tag for tag, _ in page.tags].count("script") == 2
    assert all(a.get("src") != "x" for _, a in page.tags)
    data = next(text for (_, a), text in page.raw if a.get("id") == "data")
    assert data.isascii() and not set("<>&") & set(data)
    assert embedded(path)["designs"][3]["name"] == HOSTILE


def test_numbers_that_are_not_finite_become_null(tmp_path):
    broken = design()._replace(energies=[1.0, float("nan"), float("inf"), -2.0])
    (entry,) = embedded(written(tmp_path, [broken._replace(record=record(energy=float("-inf")))]))["designs"]
    assert entry["energy"] is None and entry["energies"] == [1.0, None, None, -2.0]


def test_the_summary_is_text(tmp_path):
    text = written(tmp_path, summary=HOSTILE).read_text("utf-8")
    assert f'<p id="summary">{html.escape(HOSTILE)}</p>' in text
    assert all(a.get("src") != "x" for _, a in Tags(text).tags)


@pytest.mark.parametrize(
    ("number", "distinct", "candidates", "says"),
    [
        (120, 367, 768, "The best 120 of 367 distinct designs (novel, sharp, standing as drawn), from 768 candidates;"),
        (120, 120, 768, "120 distinct designs (novel, sharp, standing as drawn), from 768 candidates;"),
        (1, 1, 1, "1 distinct design (novel, sharp, standing as drawn), from 1 candidate;"),
        (0, 0, 16, "0 distinct designs (novel, sharp, standing as drawn), from 16 candidates;"),
    ],
)
def test_a_discovery_says_how_many_of_its_designs_are_shown(tmp_path, monkeypatch, number, distinct, candidates, says):
    ranked = [
        {
            "rank": k + 1 if k < distinct else None,
            "index": k,
            "how": {"way": "spans"},
            "sharp": True,
            "novel": k < distinct,
            "verdict": "A",
            "explained_by": {},
            "families": [],
        }
        for k in range(candidates)
    ]
    monkeypatch.setattr(discovery, "rank", lambda _, records: records)
    monkeypatch.setattr(discovery, "_card", lambda *_: SIX[0])
    discovery.write_results(tmp_path, ranked)
    page = (tmp_path / "gallery.html").read_text("utf-8")
    assert f'<p id="summary">{says} all are in designs.jsonl</p>' in page
    assert len(embedded(tmp_path / "gallery.html")["designs"]) == number
    assert len((tmp_path / "designs.jsonl").read_text().splitlines()) == candidates


def test_the_explanation_says_what_the_code_does(tmp_path):
    text = written(tmp_path).read_text("utf-8")
    meaning = " ".join(re.search(r'<details id="terms">(.*?)</details>', text, re.DOTALL).group(1).split())
    for said in (
        f"{modelling.LOAD / 1e3:.0f} kN on every metre of the deck",
        f"supports at most {structure._SPACING:.0f} m apart",
        f"as a share of {discovery._NOVEL_ENOUGH}",
        f"within {novelty.REACH} pixels ({novelty.REACH * ink.METRES:.1f} m)",
        f"Above {novelty.NOVEL} a design counts as novel",
        f"{novelty.ONE:.0%}".replace("%", "&nbsp;% of the lines"),
        f"below {structure._GAIN} the verdict is C",
        f"farther than {definition._CLEAR} pixels from all ink",
        f"farther than {definition._BESIDE} pixels from the members",
    ):
        assert said in meaning
    assert re.findall(r"<li><b>(\w+)</b>", meaning) == list(plans.WAYS)
    assert f"const NOVEL = {novelty.NOVEL};" in text
    assert "beams have next to none, V piers a tenth, arches, cables and stays a quarter to nine tenths" in meaning
    assert "known types have about 2 to 3;" in meaning
    known = {name: structure.analyse(bridges.render(name, 8, 48, 192)) for name in bridges.SUBTYPES}
    assert all(1.9 < of.gain < 3.4 for of in known.values())
    beam, legs, *others = (known[name].axial_share for name in bridges.SUBTYPES)
    assert beam < 0.02 and round(legs, 1) == 0.1 and all(0.23 < share < 0.92 for share in others)


@pytest.mark.parametrize("size", [(48, 192), (128, 512)])
def test_pictures_are_dark_on_white_and_exact(tmp_path, size):
    made = design("fan_cable_stayed", size)
    (entry,) = embedded(written(tmp_path, [made]))["designs"]
    np.testing.assert_array_equal(np.asarray(decoded(entry["image"])), 255 - made.image)
    np.testing.assert_array_equal(np.asarray(decoded(entry["nearest_image"])), 255 - made.nearest_image)
    last = decoded(entry["frames"][-1])
    assert last.width <= 256 and last.width / last.height == 4
    shown = np.asarray(last.convert("L").resize(size[::-1])).astype(float)
    assert np.abs(shown - (255 - made.image)).mean() < 12  # sixteen greys, and half the size for the large picture


@pytest.mark.parametrize(("size", "kilobytes"), [((48, 192), 60), ((128, 512), 90)])
def test_a_design_takes_few_bytes(tmp_path, size, kilobytes):
    image = bridges.render("vertical_suspension", 8, *size)
    drawing = tracing.forces(image, structure.analyse(image))
    path = written(tmp_path, [design("vertical_suspension", size, frames=8)._replace(forces=drawing)])
    assert len(json.dumps(embedded(path))) < 1000 * kilobytes


def test_a_drawing_may_be_a_picture_file(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (1200, 360), "white").save(buffer, "PNG")
    (entry,) = embedded(written(tmp_path, [design()._replace(forces=buffer.getvalue())]))["designs"]
    assert decoded(entry["forces"]).size == (960, 288)


# The tracing, against the metres that the picture was drawn with.


def lines(text):
    """Polylines of an SVG by the kind of their group: lists of (points [K, 2], thickness), y down."""
    root = ElementTree.fromstring(text.encode())
    return {
        group.get("id"): [
            (
                np.array([point.split(",") for point in line.get("points").split()], float),
                float(line.get("stroke-width")),
            )
            for line in group.iter(f"{SVG}polyline")
        ]
        for group in root.iter(f"{SVG}g")
    }


@pytest.mark.parametrize("size", [(48, 192), (128, 512)])
def test_the_tracing_has_the_metres_of_the_bridge(size):
    image = bridges.render("through_arch", 8, *size)
    of, inks = bridges.PAPER["through_arch"], bridges.inks("through_arch", 8)
    found = lines(tracing.svg(image, structure.analyse(image), "arch"))
    ((deck, thickness),) = found["deck"]
    np.testing.assert_allclose(deck, [[-150, 0], [150, 0]], atol=1.3)
    assert thickness == pytest.approx(inks["deck"].thickness, rel=0.1)
    piers = sorted(found["pier"], key=lambda line: line[0][0, 0])
    for (points, thickness), x in zip(piers, (-of.pier, of.pier), strict=True):
        np.testing.assert_allclose(points[[0, -1]], [[x, 0], [x, of.foot]], atol=0.7)
        assert thickness == pytest.approx(inks["pier"].thickness, rel=0.1)
    crowns = sorted(points[:, 1].min() for points, _ in found["arch"])
    np.testing.assert_allclose(crowns, [-of.rise, -of.side_rise, -of.side_rise], atol=1.0)
    places = sorted(points[:, 0].mean() for points, _ in found["hanger"])
    drawn = {side * x for x in (*of.hangers, *of.side_hangers) for side in (-1, 1)}
    np.testing.assert_allclose(places, sorted(drawn), atol=1.0)


def test_a_tower_is_as_high_as_its_ink():
    image = bridges.render("harp_cable_stayed", 8, 128, 512)
    towers = lines(tracing.svg(image, structure.analyse(image), "harp"))["tower"]
    tops = [points[:, 1].min() for points, _ in towers]
    np.testing.assert_allclose(tops, [-bridges.PAPER["harp_cable_stayed"].tower] * 2, atol=0.7)


@pytest.mark.parametrize("subtype", bridges.SUBTYPES)
def test_the_tracing_drawn_again_is_the_picture(subtype):
    image = bridges.render(subtype, 8, 128, 512)
    traces = tracing.trace(image, structure.analyse(image))
    inks = {str(k): raster.Ink(t.thickness) for k, t in enumerate(traces)}
    segments = [
        raster.Member(str(k), tuple(start), tuple(end))
        for k, t in enumerate(traces)
        for start, end in itertools.pairwise(t.points)
    ]
    again, there = raster.draw(segments, inks) > 64, image > 64
    near = ndimage.maximum_filter(again, 5), ndimage.maximum_filter(there, 5)
    assert (there & near[0]).sum() > 0.97 * there.sum() and (again & near[1]).sum() > 0.97 * again.sum()


def test_the_tracing_is_a_sheet_of_the_canvas_at_1_to_1000():
    image = bridges.render("beam", 8, 128, 512)
    root = ElementTree.fromstring(tracing.svg(image, structure.analyse(image), HOSTILE + "\x00\ud800").encode())
    left, top, width, height = map(float, root.get("viewBox").split())
    assert (left, top) == pytest.approx((-161.57, -40.39), abs=0.4) and (width, height) == pytest.approx(
        (323.14, 80.78), abs=0.01
    )
    assert root.get("width") == f"{width:.2f}mm" and root.get("height") == f"{height:.2f}mm"
    assert root.find(f"{SVG}title").text == HOSTILE


def test_a_picture_without_a_deck_gives_an_empty_sheet():
    image = np.zeros((48, 192), np.uint8)
    assert lines(tracing.svg(image, structure.analyse(image), "nothing")) == {}


# In the browser.


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    path = browser.find()
    if path is None:
        pytest.skip(f"no Chromium here (looked for {', '.join(browser.NAMES)}): the gallery was not tried in a browser")
    with browser.started(path, tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture(scope="module")
def six(tmp_path_factory):
    return written(tmp_path_factory.mktemp("six"), SIX, title=HOSTILE)


@pytest.fixture
def opened(chromium, six, tmp_path):
    """Open a gallery; afterwards the console must be clean and nothing must have been fetched."""
    pages = []

    def open_page(designs=SIX, **options):
        path = six if designs is SIX else written(tmp_path, designs)
        pages.append(browser.Page(chromium, path, downloads=tmp_path, **options))
        return pages[-1]

    yield open_page
    for page in pages:
        assert page.complaints() == []
        page.close()


NAMES = ["alpha", "beta", '=1+1, "c"', HOSTILE, "epsilon", "zeta"]


def shown(page):
    return page.js("[...document.querySelectorAll('#cards .name')].map(e => e.textContent)")


def choose(page, control, value):
    """Set a control as a person does who picks a value."""
    event = "e.dispatchEvent(new Event('input', {bubbles: true}))"
    page.js(f"(e => {{ e.value = {json.dumps(value)}; {event}; }})(document.querySelector('#{control}'))")


def focused(page):
    return page.js("document.activeElement.closest('li')?.querySelector('.name')?.textContent ?? null")


def downloaded(page, folder, name):
    """The bytes of a file once the browser has saved it."""
    deadline = time.monotonic() + browser.PATIENCE
    while not (folder / name).exists():
        assert time.monotonic() < deadline, f"{name} was never saved"
        page.js("1")  # lets the events of the download through
        time.sleep(0.02)
    return (folder / name).read_bytes()


def test_hostile_texts_are_shown_as_text(opened):
    page = opened()
    assert shown(page) == NAMES
    assert page.js("window.stolen === undefined && document.querySelectorAll('img[src=x]').length === 0")
    assert page.js("document.title") == HOSTILE
    page.js("openLarge(designs[3])")
    assert page.js("document.querySelector('#reasons').textContent") == HOSTILE
    assert page.js("getComputedStyle(document.body).maxWidth") == "1600px"  # the policy lets its own style through


def test_the_policy_stops_what_is_not_the_pages_own(chromium, six):
    page = browser.Page(chromium, six)
    page.js("document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.stolen = 1'}))")
    refused = "fetch('http://127.0.0.1:9/').then(() => 'fetched', error => error.name)"
    assert page.js(refused) == "TypeError" and page.js("window.stolen === undefined")
    assert "Content Security Policy" in str(page.complaints())


def test_sorting(opened):
    page = opened()
    order = {
        "novelty": ["beta", "zeta", "alpha", HOSTILE, '=1+1, "c"', "epsilon"],
        "gain": ["epsilon", "alpha", "beta", '=1+1, "c"', HOSTILE, "zeta"],
        "rank": NAMES,
    }
    for value, names in order.items():
        choose(page, "sort", value)
        assert shown(page) == names


def test_filtering(opened):
    page = opened()
    page.click("#verdicts .chip:nth-of-type(2)")
    assert shown(page) == ["beta"]
    page.click("#verdicts .chip:nth-of-type(3)")
    assert shown(page) == ["beta", '=1+1, "c"']
    page.click("#reset")
    page.click("#subtypes input[value=deck_arch] + span")
    assert shown(page) == [HOSTILE]
    page.click("#subtypes input[value=beam] + span")
    assert shown(page) == [] and "Show all" in page.js("document.querySelector('#none').innerText")
    page.click("#reset")
    assert shown(page) == NAMES
    choose(page, "way", "span by span")
    assert shown(page) == ["alpha", "epsilon", "zeta"]
    choose(page, "novelty", "0.11")
    assert shown(page) == ["zeta"]
    assert page.js("document.querySelector('#count').textContent") == "1 of 6 designs"
    ways = page.js("[...document.querySelectorAll('#way option')].map(o => o.value)")
    assert {"span by span", "conjunction", "restart"} < set(ways)
    assert page.js(HIDDEN) == []


# The filters that are not shown.
HIDDEN = "['verdicts', 'subtypes', 'ways', 'novelties'].filter(id => !byId(id).offsetParent)"


def test_filters_that_choose_nothing_are_hidden(opened):
    same = SIX[0].record
    changed = {
        "verdicts": {"verdict": "B"},
        "subtypes": {"explained_by": {"through_arch": 1.0}},
        "ways": {"how": "restart"},
        "novelties": {"novelty": None},
    }
    assert opened([SIX[0], SIX[0]._replace(record={**same, "name": "twin"})]).js(HIDDEN) == list(changed)
    for name, change in changed.items():
        page = opened([SIX[0], SIX[0]._replace(record={**same, **change})])
        assert page.js(HIDDEN) == [other for other in changed if other != name]


def test_energies_of_different_sub_types_are_not_compared(opened):
    page = opened()
    assert "energy" not in page.js("[...document.querySelectorAll('#sort option')].map(o => o.value)")
    assert "energy" not in page.js("byId('cards').textContent")
    page.js("openLarge(designs[0])")
    assert page.js("!!document.querySelector('#plot .energy')")


def test_every_figure_of_the_large_view_is_explained(opened):
    page = opened()
    page.click("#terms summary")
    assert page.js("byId('terms').querySelector('dl').offsetHeight > 0")
    explained = page.js("[...document.querySelectorAll('#terms dt')].map(e => e.textContent)")
    page.js("openLarge(designs[0])")
    figures = page.js("[...document.querySelectorAll('#facts dt')].map(e => e.textContent)")
    assert len(figures) == 12 and set(figures) - {"File"} < set(explained)


def test_shares_of_sub_types_do_not_read_like_a_sum(opened):
    shares = {"fan_cable_stayed": 0.744, "diagonal_suspension": 0.86}
    page = opened([design(explained_by=shares, how={"way": "sides", "left": "fan_cable_stayed over deck_arch"})])
    page.js("openLarge(designs[0])")
    found = page.js(
        "Object.fromEntries([...document.querySelectorAll('#facts dt')].map(e => "
        "[e.textContent, e.nextSibling.textContent.replaceAll('\u00a0', ' ')]))"
    )
    assert found["Lines also found in"] == "fan cable-stayed (74 %), diagonal suspension (86 %)"
    assert found["Made by"] == "way sides, left fan cable-stayed over deck arch"


def test_the_large_view_and_the_slider(opened):
    page = opened()
    page.click(".card:nth-child(2) .open")
    assert page.js("large.open") and page.js("byId('large-name').textContent") == "beta"
    assert page.js("byId('large-verdict').textContent") == "B stands after repair"
    assert page.js("[...document.querySelectorAll('#large img')].every(i => i.complete && i.naturalWidth > 1 && i.alt)")
    frames = []
    for _ in range(5):
        frames.append(page.js("[byId('frame').src, byId('step-text').textContent, byId('step').ariaValueText ?? '']"))
        page.js("byId('step').focus()")
        page.key("ArrowLeft")
    assert len({source for source, *_ in frames}) == 5
    assert [text for _, text, _ in frames] == [
        f"step {100 * k}, energy {'−' * (k > 0)}{k}.000" for k in (4, 3, 2, 1, 0)
    ]
    points = page.js("document.querySelector('#plot .energy').getAttribute('d').split(/[ML]/).length - 1")
    assert points == 200
    assert page.js("byId('large-name').textContent") == "beta"  # arrows on the slider do not turn pages


def test_a_design_without_a_chain_or_tracing(opened):
    page = opened()
    page.js("openLarge(designs[5])")
    assert page.js("byId('chain').hidden")
    assert off(page) == ["next", "save-svg"]
    page.js("window.saved = 0; save = () => saved++")
    page.click("#save-svg")
    assert page.js("saved") == 0
    page.key("ArrowLeft")
    assert page.js("!byId('chain').hidden && byId('frame').naturalWidth > 1 || 'not yet'")
    assert off(page) == []


def off(page):
    """The buttons of the large view that are off."""
    return page.js("[...large.querySelectorAll('[aria-disabled=\"true\"], :disabled')].map(e => e.id)")


def test_the_keys_go_on_working_at_both_ends(opened):
    page = opened([*SIX[:2], SIX[5]])  # the last has no tracing to save
    page.click(".card:nth-child(2) .open")
    for button, end, key, back in (("next", 3, "ArrowLeft", 2), ("previous", 1, "ArrowRight", 2)):
        page.js(f"byId('{button}').focus()")
        page.key("Enter")
        assert page.js("byId('place').textContent") == f"{end} of 3" and button in off(page)
        page.key("Enter")  # there is no further design
        assert page.js("byId('place').textContent") == f"{end} of 3"
        assert page.js("document.activeElement.id") == button
        page.key(key)
        assert page.js("byId('place').textContent") == f"{back} of 3" and off(page) == []
    page.js("byId('save-svg').focus()")
    page.key("ArrowRight")
    assert off(page) == ["next", "save-svg"]
    page.key("ArrowLeft")
    assert page.js("byId('place').textContent") == "2 of 3"


def test_the_place_is_told_politely(opened):
    page = opened()
    page.js("openLarge(designs[0])")
    assert page.js("byId('place').getAttribute('role')") == "status"


def test_keyboard(opened):
    page = opened(width=1000)
    assert page.js("document.querySelectorAll('#cards [tabindex=\"0\"]').length") == 2  # one card, and its star
    page.js("byId('reset').focus()")
    page.key("Tab")
    assert page.js("document.activeElement.textContent") == "What the figures mean"
    page.key("Tab")
    assert focused(page) == "alpha"
    assert page.js("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.key("ArrowRight")
    assert focused(page) == "beta"
    page.key("ArrowDown")
    assert focused(page) == "epsilon" and page.js("columns()") == 3
    page.key("ArrowDown")  # there is no further row
    assert focused(page) == "epsilon"
    page.key("ArrowUp")
    page.key("f")
    assert page.js("chosen().map(d => d.name)") == ["beta"]
    page.key("Enter")
    assert page.js("large.open && large.contains(document.activeElement)")
    page.key("ArrowRight")
    assert page.js("byId('large-name').textContent") == NAMES[2]
    page.key("f")
    page.key("Escape")
    page.wait_for("!large.open")
    page.wait_for(f"document.activeElement.innerText.includes({json.dumps(NAMES[2])})")
    assert focused(page) == NAMES[2]
    page.key("End")
    assert focused(page) == "zeta"
    assert page.js("chosen().map(d => d.name)") == ["beta", NAMES[2]]


def test_favourites_outlast_the_page_and_filter_it(opened):
    page = opened()
    page.click(".card:nth-child(3) .star")
    assert page.js("document.querySelector('.card:nth-child(3) .star').ariaPressed") == "true"
    page.load()
    assert page.js("chosen().map(d => d.name)") == [NAMES[2]]
    page.click("#only")
    assert shown(page) == [NAMES[2]]
    page.click(".card .star")
    assert shown(page) == [] and page.js("byId('zip').disabled && byId('csv').disabled")


def test_favourites_work_where_storage_is_forbidden(opened):
    page = opened()
    forbidden = (
        "Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('no', 'SecurityError'); }})"
    )
    page.call("Page.addScriptToEvaluateOnNewDocument", source=forbidden)
    page.load()
    page.click(".card:nth-child(1) .star")
    assert page.js("chosen().length") == 1


def test_export(opened, tmp_path):
    page = opened()
    for k in (3, 4, 6):
        page.click(f".card:nth-child({k}) .star")
    page.click("#zip")
    archive = zipfile.ZipFile(io.BytesIO(downloaded(page, tmp_path, "bridges.zip")))
    assert archive.testzip() is None
    names = archive.namelist()
    assert names[0] == "bridges.csv" and names[1:3] == ["003_1_1_c.png", "003_1_1_c.svg"] and len(names) == 6
    for name, k in ((names[1], 2), (names[3], 3), (names[5], 5)):
        picture = Image.open(io.BytesIO(archive.read(name)))
        np.testing.assert_array_equal(np.asarray(picture), 255 - SIX[k].image)
    assert archive.read(names[2]).decode() == SIX[2].svg
    page.click("#csv")
    table = downloaded(page, tmp_path, "bridges.csv")
    assert archive.read("bridges.csv") == table
    rows = list(csv.DictReader(io.StringIO(table.decode("utf-8-sig"), newline="")))
    assert [row["name"] for row in rows] == ["'" + NAMES[2], HOSTILE, "zeta"]
    assert rows[1]["energy"] == "-3.25" and rows[0]["energy"] == "" and rows[1]["explained_by"] == "deck_arch 0.9"
    assert rows[0]["ghost"] == "0.01" and rows[0]["way"] == "restart" and rows[0]["verdict"] == "C"


def test_a_design_is_saved_from_the_large_view(opened, tmp_path):
    page = opened()
    page.click(".card:nth-child(1) .open")
    page.click("#save-png")
    page.click("#save-svg")
    picture = Image.open(io.BytesIO(downloaded(page, tmp_path, "001_alpha.png")))
    np.testing.assert_array_equal(np.asarray(picture), 255 - SIX[0].image)
    assert downloaded(page, tmp_path, "001_alpha.svg").decode() == SIX[0].svg


def test_no_cell_is_a_formula(opened):
    starts = ["=", "+", "-", "@", "\t=", "\r", " =", "＝"]
    page = opened([design(name=f"{start}cmd|' /C calc'!A0", frames=1) for start in starts])
    rows = list(csv.DictReader(io.StringIO(page.js("table(designs)").lstrip("\ufeff"), newline="")))
    assert [row["name"][:2] for row in rows] == ["'" + start[0] for start in starts]


def test_on_a_phone(opened):
    page = opened(width=390, height=844, phone=True)
    assert page.js("!byId('filters').open && document.documentElement.scrollWidth <= innerWidth")
    page.click("summary")
    small = "[...document.querySelectorAll('button, select, input[type=range], .chip, summary')]"
    small += ".filter(e => e.offsetParent)"
    assert page.js(f"{small}.filter(e => e.getBoundingClientRect().height < 44).map(e => e.outerHTML)") == []
    page.call("Emulation.setEmitTouchEventsForMouse", enabled=True)
    page.js("openLarge(designs[0])")
    assert page.js("large.getBoundingClientRect().width <= innerWidth && large.scrollWidth <= large.clientWidth")
    assert page.js(f"{small}.filter(e => large.contains(e) && e.getBoundingClientRect().height < 44).length") == 0


def test_every_control_has_a_name_and_text_stands_out(opened):
    page = opened()
    page.js("openLarge(designs[0])")
    named = "e => e.textContent.trim() || e.ariaLabel || e.labels?.length"
    assert page.js(f"[...document.querySelectorAll('button, select, input')].every({named})")
    assert page.js("[...document.images].every(i => i.alt)") and page.js("document.documentElement.lang") == "en"
    assert page.js(CONTRAST) > 4.5


# The least contrast (WCAG 2) of any text with the ground behind it; switched-off buttons are exempt there.
CONTRAST = """(() => {
  const light = c => {
    const [r, g, b] = c.map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b; };
  const numbers = c => c.match(/[\\d.]+/g).map(Number);
  const ground = e => { for (; e; e = e.parentElement) { const c = numbers(getComputedStyle(e).backgroundColor);
    if (c.length < 4 || c[3] > 0) return c.slice(0, 3); } return [255, 255, 255]; };
  const texts = [...document.querySelectorAll('body *')].filter(e => !e.closest('script, :disabled, svg') &&
    [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) && e.offsetParent);
  return Math.min(...texts.map(e => {
    const a = light(numbers(getComputedStyle(e).color).slice(0, 3)), b = light(ground(e));
    return (Math.max(a, b) + .05) / (Math.min(a, b) + .05); }));
})()"""


def test_an_empty_gallery_says_so(opened):
    page = opened([])
    assert "no designs" in page.js("document.querySelector('#none').innerText")
    assert page.js("byId('filters').hidden && byId('export').hidden")


def test_three_hundred_designs_open_quickly(opened):
    many = [SIX[k % 5]._replace(record=record(name=f"design {k}"), frames=SIX[0].frames[-1:]) for k in range(300)]
    page = opened(many)
    assert len(shown(page)) == 300
    assert page.js("performance.timing.domComplete - performance.timing.responseEnd") < 10000
    assert page.js("(t => { arrange(); return performance.now() - t; })(performance.now())") < 2000
