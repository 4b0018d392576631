"""The report page is complete, escaped, self-contained and reproducible."""

import re
from html.parser import HTMLParser
from typing import Any

import yaml

from moesim.report.formats.html import render
from moesim.report.pictures import _pipeline
from moesim.result import Comparison, SimulationResult
from tests.strategies.result import broken, make_comparison, make_result, trained

SMALL: dict[str, Any] = {"nodes": 2, "local": 2, "layers": 2, "steps": 1}
EVIL = "</text></svg><script>alert(1)</script><img src=x onerror=alert(1)>\"'&$x$ \x1b[31m\udcff"


class Reader(HTMLParser):
    """Tags with their attributes, the text, and the text of <pre>."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.pre, self._in_pre = "", "", False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in_pre = tag == "pre"

    def handle_endtag(self, tag: str) -> None:
        self._in_pre = self._in_pre and tag != "pre"

    def handle_data(self, data: str) -> None:
        self.text += data
        self.pre += data if self._in_pre else ""


def page(subject: Comparison | SimulationResult) -> str:
    """The page as text."""
    return render(subject)["report.html"].decode()


def test_the_page_has_every_section(full: str) -> None:
    """Every section of a comparison is there, in its order, with two pictures where two runs are."""
    reader = Reader(full)
    sections = [attributes["id"] for tag, attributes in reader.tags if tag == "section"]
    assert sections == ["comparison", "layers", "timeline", "load", "links", "fan-out", "memory", "rests-on"]
    assert sum(tag == "svg" for tag, _ in reader.tags) == 12
    for words in ("eplb_global is fastest", "declined: no product keys", "no measured error is known", "9f86d081884c"):
        assert words in reader.text


def test_the_scenario_reruns(full: str) -> None:
    """The scenario on the page parses back to the scenario that was compared."""
    assert make_comparison().scenario == yaml.safe_load(Reader(full).pre)


def test_the_page_loads_nothing(full: str) -> None:
    """No script, no address outside the page, and a policy that forbids both."""
    reader = Reader(full)
    addresses = [
        value or ""
        for _, attributes in reader.tags
        for name, value in attributes.items()
        if name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster")
    ]
    assert [address for address in addresses if not address.startswith(("#", "data:"))] == []
    assert [tag for tag, _ in reader.tags if tag in ("script", "iframe", "object", "embed", "base")] == []
    assert "http" not in full.replace("http-equiv", "")
    assert "@import" not in full
    assert "content=\"default-src 'none'" in full.replace("&#39;", "'")


def test_ids_are_unique_and_references_resolve(full: str) -> None:
    """Pictures on one page do not share ids, so that none is drawn with another's clip path or glyph."""
    ids = re.findall(r'\bid="([^"]*)"', full)
    assert len(ids) == len(set(ids))
    referred = set(re.findall(r'(?:url\(#|href="#)([^")]+)', full))
    assert set() == referred - set(ids)


def test_pictures_scale_and_follow_the_page_colours(full: str) -> None:
    """Every SVG has a viewBox and no fixed size, and draws ink by the page's name for it."""
    heads = re.findall(r"<svg [^>]*>", full)
    assert all("viewBox=" in head and " width=" not in head for head in heads)
    assert "var(--ink)" in full
    assert "#18222d" not in full.split("</style>", 1)[1]


def test_the_page_is_small(full: str) -> None:
    """Seven strategies, 32 devices and 26 layers stay under 1.5 MB."""
    assert len(full.encode()) < 1_500_000


def test_hostile_names_stay_text() -> None:
    """Tags, quotes, mathematics, escapes and lone surrogates in names are shown and never obeyed."""
    comparison = make_comparison(("contiguous", "random"), declined=(EVIL,), **SMALL)
    tables = comparison.results["random"].tables
    assert tables is not None
    hostile = comparison.results["random"].model_copy(
        update={"strategy": EVIL, "assumptions": (EVIL,), "provenance": {EVIL: EVIL, "profile": EVIL}}
    )
    runs = (comparison.runs[0], comparison.runs[1].model_copy(update={"strategy": EVIL}), comparison.runs[2])
    scenario = {"model": EVIL, "cluster": {"topology": EVIL, "nodes": 2}, EVIL: EVIL, "plan_steps": EVIL}
    results = {"contiguous": comparison.results["contiguous"], EVIL: hostile}
    reader = Reader(page(Comparison(runs, comparison.headroom, results, scenario, (EVIL,))))
    assert {"script", "img"}.isdisjoint(tag for tag, _ in reader.tags)
    assert [name for _, attributes in reader.tags for name in attributes if name.startswith("on")] == []
    assert "<script>alert(1)</script>" in reader.text
    assert "\x1b" not in reader.text


def test_one_rank_one_layer_no_traffic() -> None:
    """The smallest run of all has a page; pictures of traffic that was not are left out."""
    reader = Reader(page(make_result(nodes=1, local=1, layers=1, steps=1, tokens=0)))
    sections = [attributes["id"] for tag, attributes in reader.tags if tag == "section"]
    assert sections == ["layers", "timeline", "memory", "rests-on"]
    assert "Nothing was sent over any link." in reader.text


def test_without_tables_the_numbers_remain() -> None:
    """A result read back without its tables still has answer, table and layers."""
    reader = Reader(page(make_result(**SMALL).model_copy(update={"tables": None})))
    assert [attributes["id"] for tag, attributes in reader.tags if tag == "section"] == ["layers", "memory", "rests-on"]


def test_all_declined_has_a_page() -> None:
    """When no strategy produced a placement, the page says so and why."""
    text = Reader(page(make_comparison((), declined=("exact", "key_grid")))).text
    assert "No answer" in text
    assert text.count("no product keys in this model") == 2


def test_a_training_step_and_faults_have_sections_of_their_own() -> None:
    """The pipeline with its stages, and the step with and without what breaks; neither where there is none."""
    ids = [
        [attributes["id"] for tag, attributes in Reader(page(subject)).tags if tag == "section"]
        for subject in (make_result(**SMALL), trained(broken(make_result(**SMALL))))
    ]
    assert set() == {"pipeline", "faults", "capacity"} & set(ids[0])
    assert ["layers", "pipeline", "timeline", "load", "links", "fan-out", "capacity", "faults", "memory"] == ids[1][:-1]


def test_a_long_pipeline_is_drawn_whole_and_from_its_beginning() -> None:
    """Too many passes to draw one by one: an image of all, boxes of the first ones, together below 1 MB."""
    section = _pipeline([("run", trained(make_result(**SMALL), stages=16, micro_batches=120))])
    assert section is not None
    captions = ["run: the whole step", "run: the beginning", "run: what each stage does"]
    assert captions == [picture.caption for picture in section.pictures]
    assert sum(len(picture.svg) for picture in section.pictures) < 1_000_000
