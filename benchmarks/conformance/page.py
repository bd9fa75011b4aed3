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
    """Number of architectures by outcome."""
    found = Counter(row.details["outcome"] for row in rows)
    body = [[words, str(found[outcome])] for outcome, words in OUTCOMES.items()]
    whole = [row.details.get("whole", "") for row in rows]
    body += [["tried", str(len(rows))], ["works with all linear maps in codes", str(whole.count("works"))]]
    body += [["fails with all linear maps in codes", str(sum(each not in ("", "works", "no maps") for each in whole))]]
    return ["outcome", "architectures"], body


def working(rows: list[Result]) -> Table:
    """A line for each architecture that works."""
    body = []
    for row in rows:
        details = row.details
        if details["outcome"] != "works":
            continue
        compared = details["compared"] + (", generation" if details["generated"] else "")
        body.append(
            [
                f"`{row.settings['model_type']}`",
                row.settings["model_class"],
                _table(details),
                _ties(details),
                compared if details["exact"] else f"{compared}, nearly",
                ", ".join(row.settings["methods"]),
                _maps(details),
            ]
        )
    return ["architecture", "class", "table", "tied", "equal after loading", "methods", "linear maps"], body


def failing(rows: list[Result]) -> Table:
    """A line for each architecture that does not work, or that could not be tested."""
    body = [
        [f"`{row.settings['model_type']}`", row.settings["model_class"] or "-", info["outcome"], _cause(info["cause"])]
        for row in rows
        if (info := row.details)["outcome"] in ("fails", "not built")
    ]
    return ["architecture", "class", "", "cause"], body


def names(rows: list[Result], outcome: str) -> str:
    """The architectures of one outcome, as a sentence."""
    found = [f"`{row.settings['model_type']}`" for row in rows if row.details["outcome"] == outcome]
    return f"{', '.join(found)}.\n"


def _table(details: dict) -> str:
    shared = f"shared by {len(details['tied'])} more" if len(details["tied"]) > 1 else ""
    left = f"{len(details['left'])} more left dense" if details["left"] else ""
    return ", ".join(part for part in (*details["kinds"], shared, left) if part) or "plain"


def _maps(details: dict) -> str:
    whole = details.get("whole", "")
    return str(details["maps"]) if whole == "works" else _cause(whole) or "-"


def _ties(details: dict) -> str:
    if details["ties"] == [True, False]:
        return "tied, untied"
    return "tied" if details["tied"] else "untied"


def _cause(cause: str) -> str:
    return cause.replace("|", "\\|").replace("<", "&lt;")
