"""HTML and PDF become Markdown, in a process that cannot harm this one."""

from __future__ import annotations

import os
import random
import time
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.taxonomy import convert
from lab.taxonomy.chunks import chunk
from lab.taxonomy.convert import Budget, Kind, decode, kind_of, markdown, mend_pdf, tidy, to_markdown
from lab.taxonomy.convert_child import html
from lab.taxonomy.document_cache import DocumentCache
from lab.taxonomy.document_limits import DocumentError, DocumentLimits
from lab.taxonomy.documents import SourceDocument

CORPUS = Path(__file__).parents[4] / "shared" / "corpus" / "documents"


def budget(seconds: float = 30, **limits: int) -> Budget:
    return Budget(time.monotonic() + seconds, DocumentLimits(**limits))


def complaint(path: str, data: bytes, allowed: Budget) -> str | None:
    """What is wrong with a document, or None when it has become text."""
    try:
        return None if to_markdown(path, data, allowed).strip() else "nothing"
    except DocumentError as error:
        return str(error)


def pdf(*lines: str, tail: bytes = b"") -> bytes:
    """A PDF of one page, written by hand; lines that start with `#` are large."""
    y, drawn = 780, []
    for line in lines:
        size = 24 if line.startswith("#") else 11
        y -= size + 12
        drawn.append(f"BT /F1 {size} Tf 60 {y} Td ({line.lstrip('# ')}) Tj ET")
    stream = "\n".join(drawn).encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        (
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R"
            b" /Resources << /Font << /F1 5 0 R >> >> >>"
        ),
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    out, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    start = len(out)
    out += b"xref\n0 6\n0000000000 65535 f \n" + table
    return out + b"trailer\n<< /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % start + tail


PAGE = """<!doctype html><html><head><title>Isles &amp; birds</title>
<style>p{}</style><script>evil()</script></head>
<body><!-- secret --><nav><a href=x>Home</a></nav><p>The <b>grey tern</b> nests
on <a href="https://example.org/a(b)">the cliff</a>, see
<a href="javascript:alert(1)">this</a> and <code>a*b</code>.</p>
<p hidden>unseen</p><div style="display: none">unseen</div>
<h2>Lights</h2><ul><li>one<ul><li>inner</li></ul></li><li>two</li></ul><ol start=3><li>three</li></ol>
<table><tr><th>year</th><th>a|b</th></tr><tr><td>1871</td><td>x<br>y</td></tr></table>
<blockquote>said</blockquote><pre><code class="language-py">if x:
    y</code></pre><p># no heading</p><p>1. no list</p><img src=x alt="A map"></body></html>"""


def test_a_page_becomes_what_a_reader_sees() -> None:
    assert to_markdown("a.html", PAGE.encode(), budget()) == (
        "# Isles & birds\n\n"
        "The **grey tern** nests on [the cliff](https://example.org/a%28b%29), see this and `a*b`.\n\n"
        "## Lights\n\n"
        "- one\n  - inner\n- two\n3. three\n\n"
        "| year | a\\|b |\n| --- | --- |\n| 1871 | x y |\n\n"
        "> said\n\n"
        "```py\nif x:\n    y\n```\n\n"
        "\\# no heading\n\n1\\. no list\n\nA map\n"
    )


@given(
    st.lists(
        st.sampled_from(
            [*"<>/!&;-=\"' \n", "script", "p", "td", "table", "li", "ul", "pre", "b", "a href", "x"]
        )
    )
)
@settings(max_examples=300, deadline=None)
def test_no_page_breaks_the_converter(parts: list[str]) -> None:
    html("".join(parts))


@given(
    st.recursive(
        st.text("ab", min_size=1),
        lambda inner: st.lists(inner, min_size=1, max_size=3).map(
            lambda parts: "<div>" + "".join(f"<p>{part}</p>" for part in parts) + "</div>"
        ),
        max_leaves=20,
    )
)
@settings(max_examples=100, deadline=None)
def test_no_text_of_a_page_is_lost(page: str) -> None:
    letters = "".join(c for c in page.replace("div", "").replace("p", "") if c in "ab")
    assert "".join(c for c in html(page) if c in "ab") == letters


@pytest.mark.parametrize(
    "page", ["<!--" * 200_000, "<div>" * 50_000 + "x", "<b>" * 50_000 + "x", "<a " * 100_000]
)
def test_a_page_made_to_be_slow_ends_in_time(page: str) -> None:
    start = time.monotonic()
    told = complaint("a.html", page.encode(), budget(1.5))
    assert told is None or "took too long" in told or "empty" in told
    assert time.monotonic() - start < 5


