"""sdg-hub 0.9.4: its LLMChatBlock alone, asynchronous, one request a row."""

from __future__ import annotations

import logging
import os
import sys

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it would fetch a price list from the network

import pandas as pd
from client_common import measured, peak_mib, prompt, report

logging.disable(logging.WARNING)

from sdg_hub.core.blocks.llm.llm_chat_block import LLMChatBlock  # noqa: E402 - after its log is quiet


def main(url: str, rows: int, width: int) -> int:
    block = LLMChatBlock(
        block_name="ask",
        input_cols="messages",
        output_cols="reply",
        model="openai/bench",
        api_key="none",
        api_base=url,
        async_mode=True,
        temperature=0,
        max_tokens=64,
    )
    messages = [[{"role": "user", "content": prompt(number)}] for number in range(rows)]
    made = block.generate(pd.DataFrame({"messages": messages}), _flow_max_concurrency=width)
    return int(made["reply"].notna().sum())


if __name__ == "__main__":
    address, count, wide = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    good, wall, used = measured(lambda: main(address, count, wide))
    report(rows=good, wall=wall, cpu=used, peak_mib=peak_mib())
