"""Generate text from a Hugging Face folder with transformers alone: nothing of pyjpllm is imported.

python generate_hf.py FOLDER [PROMPT ...]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

PROMPTS = ("このコマンドは", "ファイルを開くには、", "設定を変更した後、")


def main(arguments: Sequence[str]) -> None:
    if not arguments or not Path(arguments[0], "config.json").is_file():
        sys.exit("generate_hf.py: name a folder that `jpllm convert` wrote, and prompts if you like")
    folder, prompts = arguments[0], arguments[1:] or PROMPTS
    logging.set_verbosity_error()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    torch.manual_seed(1)
    for prompt in prompts:
        inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        with torch.inference_mode():
            ids = model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                max_new_tokens=64,
                do_sample=True,
                temperature=0.7,
                top_p=0.9,
            )
        print(tokenizer.decode(ids[0], skip_special_tokens=True), end="\n\n", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
