"""Record what transformers makes of a SmolLM2 GGUF, dequantised to float32, on the prompts of smollm2_prompts.json.

    python record_smollm2_transformers.py SmolLM2-135M-Instruct.Q4_1.gguf

Writes smollm2_transformers.npz beside this script. Needs torch, transformers and gguf; takes a few minutes on one core.
README.md says what each array holds.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import transformers

HERE = Path(__file__).parent
NEW_TOKENS = 64
SUBSET = 64
TOP = 5


def load(path: Path) -> tuple[transformers.PreTrainedModel, transformers.PreTrainedTokenizerBase]:
    folder, file = str(path.parent), path.name
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=file)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=file, dtype=torch.float32, attn_implementation="eager"
    )
    return model.eval(), tokenizer


def prompts(tokenizer: transformers.PreTrainedTokenizerBase) -> Iterator[tuple[str, str, list[int]]]:
    """Name, rendered text and ids of every prompt, the chat template applied."""
    for prompt in json.loads((HERE / "smollm2_prompts.json").read_text(encoding="utf-8")):
        text = tokenizer.apply_chat_template(prompt["messages"], add_generation_prompt=True, tokenize=False)
        yield prompt["name"], text, tokenizer(text, add_special_tokens=False).input_ids


@torch.inference_mode()
def greedy(model: transformers.PreTrainedModel, prompt: list[int], eos: int) -> tuple[list[int], torch.Tensor]:
    """Greedy ids, cached, up to and with the end-of-sequence id; and the logits [N, V] that chose them, uncached."""
    ids, cache, step = list(prompt), None, torch.tensor([prompt])
    while len(ids) - len(prompt) < NEW_TOKENS and (len(ids) == len(prompt) or ids[-1] != eos):
        out = model(step, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        ids.append(int(out.logits[0, -1].argmax()))
        step = torch.tensor([ids[-1:]])
    logits = model(torch.tensor([ids[:-1]]), use_cache=False).logits[0, len(prompt) - 1 :]
    new = ids[len(prompt) :]
    if logits.argmax(-1).tolist() != new:
        raise SystemExit("the cached and the uncached run disagree: choose other prompts")
    return new, logits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf", type=Path, help="the SmolLM2 GGUF file")
    parser.add_argument("--out", type=Path, default=HERE / "smollm2_transformers.npz")
    args = parser.parse_args()

    torch.set_num_threads(1)
    model, tokenizer = load(args.gguf)
    vocabulary = model.config.vocab_size
    subset = np.sort(np.random.default_rng(0).choice(vocabulary, SUBSET, replace=False))
    names, prompt_ids, new_ids, pieces = [], [], [], []
    for name, _, ids in prompts(tokenizer):
        new, logits = greedy(model, ids, tokenizer.eos_token_id)
        top = logits.topk(TOP)
        names.append(name)
        prompt_ids.append(ids)
        new_ids.append(new)
        pieces.append((logits[:, subset], logits.logsumexp(-1), top.values, top.indices))
        print(f"{name}: {len(ids)} + {len(new)} ids: {tokenizer.decode(new)!r}", flush=True)
    logits, logsumexp, top_logits, top_ids = (torch.cat(column).numpy() for column in zip(*pieces, strict=True))
    about = {
        "model": args.gguf.name,
        "by": f"transformers {transformers.__version__}, torch {torch.__version__}, float32, eager attention, 1 thread",
        "machine": platform.machine(),
    }
    np.savez_compressed(
        args.out,
        about=np.array(json.dumps(about)),
        names=np.array(names),
        prompt_lengths=np.array([len(ids) for ids in prompt_ids], dtype=np.int32),
        prompt_ids=np.concatenate(prompt_ids).astype(np.int32),
        new_lengths=np.array([len(ids) for ids in new_ids], dtype=np.int32),
        new_ids=np.concatenate(new_ids).astype(np.int32),
        subset_ids=subset.astype(np.int32),
        logits=logits,
        logsumexp=logsumexp,
        top_ids=top_ids.astype(np.int32),
        top_logits=top_logits,
    )


if __name__ == "__main__":
    main()
