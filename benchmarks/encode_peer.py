"""sentence-transformers, asked over stdin: for `benchmarks.embeddings`, and any Python that has it.

`encode_peer.py FOLDER` prints a JSON line when the model is loaded, and one for each line that it
reads: the seconds that `encode` took, and the vectors.
"""

import base64
import json
import sys
import time

import sentence_transformers
import torch


def main() -> None:
    """Load the model, then answer until stdin ends."""
    model = sentence_transformers.SentenceTransformer(sys.argv[1], device="cpu")
    versions = {"sentence-transformers": sentence_transformers.__version__}
    versions["torch"] = torch.__version__
    print(json.dumps({"versions": versions, "threads": torch.get_num_threads()}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        started = time.perf_counter()
        vectors = model.encode(asked["texts"], batch_size=asked["batch"], show_progress_bar=False)
        seconds = time.perf_counter() - started
        packed = base64.b64encode(vectors.astype("<f4").tobytes()).decode()
        print(json.dumps({"seconds": seconds, "vectors": packed}), flush=True)


if __name__ == "__main__":
    main()
