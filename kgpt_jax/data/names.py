"""Names of the people that questions ask about, and made-up names that resemble them.

    where = frame(["Where was Al Bo born?", "Where was Cy Do born?"])
    where.name("Where was Ed Fa born?"), where.question("Ed Fa")

A name is whatever the frame of the questions leaves open, so it can be the name of anything. It has a first
part and a last part, divided at its last space or hyphen.
"""

import re
from collections import Counter
from collections.abc import Collection, Sequence
from difflib import SequenceMatcher
from itertools import chain, combinations
from typing import NamedTuple

import numpy as np

from kgpt_jax.config import UserError

SHARE = 0.9  # of the questions must have the words of a frame
CUTS = 20  # word boundaries at each end of a question where the open part of a frame may begin or end
SEARCHED = 200  # questions that are searched for the words of a kind
OTHER = "other questions"  # the kind of those whose own kind is rarer
LEAST_RATIO = 0.8  # the least share of equal letters for which one name may be the other, misspelled
_DIVIDER = re.compile(r"[ \-](?=[^ \-]*$)")


Part = tuple[str, str]  # the first part of a name, its divider included, and the last part


class Frame(NamedTuple):
    """The words before and after the name in a question."""

    before: str
    after: str

    def name(self, question: str) -> str | None:
        """Returns the name in a question, or None if the question has another form."""
        inside = question.startswith(self.before) and question.endswith(self.after)
        name = question[len(self.before) : len(question) - len(self.after)]
        return name if inside and name.strip() else None

    def question(self, name: str) -> str:
        """Returns the question about a name."""
        return f"{self.before}{name}{self.after}"


def frame(questions: Sequence[str]) -> Frame:
    """Returns the words that nearly all questions begin and end with.

    Raises:
      UserError: fewer than 90 % of the questions have the same first and last words.

    >>> frame(["What metal is Qua-17 made of?", "What metal is Zor-3 made of?"])
    Frame(before='What metal is ', after=' made of?')
    >>> frame(["Who made Qua-17?", "Who made Zor-3?"])
    Frame(before='Who made ', after='?')
    """
    before = _shared([question.split(" ") for question in questions])
    after = _shared([question.split(" ")[::-1] for question in questions])[::-1]
    # A single question, or questions about one name, leave nothing open.
    found = Frame("".join(f"{word} " for word in before), "".join(f" {word}" for word in after))
    names = [name for question in questions if (name := found.name(question))]
    for end, count in Counter(name[-1] for name in names).most_common(1):
        if count >= SHARE * len(questions) and not end.isalnum():  # as "?" in "Who sang Blue Moon?"
            found = found._replace(after=end + found.after)
    named = sum(found.name(question) is not None for question in questions)
    if not (before or after) or named < SHARE * len(questions):
        raise UserError(
            "the training questions do not have the form of one question about different names: leave only "
            "questions of one form or, with the built-in people, give "
            "--config.data.biographies.questions=birth_place"
        )
    return found


def kinds(questions: Sequence[str]) -> list[str]:
    """Returns the kind of each question: the words around its name, with an X in place of the name.

    A kind has at least 5 questions, and at least 5 % of them. Questions of rarer kinds are of the kind OTHER.
    Long and frequent words come first, so that "born?" alone makes no kind.

    >>> names = ["Al Bo", "Cy Do", "Ed Fa", "Gus Go", "Flo Fy"]
    >>> asked = kinds([f"{words} was {name} born?" for name in names for words in ("Where", "When")])
    >>> asked[:2]
    ['Where was X born?', 'When was X born?']
    """
    kind_of: dict[str, str] = {}
    left = list(dict.fromkeys(questions))
    least = max(5, len(left) / 20)
    while best := _most_shared(left[:SEARCHED]):
        found = [question for question in left if best.name(question)]
        if len(found) < least:
            break
        kind_of |= dict.fromkeys(found, best.question("X"))
        left = [question for question in left if question not in kind_of]
    return [kind_of.get(question, OTHER) for question in questions]


def _most_shared(questions: Sequence[str]) -> Frame | None:
    """Returns the frame that covers most, of those that 5 % of the questions share, and at least five.

    It covers most by the number of its questions times its squared length. None: no frame is shared so often.
    """
    counts = Counter(chain(*map(_frames, questions)))
    least = max(5, len(questions) / 20)
    often = [each for each, count in counts.items() if count >= least and re.search(r"\w", "".join(each))]
    saved = {each: (counts[each] - 1) * len("".join(each)) ** 2 for each in often}
    return max(saved, key=saved.__getitem__, default=None)


def _frames(question: str) -> dict[Frame, None]:
    """Returns each frame that leaves a part of a question open, once; of long questions only some frames."""
    parts = re.split(r"\b", question)
    cuts = range(len(parts) + 1)
    ends = sorted({*cuts[:CUTS], *cuts[-CUTS:]})  # all frames of a long question would fill the memory
    return dict.fromkeys(
        Frame("".join(parts[:start]), "".join(parts[end:])) for start, end in combinations(ends, 2)
    )


def _shared(questions: list[list[str]]) -> list[str]:
    """Returns the first words that most questions have in common."""
    shared: list[str] = []
    left = questions
    while left := [words for words in left if len(words) > len(shared)]:
        word, count = Counter(words[len(shared)] for words in left).most_common(1)[0]
        if count < SHARE * len(questions):
            break
        left = [words for words in left if words[len(shared)] == word]
        shared.append(word)
    return shared


