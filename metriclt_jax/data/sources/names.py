"""What names say: which stand for nothing, which look alike, which are parts of a data set."""

import functools
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable

from metriclt_jax.errors import InputError

_MISSING = frozenset(
    (
        '', 'nan', 'na', 'n/a', 'n.a.', '#n/a', '<na>', 'nat', 'none', 'null', '(null)', 'nil',
        '#null!', '#ref!', '#value!', '#name?', 'missing', 'undefined', 'not available', '?', '??',
        '-', '--', '.', '-1', 'tbd', 'unlabeled', 'unlabelled', '#div/0!', '#num!',
    )
)  # fmt: skip
_UNKNOWN = _MISSING | {'unknown', 'unk', 'not known', 'anonymous', 'anon', '*', 'xxx'}

_PARTS = {
    'train': ('train', 'training', 'trn'),
    'validation': ('validation', 'validate', 'valid', 'val', 'dev', 'development'),
    'test': ('test', 'testing', 'tst'),
}
_PART_OF = {word: part for part, words in _PARTS.items() for word in words}
_FILLERS = {'', 'data', 'dataset', 'split', 'images', 'folder', 'input'}

# Letters and signs that are drawn as others are: Cyrillic, Greek, dashes, quotes.
_DRAWN_ALIKE = str.maketrans(
    'авекмнорстухѕіјһԁԛԝοı‐‑‒–—―−_’‘ʼ`´“”„',
    "abekmhopctyxsijhdqwoi------- '''''\"\"\"",
)
_WHOLE_NUMBER = re.compile(r'([+-]?)0*(\d+)(?:[.,]0*)?')


def tidy(name: str) -> str:
    """Returns a name in Unicode's composed form, without blanks around it."""
    return unicodedata.normalize('NFC', name).strip()


def is_missing(name: str) -> bool:
    """Whether a label says that nothing is known, as 'nan' and '-' do."""
    return likeness(name) in _MISSING


def is_unknown(name: str) -> bool:
    """Whether the name of a lesion or patient says that it is not known."""
    return likeness(name) in _UNKNOWN


def part_of(name: str, among_other_words: bool = False) -> str:
    """Returns the part of a data set that a name stands for, as 'Training' does; '' for none."""
    spaced = re.sub(r'(?<=[a-z])(?=[A-Z])', ' ', tidy(name))
    words = [word.removesuffix('set') for word in re.split(r'[\W\d_]+', spaced.casefold())]
    parts = {_PART_OF[word] for word in words if word in _PART_OF}
    others = set(words) - set(_PART_OF) - _FILLERS
    return parts.pop() if len(parts) == 1 and (among_other_words or not others) else ''


@functools.lru_cache(2**16)
def likeness(name: str) -> str:
    """Returns what names that look alike have in common.

    They differ by case, blanks, invisible characters, dashes, underscores, quotes, full-width or
    foreign letters, or zeros around a whole number.

    >>> likeness('Basal–cell ') == likeness('basal-CELL')
    True
    >>> likeness('01') == likeness('1.0')
    True
    """
    name = unicodedata.normalize('NFKC', name).casefold()
    name = unicodedata.normalize('NFKC', name).translate(_DRAWN_ALIKE)
    name = re.sub('[\ufe00-\ufe0f]', '', name)  # variants of the sign before
    name = ''.join(sign for sign in name if unicodedata.category(sign) != 'Cf')
    name = re.sub(r'(?<=\w)-(?=\w)', ' ', ' '.join(name.split()))
    number = _WHOLE_NUMBER.fullmatch(name)
    return number[1].strip('+') + number[2] if number else name


def alike(names: Iterable[str]) -> list[list[str]]:
    """Returns the groups of different names that look alike."""
    spellings = defaultdict(set)
    for name in names:
        spellings[likeness(name)].add(name)
    return [sorted(group) for group in spellings.values() if len(group) > 1]


def require_name(kind: str, name: str) -> None:
    """Refuses a name that may look like another one, as 'a ' and 'a' do."""
    if not name.isprintable() or name != name.strip() or not name:
        raise InputError(
            f'the name of one {kind} is {name!r}; use printable characters, no spaces at the ends'
        )


def require_different(names: Collection[str], where: object) -> None:
    """Refuses classes whose names look alike."""
    for group in alike(names):
        spellings = ' and '.join(ascii(name) for name in group)
        raise InputError(
            f'{where} has the classes {spellings}, which look alike; use one spelling, or name all '
            'classes with --classes if these are different'
        )
