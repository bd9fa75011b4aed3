"""The result of checking one architecture."""

from dataclasses import dataclass, field


@dataclass
class Record:
    """The result of checking one architecture.

    Attributes:
        model_type: As in config.json.
        model_class: The class that was built; empty if there is none.
        outcome: ``works``, ``fails``, ``no table``, ``part`` (a config that no model is built from alone) or
            ``not built``.
        cause: Why it does not work.
        table: The module with the tokens' rows.
        shape: Shape of the tiny table.
        tied: Other modules that read it.
        kinds: How the table differs from a plain one: scaled, factorised, padded.
        ties: The tested values of ``tie_word_embeddings``; None where the class has none.
        compared: The output that was compared, or ``rows``; both, where the cases differ.
        inputs: Names of the model's inputs.
        generated: Whether greedy generation was compared, too.
        exact: Whether all outputs after loading were equal bit by bit.
        left: Other tables with a row a token, which stay dense.
        methods: The tested methods.
        maps: How many linear maps were coded beside the table, in one more case.
        whole: What that case showed: ``works``, ``no maps``, or why it fails.
        seconds: Total time.
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
    maps: int = 0
    whole: str = ""
    seconds: float = 0.0