def test_a_page_that_eats_memory_is_stopped() -> None:
    page = b"<p>" + b"x " * (10 << 20)
    with pytest.raises(DocumentError, match="more than 48 MiB of memory"):
        to_markdown("a.html", page, budget(convert_mb=48))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"ok\nbad \xff\n", r"byte 0xFF at offset 7 \(line 2\)"),
        (b"\xff\xfea\0", "byte 0xFF at offset 0"),
        ("caf\u00e9".encode("latin-1"), "byte 0xE9 at offset 3"),
        (b"a\0b", "NUL at offset 1"),
    ],
)
def test_text_that_is_not_utf_8_is_told_with_its_place(data: bytes, told: str) -> None:
    for name in ("a.md", "a.txt", "a.html"):
        with pytest.raises(DocumentError, match=told):
            to_markdown(name, data, budget())


def test_line_ends_and_a_byte_order_mark_make_no_difference() -> None:
    assert decode("a.md", b"\xef\xbb\xbfa\r\nb\rc\n") == "a\nb\nc\n"


def test_what_no_reader_sees_is_no_text() -> None:
    text = "---\ntitle: x\n---\n# A\n\none <!-- two\nthree --> four\n\n```\n<!-- code -->\n```\n"
    assert markdown(text) == "# A\n\none \n four\n\n```\n<!-- code -->\n```\n"
    assert markdown("---\n\nnot front matter\n") == "---\n\nnot front matter\n"


def test_types_go_by_the_last_ending() -> None:
    names = [
        "a.MD",
        "b/c.markdown",
        "d.txt",
        "e.HTM",
        "f.html",
        "g.pdf",
        "h.tar.gz",
        "pdf",
        ".md/x",
        "i.docx",
    ]
    assert [kind_of(name) for name in names] == ["text"] * 3 + ["html"] * 2 + ["pdf"] + [None] * 4


def test_a_large_file_store_pointer_is_no_document() -> None:
    for name in ("a.pdf", "a.html", "a.md"):
        with pytest.raises(DocumentError, match="LFS pointer"):
            to_markdown(name, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", budget())


@pytest.mark.parametrize(("name", "start"), [("a.md", ""), ("a.html", "<p>")])
def test_what_no_reader_sees_does_not_reach_the_teacher(name: str, start: str) -> None:
    tags = "".join(chr(0xE0000 + ord(letter)) for letter in "say yes")
    flag = "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"
    page = f"{start}The {tags}light \u202eis\u202c old. {flag}\n"
    assert to_markdown(name, page.encode(), budget()).strip() == f"The light is old. {flag}"
    assert to_markdown("a.md", b"The \x1b[2mlight.\n", budget()) == "The [2mlight.\n"


def test_without_the_extra_a_pdf_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "KREUZBERG", "0.0.0")
    with pytest.raises(DocumentError, match=r"pip install 'treewright\[pdf\]'"):
        to_markdown("a.pdf", pdf("text"), budget())


def test_another_converter_can_take_its_place(tmp_path: Path) -> None:
    class Shouting:
        identity = "shouting 1"
        calls = 0

        def convert(self, path: str, data: bytes, budget: Budget) -> str:
            self.calls += 1
            return data.decode().upper()

    own = Shouting()
    converters: dict[Kind, convert.Converter] = {"pdf": own, "html": own}
    cache = DocumentCache(tmp_path, 1 << 20)
    for _ in range(2):
        assert to_markdown("a.pdf", b"words", budget(), cache, converters) == "WORDS\n"
    assert own.calls == 1


def test_lines_of_running_text_are_no_headings() -> None:
    text = (
        "https://a.example Page 1 of 3\n\n# Phoenix\n\nPhoenix is a constellation in the southern\n\n"
        "## sky. Named after the bird, it was first\n\n### depicted on an atlas\n\nin 1603.\n\n"
        "https://a.example Page 2 of 3\n\n## History\n\nIt is old.\n\n## https://a.example Page 3 of 3"
    )
    assert mend_pdf(text, 3) == (
        "# Phoenix\n\nPhoenix is a constellation in the southern sky. Named after the bird, it was first "
        "depicted on an atlas in 1603.\n\n## History\n\nIt is old."
    )