def divided(name: str) -> Part | None:
    """Returns the two parts of a name, the divider with the first one; None if it has a single part.

    >>> divided("Ada King Bell"), divided("Qua-17"), divided("Russya")
    (('Ada King ', 'Bell'), ('Qua-', '17'), None)
    """
    found = _DIVIDER.search(name)
    return (name[: found.end()], name[found.end() :]) if found and name[found.end() :] else None


def recombined(names: Sequence[str], known: Collection[str], rng: np.random.Generator) -> list[str]:
    """Returns names that nobody has, each with the first part of one name and the last part of another.

    Each part is used once for each name that has it, so first parts and last parts are as frequent as among
    the names; only their combination is new.

    Args:
      names: the names to recombine.
      known: names that must not come out.
      rng: decides which parts meet.
    """
    parts = [pair for name in names if (pair := divided(name))]
    firsts, lasts = [first for first, _ in parts], [last for _, last in parts]
    known = {*known, *names}
    made: list[str] = []
    for _ in range(20):  # parts whose combination is known meet others in the next round
        order = rng.permutation(len(lasts))
        pairs = [(first, lasts[i]) for first, i in zip(firsts, order)]
        fresh = [first + last not in known for first, last in pairs]
        made += [first + last for (first, last), new in zip(pairs, fresh) if new]
        firsts = [first for (first, _), new in zip(pairs, fresh) if not new]
        lasts = [last for (_, last), new in zip(pairs, fresh) if not new]
        known |= set(made)
        if not firsts:
            break
    return made


def misspelled(names: Sequence[str], known: Collection[str], rng: np.random.Generator) -> list[str]:
    """Returns each name with one letter replaced by another of the names' letters, upper case by upper case.

    Names without letters, and results that are known, are left out.
    """
    letters = {  # arrays, because `rng.choice` would make one at each draw
        case: np.array([c for name in names for c in name if case(c)]) for case in (str.isupper, str.islower)
    }
    known = {*known, *names}
    made = []
    for name in names:
        places = [i for i, c in enumerate(name) if c.isupper() or c.islower()]
        if not places:
            continue
        for _ in range(20):
            i = int(rng.choice(places))
            letter = str(rng.choice(letters[str.isupper if name[i].isupper() else str.islower]))
            changed = name[:i] + letter + name[i + 1 :]
            if changed not in known:
                made.append(changed)
                break
    return made


def relatives(names: Sequence[str], known: Collection[str], rng: np.random.Generator) -> list[str]:
    """Returns a stranger for each name: the same last part, behind the first part of another name."""
    parts = [pair for name in names if (pair := divided(name))]
    known = {*known, *names}
    made = []
    for _, last in parts:
        for _ in range(20):
            candidate = parts[int(rng.integers(len(parts)))][0] + last
            if candidate not in known:
                made.append(candidate)
                break
    return made


def sharing(name: str, parts: Sequence[Part]) -> tuple[list[str], list[str]]:
    """Returns names that share a part of a name: those with its last part, and those with its first part.

    Most are strangers. Some may be names of real people.

    Args:
      name: the name. One that has a single part gets no strangers.
      parts: parts of other names, as `divided` returns them.

    >>> sharing("Ada Bell", [("Bo ", "King")])
    (['Bo Bell'], ['Ada King'])
    """
    own = divided(name)
    if own is None:
        return [], []
    same_last = [first + own[1] for first, _ in parts if first != own[0]]
    return same_last, [own[0] + last for _, last in parts if last != own[1]]


def foreign(names: Sequence[str], characters: str, rng: np.random.Generator) -> list[str]:
    """Returns each name with one letter replaced by a letter that is not among `characters`."""
    unknown = [letter for letter in "жшδλאבשかな한Þőžñq" if letter not in characters] or ["\u0d05"]
    made = []
    for name in names:
        letters = [i for i, c in enumerate(name) if c.isalpha()]
        i = int(rng.choice(letters or range(max(1, len(name)))))
        made.append(name[:i] + str(rng.choice(unknown)) + name[i + 1 :])
    return made


def nearest(made: Sequence[str], names: Sequence[str]) -> list[str]:
    """Returns for each made-up name the name that shares most pairs of neighbouring letters with it.

    The share is Dice's coefficient of the two sets of pairs.

    >>> nearest(["Ada Belt"], ["Bo Adams", "Ada Bell"])
    ['Ada Bell']
    """
    pairs = [[_pairs(name) for name in group] for group in (made, names)]
    # Columns are the pairs of the made-up names; the other pairs of the names are shared by none.
    column = {pair: i for i, pair in enumerate(sorted(set().union(*pairs[0])))}
    tables = []
    for group in pairs:
        table = np.zeros((len(group), len(column)), np.float32)
        for row, found in zip(table, group):
            row[[column[pair] for pair in found if pair in column]] = 1
        tables.append(table)
    sizes = [np.array([len(found) for found in group], np.float32) for group in pairs]
    dice = 2 * tables[0] @ tables[1].T / (sizes[0][:, None] + sizes[1][None])
    return [names[i] for i in dice.argmax(axis=1)] if made else []


def did_you_mean(name: str, names: Sequence[str]) -> str:
    """Returns the name that a name may be misspelled from; "" if none is near.

    >>> did_you_mean("Ada Belt", ["Bo Adams", "Ada Bell"]), did_you_mean("Al King", ["Bo Adams", "Ada Bell"])
    ('Ada Bell', '')
    """
    best = nearest([name], names)[0] if names else ""
    return best if best != name and SequenceMatcher(None, name, best).ratio() >= LEAST_RATIO else ""


def _pairs(name: str) -> set[str]:
    text = f" {name.lower()} "
    return {text[i : i + 2] for i in range(len(text) - 1)}
