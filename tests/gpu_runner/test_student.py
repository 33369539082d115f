"""The student: a folder is checked, the embedded model is converted once and learns for real."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gpu_runner import embedded
from gpu_runner.embedded import EmbeddedModelError, cache_folder, embedded_gguf_path
from gpu_runner.student import StudentError, resolve_student


def test_a_folder_that_is_no_model_is_refused_with_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(StudentError, match=r"tokenizer_config\.json missing"):
        resolve_student(str(tmp_path), tmp_path)


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer_config.json", "pytorch_model.bin"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(StudentError, match="pickled weights are not read"):
        resolve_student(str(tmp_path), tmp_path)


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("TREEWRIGHT_CACHE", raising=False)
    assert cache_folder() == tmp_path / "treewright"
    monkeypatch.setenv("TREEWRIGHT_CACHE", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"


@pytest.mark.model
def test_another_file_than_the_pinned_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "EMBEDDED_GGUF_SHA256", "0" * 64)
    embedded._check.cache_clear()
    with pytest.raises(EmbeddedModelError, match="not the pinned 0000"):
        embedded_gguf_path()
    embedded._check.cache_clear()


_CONVERT = """
import sys
from pathlib import Path
from gpu_runner.student import resolve_student
print(resolve_student("embedded", Path(sys.argv[1])))
"""


@pytest.mark.model
def test_two_processes_that_want_the_embedded_student_at_once_convert_it_once(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _CONVERT, str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    folders = {output.strip() for output, _ in outputs}
    assert len(folders) == 1
    converted = sum("de-quantizing" in errors for _, errors in outputs)
    assert converted == 1
    folder = Path(folders.pop())
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == [folder.name]

    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    asked = tokenizer(text, return_tensors="pt", add_special_tokens=False)
    answer = model.generate(**asked, max_new_tokens=12, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    assert "Paris" in tokenizer.decode(answer[0][asked["input_ids"].shape[1] :])
    assert str(tmp_path) not in (folder / "config.json").read_text()
