"""Copy what lies beside the weights; on request without the vocabularies that tokenizer.json makes superfluous."""

import warnings
from pathlib import Path

from vocabpress.calibrate.declaration import declarations
from vocabpress.hf.checkpoint import open_tokenizer
from vocabpress.hf.compact import TOKENIZER
from vocabpress.hf.companions import VOCABULARIES, copy_companions, copy_files

ODD_LINES = (
    "",
    "   two  blanks,\ttabs\n\nand lines \u00a0\u200b\u3000 ",
    "naïve Ångström ｆｕｌｌ ﬁne e\u0301 ß İ",
    "👩‍👩‍👧 🏳️‍🌈 ﷽ ༀ \U00010348 \ue000 \ufffd \x00",
    "[CLS] <s> </s> <mask> [MASK]<|endoftext|> <unk> ▁ Ġ ##ing",
    "fooBar_2(x) -> 1,234.50e-6; https://a.b/c?d=é#f I'll don't",
    "a" * 300,
)


def copy_without_vocabularies(source: Path, target: Path) -> None:
    """Copy a model's companions, those of the slow tokenizer only if the fast one gives other tokens without them.

    Args:
        source: Folder of the model.
        target: Folder with config.json of its copy.
    """
    fast = (source / TOKENIZER).is_file()
    left_out = sorted(name for name in VOCABULARIES if fast and (source / name).is_file())
    copy_companions(source, target, without=left_out)
    if left_out and (reason := _why_needed(source, target)):
        warnings.warn(f"not left out: {', '.join(left_out)}; {reason}", stacklevel=2)
        copy_files(source, target, map(Path, left_out))


def _why_needed(source: Path, target: Path) -> str:
    """What is wrong with the tokenizer of the target; empty if it is that of the source."""
    lines, read = [*ODD_LINES, *(paragraphs[0] for paragraphs in declarations().values())], []
    for folder, which in {source: "the original's tokenizer", target: "without them the tokenizer"}.items():
        try:
            tokenizer = open_tokenizer(folder)
            read.append((tokenizer.get_vocab(), tokenizer(lines)["input_ids"]))
        except Exception as error:  # a faulty tokenizer makes transformers raise almost anything
            return f"{which} does not run: {(str(error).strip() or type(error).__name__).splitlines()[0]}"
    return "" if read[0] == read[1] else "without them the tokenizer gives other tokens"
