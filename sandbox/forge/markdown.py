"""GitHub-flavoured Markdown of contributed text as safe HTML.

Two layers, because either alone has had holes elsewhere: markdown-it-py renders, then nh3 keeps only what is
on the list below. Raw HTML is allowed in so far as nh3 allows it, since comments fold with `<details>`.
"""

from __future__ import annotations

import re

import nh3
from markdown_it import MarkdownIt
from markdown_it.token import Token
from mdit_py_plugins.tasklists import tasklists_plugin

_TAGS = {
    "a", "b", "blockquote", "br", "caption", "code", "dd", "del", "details", "div", "dl", "dt", "em",
    "h1", "h2", "h3", "h4", "h5", "h6", "hr", "i", "img", "input", "ins", "kbd", "li", "ol", "p", "pre",
    "s", "samp", "span", "strong", "sub", "summary", "sup", "table", "tbody", "td", "th", "thead", "tr",
    "ul", "var",
}  # fmt: skip
_ATTRIBUTES = {
    "*": {"align", "title"},
    "a": {"href"},
    "code": {"class"},
    "details": {"open"},
    "img": {"alt", "height", "src", "width"},
    "input": {"checked", "disabled", "type"},
    "li": {"class"},
    "ol": {"start"},
    "span": {"class"},
    "td": {"align", "colspan", "rowspan"},
    "th": {"align", "colspan", "rowspan"},
    "ul": {"class"},
}
_CLASS = re.compile(r"(mention|contains-task-list|task-list-item(-checkbox)?|language-[\w+-]{1,30})\Z")
_MENTION = re.compile(r"(?<![\w/@.`-])@([A-Za-z0-9](?:[A-Za-z0-9-]{0,37}[A-Za-z0-9])?)(?![\w@/])")

_ENGINE = (
    MarkdownIt("commonmark", {"html": True, "linkify": True})
    .enable(["linkify", "strikethrough", "table"])
    .use(tasklists_plugin)
)


def _attribute(tag: str, name: str, value: str) -> str | None:
    if name == "class":
        kept = [word for word in value.split() if _CLASS.match(word)]
        return " ".join(kept) or None
    if tag == "input" and name == "type" and value != "checkbox":
        return "checkbox"
    return value


def _mentions(tokens: list[Token]) -> None:
    """`@name` in running text becomes a marked word; never inside code or a link."""
    for token in tokens:
        inside_link = 0
        children: list[Token] = []
        for child in token.children or []:
            inside_link += {"link_open": 1, "link_close": -1}.get(child.type, 0)
            if child.type != "text" or inside_link or "@" not in child.content:
                children.append(child)
                continue
            position = 0
            for match in _MENTION.finditer(child.content):
                children.append(_text(child.content[position : match.start()]))
                mark = Token("html_inline", "", 0)
                mark.content = f'<span class="mention">@{match[1]}</span>'
                children.append(mark)
                position = match.end()
            children.append(_text(child.content[position:]))
        if token.children:
            token.children = children


def _text(content: str) -> Token:
    token = Token("text", "", 0)
    token.content = content
    return token


def render(source: str) -> str:
    """HTML that is safe to put into a page; the pages' policy keeps images to this forge."""
    environment: dict[str, object] = {}
    tokens = _ENGINE.parse(source[:262144], environment)
    _mentions(tokens)
    html = _ENGINE.renderer.render(tokens, _ENGINE.options, environment)
    return nh3.clean(
        html, tags=_TAGS, attributes=_ATTRIBUTES, attribute_filter=_attribute, strip_comments=True,
        url_schemes={"http", "https", "mailto"}, link_rel="nofollow noopener noreferrer",
    )  # fmt: skip
