"""Generation by a causal model: how fast it is, and what it says.

Models are timed as ``from_pretrained`` loads them, in the dtype of the checkpoint. The time of the prompt ends with the
first new token, that of the answer is from there to the last. The original is timed in turn with the model, so that
their ratio does not depend on what else the machine does. The answers are greedy, to fixed prompts, for people to read.
"""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from transformers import PreTrainedModel
from transformers.generation.streamers import BaseStreamer

from vocabpress.embeddings.caching import Kept, reader_for
from vocabpress.evaluate.language import CAUSAL, load_language_model, load_original, longest_input, tokens_of
from vocabpress.evaluate.speed import in_turn
from vocabpress.evaluate.task import Measurement, Subject, Task
from vocabpress.hf.modules import read_with
from vocabpress.progress import Bar
from vocabpress.settings import AtLeast0, AtLeast1

PROMPTS = (
    "What is the capital of France?",
    "Why is the sky blue?",
    "What is 12 times 7?",
    "Name three fruits that are red.",
    "Who wrote Romeo and Juliet?",
    "What is the opposite of cold?",
    "Translate to Spanish: The house is red.",
    "Write one sentence about the sea.",
    "How do I boil an egg?",
    "Write a Python function that adds two numbers.",
)


@dataclass(frozen=True)
class Generation(Task):
    """Task ``generation``."""

    compares: ClassVar[bool] = True

    prompt_tokens: AtLeast1 = 128  # of the prompt that is timed
    new_tokens: Annotated[int, Field(ge=2)] = 64  # that are generated after it
    repeats: AtLeast1 = 5  # times that each model is timed; the median counts
    answer_tokens: AtLeast0 = 48  # of each answer at most; 0 generates no answers
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # "auto": of the checkpoint, or of the original's
    hot_rows: str | None = None  # see `vocabpress.read_with`; without this and `resident` it is as after any load
    resident: Kept | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        reader_for(self.hot_rows, self.resident)

    def measure(self, subject: Subject) -> Measurement:
        model, tokenizer = load_language_model(subject, CAUSAL, self.dtype)
        longest = max(self.prompt_tokens + self.new_tokens, self.answer_tokens)
        if longest > longest_input(model, tokenizer, longest):
            limit = longest_input(model, tokenizer, longest)
            raise ValueError(f"prompt and answer have {longest} tokens, the model reads {limit}; lower them")
        if self.hot_rows or self.resident:
            read_with(model, hot_rows=self.hot_rows, resident=self.resident)
        models = {"": model}
        if subject.against is not None:
            models["_original"] = load_original(subject, model, CAUSAL, self.dtype)
        text = tokens_of(" ".join(PROMPTS), tokenizer, model)
        prompt = (text * (self.prompt_tokens // len(text) + 1))[: self.prompt_tokens]
        steps = len(models) * (1 + self.repeats + (len(PROMPTS) if self.answer_tokens else 0))
        with Bar[Any](total=steps, desc="generating", disable=not subject.progress) as bar:
            metrics = self._speeds(models, prompt, bar)
            answers = read_answers(models, tokenizer, self.answer_tokens, bar) if self.answer_tokens else []
        if answers and len(models) > 1:
            metrics["same_answers"] = sum(each["answer"] == each["original"] for each in answers) / len(answers)
        return Measurement(metrics, {"answers": answers})

    def _speeds(self, models: Mapping[str, PreTrainedModel], prompt: Sequence[int], bar: Bar[Any]) -> dict[str, float]:
        """Tokens a second of each model, of the prompt and of what comes after the first new token."""
        calls = [partial(seconds, model, prompt, self.new_tokens, bar) for model in models.values()]
        found = {}
        for ending, times in zip(models, in_turn(calls, self.repeats), strict=True):
            first, others = map(statistics.median, zip(*times, strict=True))
            found[f"prompt_tokens_per_second{ending}"] = len(prompt) / first
            found[f"tokens_per_second{ending}"] = (self.new_tokens - 1) / others
        return found


class _Arrivals(BaseStreamer):
    """When the prompt and each new token were handed over, which waits for the device."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: Tensor) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass


def seconds(model: PreTrainedModel, prompt: Sequence[int], new_tokens: int, bar: Bar[Any]) -> tuple[float, float]:
    """Seconds until the first new token, and from there to the last; ``new_tokens`` is at least 2."""
    arrivals, start = _Arrivals(), time.perf_counter()
    generate(model, prompt, new_tokens, min_new_tokens=new_tokens, streamer=arrivals)
    bar.update()
    return arrivals.times[1] - start, arrivals.times[-1] - arrivals.times[1]


def read_answers(
    models: Mapping[str, PreTrainedModel], tokenizer: Any, new_tokens: int, bar: Bar[Any]
) -> list[dict[str, str]]:
    """Greedy answers to `PROMPTS`, in the chat template if the tokenizer has one.

    Each has ``prompt``, ``answer`` of the model ``""``, and ``original`` if there is a model ``"_original"``.
    """
    found = []
    for prompt in PROMPTS:
        messages = [{"role": "user", "content": prompt}]
        if tokenizer.chat_template is None:
            ids = tokenizer(prompt)["input_ids"]
        else:
            ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        answers = {"prompt": prompt}
        for ending, model in models.items():
            new = generate(model, ids, new_tokens)[len(ids) :]
            answers[ending.removeprefix("_") or "answer"] = tokenizer.decode(new, skip_special_tokens=True).strip()
            bar.update()
        found.append(answers)
    return found


def generate(model: PreTrainedModel, ids: Sequence[int], new_tokens: int, **options: Any) -> list[int]:
    """The tokens of a prompt and of its greedy continuation."""
    given = torch.tensor([list(ids)], device=model.device)
    end = model.generation_config.eos_token_id
    sampling = dict.fromkeys(("temperature", "top_p", "top_k"))  # unused; the checkpoint's would warn
    known: Any = model
    found = known.generate(
        input_ids=given,
        attention_mask=torch.ones_like(given),
        do_sample=False,
        max_new_tokens=new_tokens,
        pad_token_id=end[0] if isinstance(end, list) else end,
        **sampling,
        **options,
    )
    return found[0].tolist()
