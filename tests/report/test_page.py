"""The report: all figures are there, nothing is loaded from elsewhere, what is missing is said, names stay text."""

import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from evaluated import CLASSES, evaluation, some_figure, write_evaluation
from helpers import ROOT
from PIL import Image

from bundle.evaluation.figures import figure
from bundle.report.evaluation_folder import read_evaluation
from bundle.report.measured import all_figures, numbers
from bundle.report.page import write_page
from bundle.report.summary import summarise
from bundle.runs.files import write_json

VOID = {"meta", "img", "br", "line", "rect", "circle", "polyline", "link", "input"}


class Page(HTMLParser):
    """What a test asks of a page: elements with their attributes, text, and whether tags are balanced."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.texts, self.open = [], [], []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        assert not self.open, f"not closed: {self.open}"
        # A word that is explained is an element of its own.
        self.text = re.sub(r" ([,.;:)])", r"\1", " ".join(" ".join(self.texts).split()))

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.texts.append(data)

    def of(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_evaluation(tmp_path_factory.mktemp("evaluated") / "evaluate")


def render(path, folder, **more):
    missing = write_page(path, folder, "The licence of everything.", "Research alone.", **more)
    return Page(path), missing


@pytest.fixture(scope="module")
def page(folder, tmp_path_factory):
    found, missing = render(tmp_path_factory.mktemp("page") / "report.html", folder)
    assert not missing
    return found


def test_every_figure_is_in_the_page_with_its_interval_and_its_floor(page):
    shown = {float(number) for attributes in page.of("data") for number in attributes["value"].split()}
    every = list(all_figures(evaluation()))
    assert len(every) == 2 * 3 * 2 + 3 + 10  # fidelity and agreement by class, stain by class, overall
    for _, _, _, found in every:
        assert set(numbers(found)) <= shown, found
    for text in ("5.12", "4.87 to 5.38", "1.71", "0.504", "of few images", "kid (title)", "What kid is."):
        assert text in page.text


def test_every_link_of_the_summary_leads_to_its_figure(page):
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    links = [attributes["href"] for attributes in page.of("a")]
    assert len(ids) == len(set(ids)) and len(links) > 12
    assert all(link[0] == "#" and link[1:] in ids for link in links)
    assert "agreement-class1-agreement-grey" in [link[1:] for link in links]  # the weakest is the second class


def test_verdict_and_pictures_lead_and_details_are_folded(page):
    places = [
        page.source.index(f'id="{name}"')
        for name in ("verdict", "images", "summary", "figures", "glossary", "appendix")
    ]
    assert places == sorted(places)
    folded = page.of("details")
    assert {one["class"] for one in folded} == {"section", "appendix"} and not any("open" in one for one in folded)
    before, appendix = page.source.split('<details class="appendix">')
    assert before.count('<section class="') == 3 and 'class="wide"' not in before and 'class="wide"' in appendix
    three = re.search(r"<ol>(.*?)</ol>", page.source, re.DOTALL)[1]
    assert three.count("<li>") == 3
    explained = {one["href"]: one["title"] for one in page.of("a") if one.get("class") == "term"}
    assert "#term-floor" in explained and all(explained.values())
    assert {one["title"] for one in page.of("abbr")} >= {"What kid is.", "What stain_distance is."}


def test_a_published_evaluation_lacks_real_tiles_and_nothing_else(tmp_path):
    folder = write_evaluation(tmp_path / "evaluate", {**evaluation(), "published": {"left_out": "real tiles"}})
    whole, _ = render(tmp_path / "whole.html", folder)
    assert len(whole.of("img")) == 8 and "This file holds real tiles" in whole.text  # where they are there
    for path in (*(folder / "grids").glob("*_real.png"), folder / "copies.png", folder / "nuclei.png"):
        path.unlink()
    (folder / "nearest.csv").unlink()
    page, missing = render(tmp_path / "report.html", folder)
    assert not missing and 'class="missing"' not in page.source and len(page.of("img")) == 3
    assert "published without the real tiles" in page.text and "This file holds real tiles" not in page.text
    (folder / "grids" / "TUM.png").unlink()
    _, missing = render(tmp_path / "report.html", folder)
    assert missing == ["grids/TUM.png is missing in evaluate"]


def test_the_published_evaluation_of_the_weights_is_whole(tmp_path):
    page, missing = render(tmp_path / "report.html", ROOT / "models" / "adapt_diffusion")
    assert not missing and 'class="missing"' not in page.source
    assert len(page.of("img")) == len(read_evaluation(ROOT / "models" / "adapt_diffusion")["compared"])


def test_nothing_is_loaded_from_elsewhere(page):
    for tag, attributes in page.elements:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base")
        for name in ("src", "href", "srcset", "data", "poster", "action", "background"):
            if tag != "data" and name in attributes:
                assert attributes[name].startswith(("#", "data:image/")), (tag, attributes[name][:80])
        assert not [name for name in attributes if name.startswith("on")]
    assert not re.search(r"url\(|@import|expression\(", page.source)


def test_it_can_be_read_by_those_who_do_not_see_it(page):
    assert all(attributes["alt"] for attributes in page.of("img")) and len(page.of("img")) == 8
    assert all(attributes["scope"] in ("row", "col") for attributes in page.of("th"))
    assert all("aria-label" in attributes or "aria-hidden" in attributes for attributes in page.of("svg"))
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(deeper - level <= 1 for level, deeper in zip(levels, levels[1:]))
    assert page.of("html") == [{"lang": "en"}] and {"charset": "utf-8"} in page.of("meta")


def test_the_card_says_what_it_is_and_what_nobody_measured(page):
    for text in (
        "The licence of everything.",
        "Research alone.",
        "The label of an image is the class it was asked for",
        "This file holds real tiles",
        "The images judged here are synthetic",
        "no study was given",
        "how the images look to a pathologist",
        "Congruence",
        "3 of 3 classes have images, 30 each",
        "consistency (",
    ):
        assert text in page.text, text
    scored = page.text.split("Scorecard")[-1].split("What was not measured")[0]
    assert "Consistency" not in scored and "Coverage" in scored


def test_confusion_matrices_stand_in_tables(page):
    assert page.source.count('class="confusion"') == 4
    assert page.source.count('class="asked">18<') == 4 * 3


def test_spreads_of_the_sets_share_a_scale(page):
    labels = [attributes["aria-label"] for attributes in page.of("svg") if "aria-label" in attributes]
    boxes = [label for label in labels if label.startswith("percentiles")]
    assert len(boxes) == 4 * 3  # all and three classes, three sets; the statistic without values is left out
    assert boxes[0] == "percentiles: 5th 0.150, 25th 0.250, 50th 0.360, 75th 0.400, 95th 0.500"
    lines = re.findall(r'class="median" x1="([\d.]+)"', page.source)
    assert [float(x) for x in lines[:2]] == [76.2, 62.7]  # 6 + (0.36, 0.31 - 0.1) / 0.4 of 108


def test_missing_sections_and_pictures_are_said_in_their_place(tmp_path):
    content = evaluation()
    for name in ("stain", "nuclei", "fidelity", "copies"):
        del content[name]
    folder = write_evaluation(tmp_path / "evaluate", content)
    (folder / "grids" / "LYM_real.png").unlink()
    (folder / "grids" / "TUM.png").write_bytes(b"no picture")
    page, missing = render(tmp_path / "report.html", folder)
    assert len(missing) == 2
    for text in ("Not measured: stain", "Not measured: nuclei", "Not measured: fidelity", "Not measured: copies"):
        assert text in page.text
    assert "LYM_real.png is missing in evaluate" in page.text and "TUM.png can't be read as a picture" in page.text
    assert "congruence (" in page.text and len(page.of("img")) == 4


def test_names_are_text(tmp_path):
    classes = ("<b>", "NORM", '"><script>alert(1)</script>')
    content = evaluation(classes)
    content["notes"].append("</style><img src=x onerror=alert(1)>")
    content["fidelity"] = {"<i>x</i>": content["fidelity"]["judge_grey"]}
    folder = tmp_path / "evaluate"
    folder.mkdir()
    write_json(folder / "evaluation.json", content)
    (folder / "nearest.csv").write_text("file,pixel_ratio,nearest_file\n<u>a</u>,0.5,<script>\n")
    page, _ = render(tmp_path / "report.html", folder)
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"b", "i", "u", "script", "img"}
    for text in ("<b>", '"><script>alert(1)</script>', "<i>x</i>", "<u>a</u>", "</style><img src=x onerror=alert(1)>"):
        assert text in page.text


def test_a_class_is_no_path(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
    folder = tmp_path / "evaluate"
    folder.mkdir()
    write_json(folder / "evaluation.json", evaluation(("../../secret", "NORM", "TUM")))
    page, missing = render(tmp_path / "report.html", folder)
    assert "lies outside the folder" in page.text and not page.of("img")


def test_a_blinded_reading_has_its_section(folder, tmp_path):
    figures = {"answered": 2, "unsure": 0, "seconds": 1.5, "auc": 0.75, "auc_third": None}
    share = {"count": 1, "of": 2, "value": 0.5, "interval": [0.0126, 0.9874]}
    of_arms = {arm: {"overall": share, "classes": {"TUM": share}} for arm in ("real", "synthetic")}
    of_arms["third"] = {"overall": None, "classes": {"TUM": None}}
    figures |= {"accuracy": {**share, "p": 1.0}, "called_synthetic": of_arms, "agreement": of_arms}
    patch = {"file": "TUM/TUM_1.png", "arm": "synthetic", "class": "TUM", "called_synthetic": 1, "readers": 1}
    patch |= {"seen": ["TUM"], "comments": [["<i>A", "<script>alert(1)</script>"]]}
    content = {"format": "histodiffusion-reading-result/1", "total": 2, "key_sha256": "ab" * 32, "classes": ["TUM"]}
    content |= {"settings": {"per_class": 1}, "readers": {"<i>A": figures}, "pooled": figures, "between": []}
    write_json(tmp_path / "result.json", {**content, "patches": [patch], "notes": ["A note of the reading."]})
    page, _ = render(tmp_path / "report.html", folder, reading_dir=tmp_path)
    for text in (
        "0.500 (0.013 to 0.987; 1 of 2)",
        "<i>A: <script>alert(1)</script>",
        "A note of the reading.",
        "ab" * 32,
    ):
        assert text in page.text, text
    assert not {tag for tag, _ in page.elements} & {"i", "script"}
    assert "how the images look to a pathologist" not in page.text


def test_equal_inputs_give_equal_bytes(folder, tmp_path):
    for name in ("a.html", "b.html"):
        render(tmp_path / name, folder)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_of_built_in_patches_it_says_everywhere_that_they_are_no_tissue(tmp_path):
    page, _ = render(tmp_path / "report.html", write_evaluation(tmp_path / "evaluate", evaluation(built_in=True)))
    assert "This file holds real tiles" not in page.text
    assert all("not tissue" in attributes["alt"] for attributes in page.of("img"))
    titles = re.findall(r"<h[12][^>]*>(.*?)</h[12]>|<title>(.*?)</title>", page.source)
    assert len(titles) > 10 and all("not tissue" in "".join(title) for title in titles)
    assert "trainedAlgorithmicMedia" not in page.source and "algorithmicMedia" in page.source


def test_the_summary_follows_the_figures(folder, page, tmp_path):
    assert (
        "Weakest by agreement without colour, beside real images, is NORM: the grey judge sees the asked class in 50 % "
        "of its images, and the right class in 93 % of the real ones. Strongest is LYM, with 91 % and 93 %."
        in page.text
    )
    assert (
        "NORM loses most without colour: the judge in colour agrees with 81 % of its images, the one in grey with 50 "
        "%; of the real ones with 95 % and 93 %." in page.text
    )
    assert "3.0 times as much (a difference beyond the intervals)" in page.text
    assert "By kid (title) in judge grey features, TUM exceeds its floor most: 0.050, where other" in page.text
    assert "NORM and TUM are unlike real images, beyond the intervals, in the most figures, 3 each." in page.text
    assert (
        "No image is flagged as a copy of a training image; of real images that were never trained on 5 %" in page.text
    )
    content = evaluation()
    content["agreement"]["classes"]["LYM"]["agreement_grey"] = some_figure(0.1, "floor", 0.12)  # nor the real ones
    content["agreement"]["classes"]["TUM"]["agreement_grey"] = some_figure(0.2, "floor", 0.9)
    content["floor"] |= {"part": "test", "half": "the other"}
    content["fidelity"]["judge_grey"]["overall"]["frechet"] = some_figure(1.0, floor=1.01)
    content["copies"]["overall"] = {"flagged": some_figure(0.25, floor=0.01), "identical": figure(3, 0)}
    shutil.copytree(folder, tmp_path / "evaluate")
    write_json(tmp_path / "evaluate" / "evaluation.json", content)
    other, _ = render(tmp_path / "report.html", tmp_path / "evaluate")
    assert "beside real images, is TUM: the grey judge sees the asked class in 20 %" in other.text
    assert (
        "1.00; that of real images (of the other half of the part test) is 1.01, which is more (a difference within "
        "the intervals)" in other.text
    )
    assert "those of the other half of the part test" in other.text and "those of the part unused" in page.text
    assert "3 of the images are training images pixel for pixel." in other.text
    assert "25 % of the images are flagged as copies" in other.text
    assert "never trained on 1 % are (a difference beyond the intervals). Look at the pairs" in other.text


def test_no_class_is_called_weak_that_lacks_nothing():
    content = evaluation()
    for of in content["agreement"]["classes"].values():
        of["agreement_grey"] = some_figure(0.2, "floor", 0.2)
    texts = [sentence.text for sentence in summarise(content)]
    assert "By agreement without colour no class falls behind its real images." in texts
    content["agreement"]["classes"] = {"LYM": {"agreement_grey": some_figure(0.2, "floor", 0.3)}}
    (text,) = (sentence.text for sentence in summarise(content) if "Weakest" in sentence.text)
    assert text.endswith("in 20 % of its images, and the right class in 30 % of the real ones.")


def test_the_closest_pairs_come_first(page):
    assert "The 24 images with the smallest ratio, of 30 in nearest.csv" in page.text
    cells = re.findall(r"LYM/LYM_(\d+)\.png", page.text)
    assert cells == [str(number) for number in range(29, 5, -1)]


@pytest.mark.parametrize(
    "content, error",
    [({"format": "other/1"}, "other/1"), ({"format": evaluation()["format"]}, "'synthetic'"), ([], "list")],
)
def test_what_is_no_evaluation_is_refused(tmp_path, content, error):
    write_json(tmp_path / "evaluation.json", content)
    with pytest.raises(ValueError, match=error):
        write_page(tmp_path / "report.html", tmp_path, "", "")
    assert not (tmp_path / "report.html").exists()


def test_a_large_picture_is_made_smaller(tmp_path, folder):
    import numpy as np

    shutil.copytree(folder, tmp_path / "evaluate")
    noise = np.random.default_rng(0).integers(0, 256, (900, 900, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "evaluate" / "copies.png")
    page, _ = render(tmp_path / "report.html", tmp_path / "evaluate")
    assert "re-encoded as JPEG" in page.text
    assert len([image for image in page.of("img") if image["src"].startswith("data:image/jpeg")]) == 1


MEASURE = """<script>
addEventListener("load", () => {
  const broken = [...document.images].filter(image => !image.naturalWidth).length;
  parent.postMessage(`${document.documentElement.scrollWidth} ${innerWidth} ${broken}`, "*");
});
</script></body>"""
# A browser's window is never as narrow as a phone, but a frame in it can be.
FRAME = """<!doctype html><body style="margin:0"><script>
addEventListener("message", event => { document.body.dataset.measured = event.data; });
</script><iframe src="measured.html" style="width:WIDTHpx;height:880px;border:0;display:block"></iframe></body>"""


def test_in_a_browser_without_a_network(page, folder, tmp_path):
    """Opened in a real browser: no error, nothing wider than a phone, pages of A4."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    browser = next((found for name in names if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"no browser to look at the report with: none of {', '.join(names)} is installed")
    (tmp_path / "report.html").write_text(page.source, encoding="utf-8")
    policy = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
    assert len(policy.findall(page.source)) == 1
    measured = policy.sub("", page.source).replace("</body>", MEASURE)
    (tmp_path / "measured.html").write_text(measured, encoding="utf-8")

    def browse(file, width, *arguments):
        command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'profile'}"]
        command += [f"--window-size={width},900", "--enable-logging=stderr", *arguments, (tmp_path / file).as_uri()]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    for width in (360, 1200):
        (tmp_path / f"{width}.html").write_text(FRAME.replace("WIDTH", str(width)), encoding="utf-8")
        found = browse(f"{width}.html", width, "--dump-dom", f"--screenshot={tmp_path / f'{width}.png'}")
        measured = re.search(r'data-measured="(\d+) (\d+) (\d+)"', found.stdout)
        assert measured, found.stderr[-2000:]
        assert int(measured[1]) <= int(measured[2]) == width and measured[3] == "0"
    printed = browse("report.html", 1200, "--no-pdf-header-footer", f"--print-to-pdf={tmp_path / 'report.pdf'}")
    assert ":CONSOLE" not in printed.stderr, printed.stderr[-2000:]
    content = (tmp_path / "report.pdf").read_bytes()
    boxes = re.findall(rb"/MediaBox\s*\[0 0 ([\d.]+) ([\d.]+)\]", content)
    assert 3 <= len(boxes) <= 8
    assert all(abs(float(width) - 595) < 1 and abs(float(height) - 842) < 1 for width, height in boxes)
    for width in (360, 1200):
        with Image.open(tmp_path / f"{width}.png") as screenshot:
            assert screenshot.width == width and len(screenshot.getcolors(1_000_000)) > 20
    assert CLASSES[0] in page.text
