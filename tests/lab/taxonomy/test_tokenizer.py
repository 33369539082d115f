"""Tokens counted by the teacher's own tokenizer: in lint, in chunks, in the cost; and files that are none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from typer.testing import CliRunner

from lab.config import RepositoryConfig
from lab.taxonomy import examples, sizes
from lab.taxonomy.chunks import CHUNK_TOKENS, cut
from lab.taxonomy.documents import SourceDocument
from lab.taxonomy.lint import lint
from lab.taxonomy.sizes import ESTIMATE, Tokens
from lab.taxonomy.tokenizer import VARIABLE, TokenizerError, teacher_tokens
from lab.taxonomy.tree import FilesTree
from treewright.cli import app

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE of our own training, as small as a test may have it."""
    texts = [path.read_text("utf-8") for path in sorted(EXAMPLES.rglob("*.md"))]
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2000, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    made.train_from_iterator(texts, trainer)
    made.enable_truncation(8)  # as many published files have it; counting must not stop there
    place = tmp_path_factory.mktemp("teacher") / "tokenizer.json"
    made.save(str(place))
    return place


@pytest.fixture(scope="module")
def counted(file: Path) -> Tokens:
    return teacher_tokens({VARIABLE: str(file)})


def test_a_folder_or_a_file_names_the_tokenizer_and_nothing_means_the_estimate(file: Path) -> None:
    assert teacher_tokens({}) is ESTIMATE
    by_file, by_folder = teacher_tokens({}, file), teacher_tokens({VARIABLE: str(file.parent)})
    assert by_file.digest == by_folder.digest
    assert by_file.counted
    long = "The ferry to Farne Mora leaves at noon. " * 20
    assert by_file.count(long) > 100  # truncation in the file does not cut the count
    assert by_file.count("lone surrogate \ud800 and 灯塔") > 0


def test_size_rules_count_with_the_tokenizer_and_say_so(counted: Tokens) -> None:
    text = examples.KNOWLEDGE.replace("Vik has 6 lights;", "Vik has 6 lights " + "灯塔" * 500 + ";")
    tree = FilesTree({"knowledge/a/b/qna.yaml": text.encode()})

    def told(tokens: Tokens) -> str:
        found = lint(tree, RepositoryConfig(), tokens=tokens).findings
        return next(one.message for one in found if one.rule == "context-length")

    assert "about 1012 tokens (estimated)" in told(ESTIMATE)
    # A character of three bytes that the vocabulary does not have is three tokens.
    assert "tokens (counted with the teacher's tokenizer)" in told(counted)
    assert int(told(counted).split(" has ")[1].split()[0]) > 2900


def test_passages_hold_at_most_the_tokens_that_they_should(counted: Tokens) -> None:
    paragraphs = [f"Paragraph {n} says that the ferry of day {n} was late. " * 6 for n in range(40)]
    document = SourceDocument("a.md", "# Ferries\n\n" + "\n\n".join(paragraphs), "sha256:0")
    pieces = cut(document, counted)
    sizes_ = [counted.count(piece.text) for piece in pieces]
    assert max(sizes_) <= CHUNK_TOKENS
    assert min(sizes_[:-1]) > CHUNK_TOKENS / 3
    assert [piece.id for piece in cut(document, counted)] == [piece.id for piece in pieces]
    assert [piece.text for piece in cut(document)] != [piece.text for piece in pieces]


def test_the_estimate_is_within_a_quarter_of_a_real_tokenizer_on_english(file: Path) -> None:
    from gpu_runner.embedded import cache_folder
    from gpu_runner.student import resolve_student

    real = teacher_tokens({}, resolve_student("embedded", cache_folder()))
    for path in sorted((EXAMPLES / "documents").rglob("*.md")):
        text = path.read_text("utf-8")
        assert sizes.tokens(text) == pytest.approx(real.count(text), rel=0.25), path


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "no tokenizer"),
        (b"\xff\xfe", "no tokenizer"),
        (b"[]", "it has no `model`"),
        (b'{"model": {"type": "Nonsense"}}', "no tokenizer"),
        (b"[" * 100_000, "no tokenizer"),
        (json.dumps({"model": {"type": "BPE", "vocab": {"a": "b"}}}).encode(), "no tokenizer"),
    ],
)
def test_a_bad_file_is_named_with_what_to_do(tmp_path: Path, content: bytes, why: str) -> None:
    place = tmp_path / "tokenizer.json"
    place.write_bytes(content)
    with pytest.raises(TokenizerError) as refused:
        teacher_tokens({}, place)
    assert str(place) in str(refused.value)
    assert why in str(refused.value)
    assert VARIABLE in str(refused.value)


def test_the_commands_take_the_tokenizer_and_refuse_a_bad_one(file: Path, tmp_path: Path) -> None:
    leaf = str(EXAMPLES / "taxonomy")
    fine = CliRunner().invoke(app, ["lint", leaf, "--tokenizer", str(file)])
    assert fine.exit_code == 0, fine.output
    for command in (["lint", leaf], ["plan", leaf, "--work", str(tmp_path)]):
        bad = CliRunner().invoke(app, [*command, "--tokenizer", str(tmp_path / "nowhere.json")])
        assert bad.exit_code == 2
        assert "No such file" in bad.output


def test_the_documents_command_cuts_as_the_plan_does(file: Path) -> None:
    guide = str(EXAMPLES / "documents/farne_mora/field_guide.md")
    by_tokens = CliRunner().invoke(app, ["documents", guide, "--format", "json", "--tokenizer", str(file)])
    (report,) = json.loads(by_tokens.output)
    assert all(0 < row["tokens"] <= CHUNK_TOKENS for row in report["documents"][0]["chunks"])
    plain = CliRunner().invoke(app, ["documents", guide, "--format", "json"])
    assert "tokens" not in json.loads(plain.output)[0]["documents"][0]["chunks"][0]


def test_counting_needs_no_torch(file: Path) -> None:
    asked = (
        "import sys; from lab.taxonomy.tokenizer import teacher_tokens; from pathlib import Path;"
        "print(teacher_tokens({}, Path(sys.argv[1])).count('one two'), 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", asked, str(file)], capture_output=True, text=True, check=True
    )
    number, torch = done.stdout.split()
    assert int(number) >= 2
    assert torch == "False"
