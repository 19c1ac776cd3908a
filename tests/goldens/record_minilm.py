"""Record what sentence-transformers makes of minilm_sentences.json with the all-MiniLM-L6-v2 weights.

    python record_minilm.py FOLDER

FOLDER holds the published files (modules.json, 1_Pooling, model.safetensors …). Writes minilm_sentence_transformers.npz
beside this script: embeddings [200, 384] float32 of unit length, and the word pieces of each sentence after cutting.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path

import numpy as np
import sentence_transformers
import torch
import transformers

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the model as sentence-transformers saves it")
    parser.add_argument("--out", type=Path, default=HERE / "minilm_sentence_transformers.npz")
    args = parser.parse_args()

    torch.set_num_threads(1)
    said = json.loads((HERE / "minilm_sentences.json").read_text(encoding="utf-8"))
    model = sentence_transformers.SentenceTransformer(str(args.folder), device="cpu")
    # One sentence at a time: no padding, so the figures owe nothing to how a batch was put together.
    embeddings = model.encode(said["sentences"], batch_size=1, convert_to_numpy=True, show_progress_bar=False)
    ids = [model.tokenize([sentence])["input_ids"][0].tolist() for sentence in said["sentences"]]
    for anchor, near, far in said["triples"]:
        if not embeddings[anchor] @ embeddings[near] > embeddings[anchor] @ embeddings[far] + 0.05:
            raise SystemExit(f"triple {anchor}, {near}, {far} is not in order")
    about = {
        "model": "all-MiniLM-L6-v2",
        "by": f"sentence-transformers {sentence_transformers.__version__}, transformers {transformers.__version__}, "
        f"torch {torch.__version__}, float32, 1 thread",
        "max_seq_length": model.max_seq_length,
        "machine": platform.machine(),
    }
    np.savez_compressed(
        args.out,
        about=np.array(json.dumps(about)),
        embeddings=embeddings.astype(np.float32),
        lengths=np.array([len(row) for row in ids], dtype=np.int32),
        ids=np.concatenate(ids).astype(np.int32),
    )


if __name__ == "__main__":
    main()
