"""instructlab-sdg 0.8.3: a pipeline of one LLMBlock, as it ships: batches of 8 rows in one request of the
older completions endpoint, a thread for each batch. Its package imports torch at its top; the blocks do not
need it, so the package is entered by its parts.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import types
from importlib.util import find_spec
from pathlib import Path

from client_common import FILL, measured, peak_mib, report

spec = find_spec("instructlab")
assert spec is not None
assert spec.submodule_search_locations is not None
package = types.ModuleType("instructlab.sdg")
package.__path__ = [str(Path(place, "sdg")) for place in spec.submodule_search_locations]
sys.modules["instructlab.sdg"] = package
parts = types.ModuleType("instructlab.sdg.blocks")
parts.__path__ = [str(Path(place, "sdg", "blocks")) for place in spec.submodule_search_locations]
sys.modules["instructlab.sdg.blocks"] = parts

from datasets import Dataset  # noqa: E402 - after the package is set up
from datasets.utils.logging import disable_progress_bar  # noqa: E402 - after the package is set up
from instructlab.sdg.pipeline import Pipeline, PipelineContext  # noqa: E402 - after the package is set up
from openai import OpenAI  # noqa: E402 - after the package is set up

BATCH = 8


def main(url: str, rows: int, width: int, folder: Path) -> int:
    config = folder / "ask.yaml"
    config.write_text(
        "system: ''\nintroduction: ''\nprinciples: ''\nexamples: ''\n"
        f'generation: "{FILL}\\n\\nQuestion {{{{number}}}}: what is known about item {{{{number}}}}?"\n'
        "start_tags: ['']\nend_tags: ['']\n"
    )
    context = PipelineContext(
        client=OpenAI(base_url=url, api_key="none"),
        model_family="mixtral",
        model_id="bench",
        batch_size=BATCH,
        batch_num_workers=max(width // BATCH, 2),
    )
    block = {
        "name": "ask",
        "type": "LLMBlock",
        "config": {
            "config_path": str(config),
            "output_cols": ["reply"],
            "gen_kwargs": {"temperature": 0, "max_tokens": 64},
        },
    }
    pipeline = Pipeline(context, str(config), [block])
    return len(pipeline.generate(Dataset.from_dict({"number": list(range(rows))})))


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    disable_progress_bar()
    address, count, wide = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    with tempfile.TemporaryDirectory() as place:
        good, wall, used = measured(lambda: main(address, count, wide, Path(place)))
    report(rows=good, wall=wall, cpu=used, peak_mib=peak_mib())
