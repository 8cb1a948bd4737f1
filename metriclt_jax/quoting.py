"""Names in the flags of a command, which may look like numbers or like words of Python."""

import ast
import re
from collections.abc import Sequence

NAME_FIELDS = tuple(
    f'data.{field}'
    for field in ('classes', 'train_parts', 'validation_parts', 'test_parts', 'divided_parts')
)
"""Config fields whose values are names."""

# A name in quotes or without them, up to the next comma.
_NAME = re.compile(r"""\s*(?:'([^']*)'|"([^"]*)"|([^,]*?))\s*(?:,|$)""")


def quote_names(arguments: Sequence[str]) -> list[str]:
    """Flags of a command, in which names that look like numbers or words of Python are in quotes.

    >>> quote_names(['--config.data.classes=7,007,True', '--config.seed=7'])
    ["--config.data.classes=('7', '007', 'True')", '--config.seed=7']
    """
    quoted, given = [], {}
    for argument in arguments:
        field, equals, text = argument.partition('=')
        if not equals or not field.endswith(NAME_FIELDS):
            quoted.append(argument)
            continue
        given[field] = given.get(field, ()) + _names(text)  # a flag may be repeated
        quoted = [other for other in quoted if other.partition('=')[0] != field]
        quoted.append(f'{field}={given[field]}')
    return quoted


def _names(text: str) -> tuple[str, ...]:
    """The names in a Python tuple of texts, or in a list separated by commas."""
    text = text.strip()
    try:
        value = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        value = None
    if isinstance(value, tuple | list) and all(isinstance(name, str) for name in value):
        return tuple(value)
    if text[:1] + text[-1:] in ('()', '[]') and not set('()[]') & set(text[1:-1]):
        text = text[1:-1]
    return tuple(name for name in map(''.join, _NAME.findall(text)) if name)
