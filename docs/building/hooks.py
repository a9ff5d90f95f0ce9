"""Hooks of MkDocs. They insert help texts, and add pages and pictures to the site that are not in docs/.

A line `::help train` is replaced by the output of `dormant train --help`.

CHANGELOG.md, CONTRIBUTING.md and LOG.md become pages. A link such as `../results/pilot/page.png` works in the
repository and on the site: the file is copied into the site's folder `repository/`.
"""

import contextlib
import io
import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
PAGES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md", "LOG.md": "log.md"}
HELP = re.compile(r"^::help (.+)$", re.MULTILINE)
NOTEBOOK_LINK = re.compile(r'<a href="([^":]+)\.(?:md|ipynb)(?=["#])')
LINK = re.compile(r"(?<=\]\()(?!https?:)([^)#\s]+)(?=[)#])")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages, and every file outside of docs/ to which a page links."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    for page in list(files.documentation_pages()):
        if page.abs_src_path and page.abs_src_path.endswith(".md"):
            for target in outside(Path(page.abs_src_path)):
                uri = f"repository/{target.relative_to(ROOT).as_posix()}"
                if files.get_file_from_path(uri) is None:
                    files.append(File.generated(config, uri, abs_src_path=str(target)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Returns the text with help texts inserted, and with each link changed to the page or copy on the site."""
    source = page.file.abs_src_path
    if not source or not source.endswith(".md"):
        return markdown
    markdown = HELP.sub(lambda line: f"```text\n{help_of(line[1].split())}\n```", markdown)
    return LINK.sub(lambda link: address(link[1], Path(source), page.file.src_uri), markdown)


def help_of(words: list[str]) -> str:
    """Returns what `dormant WORDS --help` prints."""
    from dormant.cli import run  # imported only for the page that needs it, because it loads JAX

    before, text = os.environ.get("COLUMNS"), io.StringIO()
    os.environ["COLUMNS"] = "96"
    try:
        with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
            run([*words, "--help"])
    finally:
        os.environ.pop("COLUMNS")
        os.environ.update({"COLUMNS": before} if before else {})
    return "\n".join(line.rstrip() for line in text.getvalue().strip().splitlines())


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Returns the HTML of a page. In a notebook, changes links to .md and .ipynb files into links to pages."""
    return NOTEBOOK_LINK.sub(r'<a href="\1.html', html) if page.file.src_uri.endswith(".ipynb") else html


def outside(page: Path) -> list[Path]:
    """Returns the files outside of docs/ to which a page links. Raises PluginError if a link has no file."""
    targets = [resolved(link, page) for link in LINK.findall(page.read_text())]
    found = [target for target in targets if not in_docs(target) and name(target) not in PAGES]
    for target in found:
        if not target.is_file():
            raise PluginError(f"{page.relative_to(ROOT)} links to {target}, which is not a file of this repository.")
    return found


def address(link: str, source: Path, uri: str) -> str:
    """Returns where a link leads on the site, relative to the page with the address `uri`.

    `link` is relative to the file `source`.
    """
    target = resolved(link, source)
    if in_docs(target):
        place = target.relative_to(ROOT / "docs").as_posix()
    else:
        place = PAGES.get(name(target), f"repository/{name(target)}")
    return os.path.relpath(place, os.path.dirname(uri) or ".")


def resolved(link: str, page: Path) -> Path:
    return Path(os.path.normpath(page.parent / link))


def in_docs(target: Path) -> bool:
    return target.is_relative_to(ROOT / "docs")


def name(target: Path) -> str:
    return target.relative_to(ROOT).as_posix()