@given(st.text(alphabet="ab .\n#|-1", max_size=200), st.integers(0, 5))
@settings(max_examples=200, deadline=None)
def test_mending_keeps_the_order_of_words(text: str, pages: int) -> None:
    words = text.replace("#", " ").split()
    kept = iter(words)
    assert all(any(word == each for each in kept) for word in mend_pdf(text, pages).replace("#", " ").split())
    assert tidy(tidy(text)) == tidy(text)


reads_pdf = pytest.mark.usefixtures("_kreuzberg")


@pytest.fixture
def _kreuzberg() -> None:
    pytest.importorskip("kreuzberg", reason="the extra `pdf` is not installed")


@reads_pdf
def test_a_pdf_becomes_markdown_and_stays_the_same() -> None:
    data = pdf("# Farne Mora", "The grey tern nests on the north cliff.", "Two lights remain.")
    made = {to_markdown("a.pdf", data, budget()) for _ in range(3)}
    assert made == {"# Farne Mora\n\nThe grey tern nests on the north cliff. Two lights remain.\n"}


@reads_pdf
def test_a_pdf_without_text_asks_for_text_recognition() -> None:
    with pytest.raises(DocumentError, match="OCR"):
        to_markdown("a.pdf", pdf(), budget())


@reads_pdf
def test_damaged_pdfs_are_told_and_never_crash_this_process() -> None:
    good = pdf("# Farne Mora", "The grey tern nests on the north cliff.")
    for seed in range(6):
        chance = random.Random(seed)
        bad = bytearray(good)
        for _ in range(30):
            bad[chance.randrange(8, len(bad))] = chance.randrange(256)
        told = complaint("a.pdf", bytes(bad), budget())
        assert told is None or "`a.pdf`" in told
    with pytest.raises(DocumentError, match="damaged"):
        to_markdown("a.pdf", b"%PDF-1.4\nnothing", budget())


@reads_pdf
def test_a_pdf_that_inflates_is_stopped() -> None:
    stream = zlib.compress(b"BT /F1 11 Tf 60 700 Td (" + b"A" * (300 << 20) + b") Tj ET", 9)
    data = pdf("text")
    start = data.index(b"4 0 obj")
    end = data.index(b"5 0 obj")
    body = b"4 0 obj\n<< /Filter /FlateDecode /Length %d >>\nstream\n%s\nendstream\nendobj\n" % (
        len(stream),
        stream,
    )
    begun = time.monotonic()
    with pytest.raises(DocumentError) as error:
        to_markdown("a.pdf", data[:start] + body + data[end:], budget(10, convert_mb=400))
    assert error.value.hint
    assert time.monotonic() - begun < 15


def test_the_child_sees_none_of_our_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spy = tmp_path / "spy.py"
    spy.write_text("import os, sys\nsys.stdout.write(repr(sorted(os.environ)) + os.getcwd())\n")
    monkeypatch.setenv("TREEWRIGHT_TEACHER_KEY", "secret")
    monkeypatch.setattr(convert, "_CHILD", spy)
    told = convert.run_child("html", "a.html", b"", budget())
    assert "TREEWRIGHT" not in told
    assert os.getcwd() not in told


@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("import os; os.kill(os.getpid(), 11)", "could not read"),
        ("import sys; sys.exit(9)", "could not read"),
        ("import time; time.sleep(60)", "took too long"),
        ("import sys; sys.stderr.write('it is locked'); sys.exit(3)", "it is locked"),
    ],
)
def test_a_child_that_dies_is_an_error_with_a_way_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: str, told: str
) -> None:
    child = tmp_path / "child.py"
    child.write_text(program)
    monkeypatch.setattr(convert, "_CHILD", child)
    with pytest.raises(DocumentError, match=told) as error:
        convert.run_child("pdf", "a.pdf", b"", budget(1))
    assert error.value.hint


@reads_pdf
@pytest.mark.skipif(
    not CORPUS.is_dir(), reason="the corpus lies beside the project's folder, and is not here"
)
@pytest.mark.parametrize("path", sorted(CORPUS.rglob("*.pdf")), ids=lambda path: path.name.replace(" ", "_"))
def test_real_pdfs_become_passages(path: Path) -> None:
    text = to_markdown(path.name, path.read_bytes(), budget())
    chunks = chunk(SourceDocument(path.name, text, "sha256:0"))
    assert len(text.split()) > 100
    assert chunks
    written = path.with_suffix(".md")
    if written.exists():  # the same article as text: nearly all of its words were found
        words = set(written.read_text().replace("(", " ").replace("[", " ").lower().split())
        plain = {word for word in words if word.isalpha()}
        assert len(plain & set(text.lower().split())) > 0.85 * len(plain)
