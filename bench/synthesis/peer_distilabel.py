"""distilabel 1.5.3: a pipeline of one TextGeneration step, batches as large as what may be in flight."""

from __future__ import annotations

import logging
import sys

from client_common import measured, peak_mib, prompt, report
from distilabel.models.llms import OpenAILLM
from distilabel.pipeline import Pipeline
from distilabel.steps import LoadDataFromDicts
from distilabel.steps.tasks import TextGeneration


def main(url: str, rows: int, width: int) -> int:
    with Pipeline(name="bench") as pipeline:
        load = LoadDataFromDicts(
            data=[{"instruction": prompt(number)} for number in range(rows)], batch_size=width
        )
        ask = TextGeneration(
            llm=OpenAILLM(
                model="bench",
                base_url=url,
                api_key="none",
                generation_kwargs={"temperature": 0.0, "max_new_tokens": 64},
            ),
            input_batch_size=width,
        )
        load >> ask
    made = pipeline.run(use_cache=False)
    return sum(row["generation"] is not None for row in made["default"]["train"])


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    address, count, wide = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    good, wall, used = measured(lambda: main(address, count, wide))
    report(rows=good, wall=wall, cpu=used, peak_mib=peak_mib())
