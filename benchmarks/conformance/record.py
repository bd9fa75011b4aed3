"""What came of one architecture."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Record:
    """What came of one architecture.

    Attributes:
        model_type: As config.json says it.
        model_class: That was built; empty where there is none.
        outcome: ``works``, ``fails``, ``no table``, ``part`` (a config that no model is built from alone) or
            ``not built``.
        cause: Why it does not work.
        table: The module that holds the tokens' rows.
        shape: Of the tiny table.
        tied: Other modules that read it.
        kinds: What the table is besides plain: scaled, factorised, padded.
        ties: Values of ``tie_word_embeddings`` that were tried; None where the class knows none.
        compared: The output that was compared, or ``rows``; both, where the cases differ.
        inputs: What the model was fed.
        generated: Whether greedy generation was compared, too.
        exact: Whether all outputs after loading were equal bit by bit.
        left: Other tables with a row a token, which stay as they are.
        methods: That were tried.
        seconds: Of everything.
    """

    model_type: str
    model_class: str = ""
    outcome: str = "not built"
    cause: str = ""
    table: str = ""
    shape: list[int] = field(default_factory=list)
    tied: list[str] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    ties: list[bool | None] = field(default_factory=list)
    compared: str = ""
    inputs: list[str] = field(default_factory=list)
    generated: bool = False
    exact: bool = True
    left: list[str] = field(default_factory=list)
    methods: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def told(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)
