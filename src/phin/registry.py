"""From text to an entry of a registry: `cosine`, `min_snr(5)`, `discrete(linear(beta_max=15), T=100)`."""

import ast
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from phin.errors import PhinError

T = TypeVar("T")


def build(
    text: str, registry: Mapping[str, Callable[..., T]], kind: str, names: Mapping[str, Any] | None = None
) -> T:
    """What `name` or `name(arguments)` describes: the entry of that name, called with these arguments.

    Arguments are numbers, text, tuples, other entries of the registry, or a name from `names`
    (`cosine(scaling=ve)`). Nothing is ever evaluated as Python.

    Args:
        text: The description.
        registry: Name -> factory.
        kind: What is sought, for messages: "solver", "schedule".
        names: Further things that arguments may name.

    Raises:
        PhinError: On an unknown name, or arguments that the entry does not take.
    """

    def value(node: ast.expr) -> Any:
        match node:
            case ast.Name(id=name) if names and name in names:
                return names[name]
            case ast.Name() | ast.Call():
                return entry(node)
            case _:
                return ast.literal_eval(node)

    def entry(node: ast.expr) -> T:
        match node:
            case ast.Name(id=name):
                call = ast.Call(func=node, args=[], keywords=[])
            case ast.Call(func=ast.Name(id=name)):
                call = node
            case _:
                raise ValueError("write a name, or a name with arguments in brackets")
        if name not in registry:
            raise PhinError(f"unknown {kind} {name!r}; there are {', '.join(registry)}")
        named = {keyword.arg: value(keyword.value) for keyword in call.keywords if keyword.arg}
        return registry[name](*map(value, call.args), **named)

    try:
        return entry(ast.parse(text.strip(), mode="eval").body)
    except PhinError:
        raise
    except (SyntaxError, ValueError, TypeError) as error:
        raise PhinError(f"{kind} {text!r} is not understood: {error}") from None
