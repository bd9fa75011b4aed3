"""The tables of docs/models.md, made of results/architectures.json."""

from collections import Counter

from vocabpress.results import Result

Table = tuple[list[str], list[list[str]]]
OUTCOMES = {
    "works": "works",
    "fails": "has a token table, fails",
    "not built": "not built",
    "no table": "no token table, refused",
    "part": "a part that no model is built from alone",
}


def counts(rows: list[Result]) -> Table:
    """How many architectures came out how."""
    found = Counter(row.details["outcome"] for row in rows)
    body = [[told, str(found[outcome])] for outcome, told in OUTCOMES.items()]
    return ["outcome", "architectures"], [*body, ["tried", str(len(rows))]]


def working(rows: list[Result]) -> Table:
    """A line for each architecture that works."""
    body = []
    for row in rows:
        told = row.details
        if told["outcome"] != "works":
            continue
        compared = told["compared"] + (", generation" if told["generated"] else "")
        body.append(
            [
                f"`{row.settings['model_type']}`",
                row.settings["model_class"],
                _table(told),
                _ties(told),
                compared if told["exact"] else f"{compared}, nearly",
                ", ".join(row.settings["methods"]),
            ]
        )
    return ["architecture", "class", "table", "tied", "equal after loading", "methods"], body


def failing(rows: list[Result]) -> Table:
    """A line for each architecture that does not work, or that could not be tried."""
    body = [
        [f"`{row.settings['model_type']}`", row.settings["model_class"] or "-", told["outcome"], _cause(told["cause"])]
        for row in rows
        if (told := row.details)["outcome"] in ("fails", "not built")
    ]
    return ["architecture", "class", "", "cause"], body


def names(rows: list[Result], outcome: str) -> str:
    """The architectures of one outcome, in a sentence."""
    found = [f"`{row.settings['model_type']}`" for row in rows if row.details["outcome"] == outcome]
    return f"{', '.join(found)}.\n"


def _table(told: dict) -> str:
    shared = f"shared by {len(told['tied'])} more" if len(told["tied"]) > 1 else ""
    left = f"{len(told['left'])} more left dense" if told["left"] else ""
    return ", ".join(part for part in (*told["kinds"], shared, left) if part) or "plain"


def _ties(told: dict) -> str:
    if told["ties"] == [True, False]:
        return "tied, untied"
    return "tied" if told["tied"] else "untied"


def _cause(cause: str) -> str:
    return cause.replace("|", "\\|").replace("<", "&lt;")
