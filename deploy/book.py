"""A preprocessor of mdBook: pages of the repository that docs/ links to become pages of the book.

In: the book as JSON on standard input, docs/ and the files around it. Out: the book with a last part of these pages, and
with links to them. Must not do: write files.
"""

from __future__ import annotations

import json
import posixpath
import re
import sys
from pathlib import Path

LINK = re.compile(r"`[^`]*`|\]\(([^)\s]+)\)")
LANGUAGES = {".yaml": "yaml", ".json": "json", ".py": "python", ".sh": "sh", ".toml": "toml", ".tpl": "yaml"}


class Book:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.added: dict[str, dict] = {}
        self.waiting: list[str] = []

    def chapter_of(self, path: str) -> str:
        """Where a file of the repository is in the book; it is added if it is not under docs/."""
        if path == "docs" or path.startswith("docs/"):
            inside = posixpath.relpath(path, "docs")
            if (self.root / path).is_dir():
                inside = posixpath.join(inside, "README.md")
            return posixpath.normpath(inside)
        file = self.root / path
        if file.is_dir() and (file / "README.md").exists():
            path = posixpath.normpath(posixpath.join(path, "README.md"))
        if path not in self.added:
            self.added[path] = {}
            self.waiting.append(path)
        if path.endswith("README.md"):
            return posixpath.join("repository", path[: -len("README.md")] + "index.md")
        return posixpath.join("repository", path if path.endswith(".md") else path + ".md")

    def linked(self, text: str, path: str, chapter: str) -> str:
        """The text of a page with its links as the book needs them."""
        fenced = False
        lines = []
        for line in text.split("\n"):
            if line.lstrip().startswith("```"):
                fenced = not fenced
            lines.append(line if fenced else LINK.sub(lambda link: self.link(link, path, chapter), line))
        return "\n".join(lines)

    def link(self, link: re.Match[str], path: str, chapter: str) -> str:
        if link[1] is None:
            return link[0]  # code
        target, mark, anchor = link[1].partition("#")
        if not target or ":" in target:
            return link[0]
        there = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
        if there.startswith("..") or not (self.root / there).exists():
            raise SystemExit(f"{path}: there is no {target}")
        found = self.chapter_of(there)
        if found.endswith("README.md"):
            found = found[: -len("README.md")] + "index.md"
        relative = posixpath.relpath(found, posixpath.dirname(chapter) or ".")
        return f"]({relative}{mark}{anchor})"

    def walk(self, items: list) -> None:
        for item in items:
            chapter = item.get("Chapter") if isinstance(item, dict) else None
            if chapter and chapter.get("source_path"):
                path = posixpath.join("docs", chapter["source_path"])
                chapter["content"] = self.linked(chapter["content"], path, chapter["path"])
                self.walk(chapter["sub_items"])

    def neighbours(self) -> list:
        while self.waiting:
            path = self.waiting.pop()
            file = self.root / path
            chapter = self.chapter_of(path)
            if path.endswith(".md"):
                content = self.linked(file.read_text(), path, chapter)
                name = content.split("\n", 1)[0].lstrip("# ") or path
            elif file.is_dir():
                inside = sorted(one.name for one in file.iterdir() if not one.name.startswith("."))
                content = f"# {path}\n\n" + "".join(f"- `{name}`\n" for name in inside)
                name = path
            else:
                language = LANGUAGES.get(file.suffix, "text")
                content = f"# {path}\n\n````{language}\n{file.read_text().rstrip()}\n````\n"
                name = path
            if path.endswith(".md"):
                name = f"{name} ({path})" if path.count("/") else name
            self.added[path] = {
                "Chapter": {
                    "name": name, "content": content, "number": None, "sub_items": [],
                    "path": chapter, "source_path": None, "parent_names": [],
                }
            }
        return [self.added[path] for path in sorted(self.added)]


def main() -> None:
    if len(sys.argv) > 1 and sys.argv[1] == "supports":
        return
    context, content = json.load(sys.stdin)
    book = Book(Path(context["root"]))
    book.walk(content["items"])
    added = book.neighbours()
    if added:
        content["items"] += [{"PartTitle": "In the repository"}, *added]
    json.dump(content, sys.stdout)


main()
