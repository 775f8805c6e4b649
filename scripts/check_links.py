"""Checks that every relative link leads to a file and every anchor to a place in it.

usage: python scripts/check_links.py [BOOK]

Looks through the Markdown files that git knows, as the repository's site shows them, and, if BOOK names a built book,
through its HTML pages. Links to this repository's own site are held to the working tree. Other addresses are not fetched.
"""

import html.parser
import pathlib
import re
import subprocess
import sys
import urllib.parse

OWN = "https://github.com/burn-qlora/burn-qlora/blob/main/"


class Page(html.parser.HTMLParser):
    """The links and the anchors of an HTML page."""

    def __init__(self, path):
        super().__init__()
        self.links, self.anchors = [], set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name in ("href", "src") and tag != "base":
                self.links.append(value or "")
            elif name in ("id", "name"):
                self.anchors.add(value)


class Markdown:
    """The links and the anchors of a Markdown file, the latter as GitHub makes them of headings."""

    def __init__(self, path):
        text = re.sub(r"^( *)(```+|~~~+).*?^\1\2", "", path.read_text(), flags=re.M | re.S)
        self.anchors = set()
        for heading in re.findall(r"^#+ +(.+?) *#*$", text, re.M):
            words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
            slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
            same = sum(1 for anchor in self.anchors if re.fullmatch(re.escape(slug) + r"(-\d+)?", anchor))
            self.anchors.add(f"{slug}-{same}" if same else slug)
        text = re.sub(r"`[^`\n]*`", "", text)
        self.links = re.findall(r"\]\(\s*<?([^)\s>]+)", text) + re.findall(r"^\[[^]]+\]: *(\S+)", text, re.M)


def broken(files, read, root):
    """Yields a line for each link of `files` that leads nowhere."""
    pages = {path.resolve(): read(path) for path in files}
    for path, page in pages.items():
        for link in page.links:
            base = path.parent
            if link.startswith(OWN):
                link, base = link[len(OWN) :], root
            url = urllib.parse.urlsplit(link)
            if url.scheme or url.netloc:
                continue
            target = (base / urllib.parse.unquote(url.path)).resolve() if url.path else path
            if not target.exists():
                yield f"{path}: {link}: there is no {target}"
            elif url.fragment and target.suffix == path.suffix:
                anchors = pages[target].anchors if target in pages else read(target).anchors
                if urllib.parse.unquote(url.fragment) not in anchors:
                    yield f"{path}: {link}: {target.name} has no such heading"


def main():
    root = pathlib.Path(__file__).resolve().parent.parent
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    listed = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    markdown = [root / name for name in listed.splitlines() if (root / name).is_file()]
    faults = list(broken(markdown, Markdown, root))
    pages = []
    if len(sys.argv) > 1:
        # These are shown at other addresses than their own.
        moved = ("404.html", "print.html", "toc.html")
        pages = [path for path in pathlib.Path(sys.argv[1]).rglob("*.html") if path.name not in moved]
        faults += broken(pages, Page, root)
    for fault in faults:
        print(fault, file=sys.stderr)
    if faults:
        sys.exit(f"{len(faults)} broken links")
    print(f"links: {len(markdown)} Markdown files and {len(pages)} pages are whole")


if __name__ == "__main__":
    main()
