"""Opens the report of a run in headless Chromium and holds it to the run's record.

usage: check_report.py RUN [PICTURE]       (apt install chromium)

RUN is a directory that `finetune train` wrote. The page must load without a message on the console and without asking for
anything else, its tables must have every number of RUN/metrics.jsonl and RUN/evaluations.json as it stands there (runs of more
than 400 steps: those that are shown), the points of each curve must lie where their numbers are, and in light and dark the text must stand out
from the paper (a contrast of 4.5, WCAG 2.1 AA). PICTURE is a PNG to write, of the top of the page in light.
"""

import html.parser
import json
import pathlib
import re
import subprocess
import sys
import tempfile

CHROMIUM = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
            "--enable-logging=stderr"]


def chromium(*arguments):
    with tempfile.TemporaryDirectory() as profile:
        done = subprocess.run([*CHROMIUM, f"--user-data-dir={profile}", *arguments], capture_output=True, text=True, timeout=300)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert done.returncode == 0, done.stderr
    assert not console, console
    return done.stdout


class Page(html.parser.HTMLParser):
    """The cells of the tables by their ids, and the points of the curves as (id of the plot, curve, x, y, title)."""

    def __init__(self):
        super().__init__()
        self.tables, self.points, self.text = {}, [], ""
        self.table = self.cell = self.plot = self.point = None
        self.curve = 0
        self.outside = []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        for name in ("src", "href", "xlink:href"):
            if name in attributes:
                self.outside.append(attributes[name])
        if tag == "table":
            self.table = attributes.get("id")
            self.tables.setdefault(self.table, [])
        elif tag == "tr" and self.table:
            self.tables[self.table].append([])
        elif tag == "td":
            self.cell = ""
        elif tag == "svg":
            self.plot, self.curve = attributes["aria-labelledby"].split()[0].removesuffix("-title"), 0
        elif tag == "g":
            self.curve += 1
        elif tag == "circle":
            self.point = [self.plot, self.curve, float(attributes["cx"]), float(attributes["cy"]), ""]

    def handle_endtag(self, tag):
        if tag == "td" and self.table:
            self.tables[self.table][-1].append(self.cell)
        if tag == "td":
            self.cell = None
        elif tag == "table":
            self.table = None
        elif tag == "circle":
            self.points.append(self.point)
            self.point = None

    def handle_data(self, data):
        self.text += data
        if self.cell is not None:
            self.cell += data
        if self.point is not None:
            self.point[4] += data


def lines_of(table):
    return [line for line in table if line]


def check_points(page):
    """Each curve is a linear picture of its numbers: two points of it say where all others are, to a tenth of a pixel."""
    curves = {}
    for plot, curve, x, y, title in page.points:
        step, number = re.fullmatch(r"step (\d+): (.*)", title.strip()).groups()
        curves.setdefault((plot, curve), []).append((int(step), float(number), x, y))
    for name, points in curves.items():
        for at, drawn in ((0, 2), (1, 3)):
            least, most = min(points, key=lambda p: p[at]), max(points, key=lambda p: p[at])
            if least[at] == most[at]:
                continue
            slope = (most[drawn] - least[drawn]) / (most[at] - least[at])
            for point in points:
                where = least[drawn] + (point[at] - least[at]) * slope
                assert abs(where - point[drawn]) <= 0.11, (name, point, where)
            assert (slope > 0) == (drawn == 2), name
    return curves


def luminance(colour):
    channels = [int(colour[at:at + 2], 16) / 255 for at in (1, 3, 5)]
    channels = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * channels[0] + 0.7152 * channels[1] + 0.0722 * channels[2]


def check_colours(source):
    schemes = [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)) for block in re.findall(r":root \{(.*?)\}", source, re.S)]
    assert len(schemes) == 2, schemes
    for scheme in schemes:
        for paper in ("paper", "panel"):
            for ink in ("ink", "quiet", "one", "two"):
                light = sorted(luminance(scheme[name]) for name in (paper, ink))
                contrast = (light[1] + 0.05) / (light[0] + 0.05)
                assert contrast >= 4.5, (ink, paper, contrast)


def main():
    run, *picture = sys.argv[1:]
    run = pathlib.Path(run).resolve()
    url = (run / "report.html").as_uri()
    page = Page()
    page.feed(chromium("--dump-dom", url))
    assert not page.outside, page.outside
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = {line["step"]: line for line in lines if "loss" in line}
    shown = lines_of(page.tables["steps"])
    assert len(shown) == len(steps) or len(shown) >= 200, (len(shown), len(steps))
    for step, *numbers in shown:
        line = steps[int(step)]
        memory = line.get("peak_device_bytes", line["peak_rss_bytes"])
        expected = [line["loss"], line["lr"], line["grad_norm"], line["tokens_per_second"], memory]
        assert [float(number) for number in numbers] == expected, (step, numbers, expected)
    evaluations = run / "evaluations.json"
    evaluations = json.loads(evaluations.read_text())["evaluations"] if evaluations.exists() else []
    read = [[float(number) for number in line] for line in lines_of(page.tables.get("evaluations", []))]
    assert read == [[line["step"], line["evaluation"]["nll"], line["evaluation"]["perplexity"], line["seconds"],
                     line["peak_rss_bytes"]] for line in evaluations]
    curves = check_points(page)
    assert ("loss", 1) in curves and len(curves[("loss", 1)]) == len(shown)
    assert str([line for line in lines if "session" in line][-1]["session"]["planned_bytes"]) in page.text
    check_colours((run / "report.html").read_text())
    if picture:
        for path, scheme in ((picture[0], 1), (str(pathlib.Path(picture[0]).with_suffix(".dark.png")), 0)):
            chromium(f"--screenshot={path}", "--window-size=1000,1180", f"--blink-settings=preferredColorScheme={scheme}", url)
    print(f"{len(shown)} steps, {len(evaluations)} evaluations and {len(page.points)} points are the record's; the console is empty")


main()
