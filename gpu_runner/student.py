"""The student: a transformers folder to tune, or `embedded`, the small model that the sandbox extra ships.

    folder = resolve_student("embedded", cache_folder())       # or a folder's path

The embedded model is a GGUF, which transformers reads but cannot save again as it is: it is read with its
weights dequantized and saved once, in bf16 safetensors, into `<cache>/models/`. Two processes that ask at
once make it once.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from importlib import metadata
from pathlib import Path

from gpu_runner.embedded import EMBEDDED_GGUF_SHA256, EMBEDDED_NAME, embedded_gguf_path

EMBEDDED = "embedded"


class StudentError(RuntimeError):
    """There is no usable model at the given place; the message says what is missing."""


def resolve_student(spec: str, cache: Path) -> Path:
    """The folder of the model that `spec` names: `embedded`, or a path. Converts the embedded one when needed
    (about 20 s and 1.2 GB of memory, once per cache)."""
    if spec == EMBEDDED:
        return _embedded_folder(cache)
    folder = Path(spec).expanduser()
    missing = [name for name in ("config.json", "tokenizer_config.json") if not (folder / name).is_file()]
    if missing:
        raise StudentError(
            f"{folder} is not a model folder: {' and '.join(missing)} missing. "
            f"Name a folder that transformers saved, or `{EMBEDDED}`."
        )
    if not any(folder.glob("*.safetensors")):
        raise StudentError(f"{folder} holds no *.safetensors; pickled weights are not read")
    return folder.resolve()


def _embedded_folder(cache: Path) -> Path:
    # The converter's version is in the name: a new one may write other bytes, and digests must stay true.
    name = (
        f"smollm2-135m-instruct-{EMBEDDED_GGUF_SHA256[:12]}-transformers-{metadata.version('transformers')}"
    )
    folder = cache / "models" / name
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the second process waits here, then finds the folder
        if not folder.is_dir():
            made = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=folder.parent))
            try:
                _convert(embedded_gguf_path(), made)
                for path in made.iterdir():
                    path.chmod(0o644)
                    with path.open("rb") as stream:
                        os.fsync(stream.fileno())
                made.chmod(0o755)
                made.rename(folder)
            except BaseException:
                shutil.rmtree(made, ignore_errors=True)
                raise
    return folder


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    # Without dequantize=True the model loads as well, but save_pretrained refuses it as "quantized with
    # gguf".
    model = AutoModelForCausalLM.from_pretrained(
        str(gguf.parent),
        gguf_file=gguf.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    model.config.name_or_path = EMBEDDED_NAME  # else the path of this machine lands in the folder
    model.save_pretrained(folder)
    tokenizer.name_or_path = EMBEDDED_NAME
    tokenizer.save_pretrained(folder)
