"""How a table is fitted: one file per published method."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from vocabpress.methods.autoencoder import Autoencoder as Autoencoder
from vocabpress.methods.base import Method as Method, Plan as Plan
from vocabpress.methods.binary import Binary as Binary
from vocabpress.methods.blockwise import Blockwise as Blockwise
from vocabpress.methods.compositional import Compositional as Compositional
from vocabpress.methods.discblock import DiscBlock as DiscBlock
from vocabpress.methods.fastscan import FastScan as FastScan
from vocabpress.methods.groupreduce import GroupReduce as GroupReduce
from vocabpress.methods.kronecker import NearestKronecker as NearestKronecker
from vocabpress.methods.lighttoken import LightToken as LightToken
from vocabpress.methods.product import Product as Product
from vocabpress.methods.residual import Residual as Residual
from vocabpress.methods.stacked import Stacked as Stacked
from vocabpress.methods.svd import SVD as SVD
from vocabpress.methods.tcq import TCQ as TCQ
from vocabpress.methods.uniform import Uniform as Uniform
from vocabpress.settings import read_settings

BLOCKWISE = "blockwise:"

METHODS: dict[str, type[Method]] = {
    "svd": SVD,
    "autoencoder": Autoencoder,
    "lighttoken": LightToken,
    "kronecker": NearestKronecker,
    "groupreduce": GroupReduce,
    "discblock": DiscBlock,
    "tcq": TCQ,
    "fastscan": FastScan,
    "uniform": Uniform,
    "product": Product,
    "residual": Residual,
    "compositional": Compositional,
    "binary": Binary,
}


def make_method(name: str, **settings: Any) -> Method:
    """A method by name, for command lines and config files; Python code makes the class itself.

    Args:
        name: A key of METHODS; several with a plus, ``"svd+lighttoken"``: each on what the ones before left over; or
            one in blocks of tokens, ``"blockwise:lighttoken"``.
        settings: Values of its fields; text is converted to the field's type. With a plus: ``share``, and the
            fields of both as ``first.rank``, ``second.epochs``; see `Stacked`. In blocks: ``blocks``, and the method's
            own as ``inner.rank``; see `Blockwise`.

    Raises:
        ValueError: If the name or a field is unknown, or a value does not fit.
    """
    return method_from(name, settings)


def method_from(name: str, settings: Mapping[str, Any], *, strict: bool = False) -> Method:
    """As `make_method`; ``strict`` refuses text where a field is a number."""
    own, parts, cls = _flat(settings), {}, METHODS.get(name)
    if "+" in name:
        cls, names = Stacked, dict(zip(("first", "second"), name.split("+", 1), strict=True))
    elif name.startswith(BLOCKWISE):
        cls, names = Blockwise, {"inner": name.removeprefix(BLOCKWISE)}
    elif cls is None:
        raise ValueError(
            f"unknown method {name!r}; choose from {', '.join(METHODS)}, join two with a plus, or put "
            f"{BLOCKWISE} before one"
        )
    else:
        names = {}
    for place, part in names.items():
        inside = [key for key in own if key.partition(".")[0] == place]
        parts[place] = method_from(part, {key.partition(".")[2]: own.pop(key) for key in inside}, strict=strict)
    return cls(**parts, **read_settings(f"method {name}", cls, own, strict=strict))


def method_name(method: Method) -> str:
    """The name under which a method's class is registered; its class name if it is not."""
    if isinstance(method, Stacked):
        return f"{method_name(method.first)}+{method_name(method.second)}"
    if isinstance(method, Blockwise):
        return f"{BLOCKWISE}{method_name(method.inner)}"
    names = {cls: name for name, cls in METHODS.items()}
    return names.get(type(method), type(method).__name__)


def method_settings(method: Method) -> dict[str, Any]:
    """The fields of a method, as :func:`make_method` takes them."""
    return _flat(asdict(method))


def is_method(name: Any) -> bool:
    """Whether :func:`make_method` knows a name."""
    return isinstance(name, str) and all(part.removeprefix(BLOCKWISE) in METHODS for part in name.split("+"))


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """``{"first": {"rank": 2}}`` -> ``{"first.rank": 2}``."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        nested = _flat(value) if isinstance(value, Mapping) else None
        flat |= {key: value} if nested is None else {f"{key}.{name}": each for name, each in nested.items()}
    return flat
