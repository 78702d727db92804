"""From text to an entry of a registry: `cosine`, `min_snr(5)`, `discrete(linear(beta_max=15), T=100)`."""

import ast
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from phin.errors import PhinError

T = TypeVar("T")
FORM = "write a name, or a name with arguments in brackets"
# What is said to a text that is none, and by a factory to arguments that it was not made for.
WRONG = (SyntaxError, MemoryError, ValueError, TypeError, AttributeError, ArithmeticError, RuntimeError)


def build(
    text: str,
    registry: Mapping[str, Callable[..., T]],
    kind: str,
    names: Mapping[str, Any] | None = None,
    parts: Mapping[str, Callable[..., Any]] | None = None,
) -> T:
    """What `name` or `name(arguments)` describes: the entry of that name, called with these arguments.

    Arguments are numbers, text, tuples, entries of `parts`, or a name from `names` (`cosine(scaling=ve)`).
    What is in both is the entry where it stands alone, `discrete(flow)`, and the other one behind a keyword,
    `cosine(scaling=flow)`. Nothing is ever evaluated as Python.

    Args:
        text: The description.
        registry: Name -> factory.
        kind: What is sought, for messages: "solver", "schedule".
        names: Further things that arguments may name.
        parts: Name -> factory of what arguments are made of, as in `likelihood(cosine(s=0.1))`; the registry
            itself if not given.

    Raises:
        PhinError: On an unknown name, or arguments that the entry does not take.
    """
    inner, names = registry if parts is None else parts, names or {}

    def value(node: ast.expr, keyword: bool = False) -> Any:
        match node:
            case ast.Name(id=name) if name in names and (keyword or name not in inner):
                return names[name]
            case ast.Name(id=name) if name not in inner:
                known = ", ".join([*inner, *names])
                raise PhinError(
                    f"{kind} {text!r} is not understood: {name!r} is no number and none of {known}"
                )
            case ast.Name() | ast.Call():
                return entry(node, inner)
            case _:
                try:
                    return ast.literal_eval(node)
                except ValueError:
                    raise ValueError(
                        f"{ast.unparse(node)} is neither a number nor a text nor a name"
                    ) from None

    def entry(node: ast.expr, table: Mapping[str, Callable[..., Any]]) -> Any:
        match node:
            case ast.Name(id=name):
                call = ast.Call(func=node, args=[], keywords=[])
            case ast.Call(func=ast.Name(id=name)):
                call = node
            case _:
                raise ValueError(FORM)
        if name not in table:
            sought = kind if table is registry else f"argument of a {kind}"
            raise PhinError(f"unknown {sought} {name!r}; there are {', '.join(table)}")
        named = {keyword.arg: value(keyword.value, True) for keyword in call.keywords if keyword.arg}
        if len(named) < len(call.keywords):
            raise ValueError("arguments are written out, and each only once")
        return table[name](*map(value, call.args), **named)

    try:
        return entry(ast.parse(text.strip(), mode="eval").body, registry)
    except PhinError:
        raise
    except WRONG as error:
        reason = FORM if isinstance(error, SyntaxError | MemoryError) else str(error).partition("\n")[0]
        raise PhinError(f"{kind} {text!r} is not understood: {reason}") from None
