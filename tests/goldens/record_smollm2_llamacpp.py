"""Record what llama.cpp makes of a SmolLM2 GGUF on the prompts of smollm2_prompts.json.

    python record_smollm2_llamacpp.py SmolLM2-135M-Instruct.Q4_1.gguf

Writes smollm2_llamacpp.json beside this script: for each prompt its rendered text and ids, and for each new token of
the greedy answer its id, its log-probability and the five likeliest. Needs llama-cpp-python; a minute on one core.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path

import llama_cpp
import numpy as np
from jinja2.sandbox import ImmutableSandboxedEnvironment

HERE = Path(__file__).parent
NEW_TOKENS = 64
TOP = 5


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def greedy(model: llama_cpp.Llama, prompt: list[int]) -> list[dict]:
    """Up to NEW_TOKENS greedy tokens, the end-of-sequence id included."""
    model.reset()
    tokens: list[dict] = []
    step = prompt
    while len(tokens) < NEW_TOKENS and (not tokens or tokens[-1]["id"] != model.token_eos()):
        model.eval(step)
        logprobs = log_softmax(model.scores[model.n_tokens - 1])
        top = np.argsort(-logprobs, kind="stable")[:TOP]
        tokens.append(
            {
                "id": int(top[0]),
                "logprob": round(float(logprobs[top[0]]), 6),
                "top": [[int(i), round(float(logprobs[i]), 6)] for i in top],
            }
        )
        step = [int(top[0])]
    return tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf", type=Path, help="the SmolLM2 GGUF file")
    parser.add_argument("--out", type=Path, default=HERE / "smollm2_llamacpp.json")
    args = parser.parse_args()

    model = llama_cpp.Llama(
        str(args.gguf), n_ctx=1024, n_batch=1024, n_threads=1, n_threads_batch=1, logits_all=True, verbose=False
    )
    template = ImmutableSandboxedEnvironment().from_string(model.metadata["tokenizer.chat_template"])
    answers = []
    for prompt in json.loads((HERE / "smollm2_prompts.json").read_text(encoding="utf-8")):
        text = template.render(messages=prompt["messages"], add_generation_prompt=True)
        ids = model.tokenize(text.encode(), add_bos=False, special=True)
        tokens = greedy(model, ids)
        answer = model.detokenize([token["id"] for token in tokens], special=True).decode(errors="replace")
        answers.append({"name": prompt["name"], "prompt": text, "prompt_ids": ids, "answer": answer, "tokens": tokens})
        print(f"{prompt['name']}: {len(ids)} + {len(tokens)} ids: {answer!r}", flush=True)
    about = {
        "model": args.gguf.name,
        "by": f"llama-cpp-python {llama_cpp.__version__}, its defaults (16-bit key-value cache), 1 thread",
        "machine": platform.machine(),
        "features": llama_cpp.llama_print_system_info().decode().strip(),
    }
    # One prompt a line keeps the file small and its diffs readable.
    lines = ",\n".join(json.dumps(answer, ensure_ascii=False, separators=(",", ":")) for answer in answers)
    args.out.write_text(f'{{"about": {json.dumps(about)},\n"answers": [\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
