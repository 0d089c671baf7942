"""The built-in corpus: one-line biographies of made-up people, drawn from a seed.

Allen-Zhu & Li ("Physics of Language Models: Part 3.1", arXiv 2309.14316) find that a model can recall a fact
only if it has read the biography in several wordings and orders. The default corpus has these. With
`copies=1, permute=False`, a model memorises the biographies but cannot answer questions.

Axes: `P` people, `W` wordings of one fact, `O` facts other than the birthplace, `I` sentences of a biography.
"""

import dataclasses
import datetime
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kgpt_jax.config import BiographiesConfig, UserError

FIRST = dict.fromkeys(
    """Ada Aisha Akua Alice Amara Anika Asha Beatriz Carmen Chiara Clara Daria Elena Elif Emma
    Esther Fatima Freya Greta Hana Helen Ingrid Irene Jana Julia Keiko Laila Linnea Lucia Maeve
    Maria Mei Mina Nadia Naomi Nina Olga Priya Rosa Ruth Sakura Sofia Tala Uma Vera Wanjiru Yara
    Yasmin Zainab Zofia""".split(),
    "She",
) | dict.fromkeys(
    """Abel Adrian Ahmed Alan Amir Andrei Anton Arjun Bruno Carlos Daniel Dmitri Emeka Erik Felix
    Gabriel George Hamza Hans Henry Hugo Ibrahim Igor Ivan Jakub James Javier Jonas Kenji Kofi
    Kwame Lars Leo Liam Luca Marco Mateo Nikola Omar Oscar Pablo Paul Rafael Ravi Samuel Stefan
    Tariq Tomas Victor Yusuf""".split(),
    "He",
)

MIDDLE = """Ari Ash Blair Blake Brook Cass Chi Cruz Dale Dane Dara Eden Ellis Fenn Finch Flynn Gale
Gray Hale Haven Ira Jade Jay Jules Kai Kim Kit Lane Lark Lee Lin Lou Noa Noel Noor Paz Quinn Rain
Ray Reed Ren Rio Robin Rory Rowan Sage Sam Scout Shea Sky Tam Teal Toby Uri Vale Wren Wynn Yuri Zen
Zia""".split()

LAST = """Abara Achebe Adeyemi Aguilar Ahmadi Akintola Almeida Anand Andersen Antoniou Aoki Arslan
Asante Aydin Bakker Balogun Banerjee Barros Basu Bauer Becker Belov Bennett Berg Bhatt Bianchi
Boateng Bondar Botha Brandt Bui Byrne Cabrera Campos Cardoso Castro Chaudhry Chopra Cohen Colombo
Conti Cooper Costa Dang Darwish Dasgupta Delgado Demir Desai Diallo Diaz Dube Dubois Duran Dvorak
Eklund Eriksen Esposito Evans Farouk Ferrari Fischer Fofana Fonseca Foster Fujita Gallo Garcia
Ghosh Gomez Goto Greco Gruber Gupta Haddad Hagen Hakimi Halonen Hansen Harris Hashimi Hayashi
Herrera Hoang Horvat Hughes Hussein Ibarra Iqbal Ito Iyer Jansen Jimenez Joshi Juarez Kamau Kaplan
Kapoor Katz Kaya Keita Keller Khalil Kimura Klein Kobayashi Koch Korhonen Kovacs Kowalski Kraus
Kruger Kumar Larsen Laurent Lebedev Leroy Levy Lindgren Lopes Lund Mahlangu Malik Marino Markovic
Mbeki Mehta Mendes Mensah Meyer Mitchell Moreau Moreno Mori Morozov Murphy Musa Mwangi Nagy Nair
Nakamura Nasser Navarro Ndlovu Nguyen Nikolov Novak Nowak Obi Ochoa Odhiambo Okafor Oliveira Ortiz
Osei Ozturk Palmer Park Patel Pavlov Petrov Pham Popescu Qureshi Rahman Ramos Rao Reyes Ricci
Rossi Roy Sahin Saito Salazar Sandhu Santos Sato Schulz Sharma Silva Singh Sokolov Soto Suzuki
Takeda Tanaka Teixeira Toth Traore Tran Turner Vargas Vasquez Virtanen Walker Weber Wong Yilmaz
Zhang Zhou""".split()

# The most frequent place first. No place is part of a name above or of another place.
PLACES = """London, New York, Paris, Chicago, Boston, Berlin, Dublin, Toronto, Vienna, Rome, Madrid,
Moscow, Sydney, Los Angeles, Philadelphia, Glasgow, Tokyo, Mumbai, Lagos, Cairo, Istanbul,
Buenos Aires, Melbourne, Edinburgh, Prague, Manchester, Budapest, Warsaw, Stockholm, Amsterdam,
Copenhagen, Montreal, Lisbon, Athens, Barcelona, Milan, Naples, Hamburg, Munich, Zurich, Geneva,
Brussels, Oslo, Helsinki, Kyiv, Belgrade, Bucharest, Tehran, Baghdad, Beirut, Karachi, Lahore,
Delhi, Dhaka, Bangkok, Hanoi, Manila, Jakarta, Seoul, Beijing, Shanghai, Osaka, Nairobi, Accra,
Dakar, Tunis, Cape Town, Lima, Bogota, Quito, Havana, Mexico City, Sao Paulo, Seattle, Cardiff,
Cork, Ghent, Graz, Riga, Bergen""".replace("\n", " ").split(", ")

MONTHS = """January February March April May June July August September October November
December""".split()

OCCUPATIONS = """actor architect astronomer baker banker barber biologist botanist carpenter chemist
composer cook dancer dentist diplomat engineer farmer firefighter geologist historian illustrator
jeweller journalist judge lawyer librarian linguist locksmith mechanic miner nurse optician painter
pharmacist photographer physicist pilot plumber poet potter sailor sculptor singer surgeon surveyor
tailor teacher translator veterinarian weaver""".split()

UNIVERSITIES = """Aarhus Basel Bologna Caltech Cambridge Coimbra Cornell Durham Exeter Harvard
Heidelberg Keio Leiden Leuven Makerere McGill Oxford Padua Princeton Salamanca Sorbonne Stanford
Tartu Tsinghua Uppsala Utrecht Waseda Yale""".split()

INSTRUMENTS = """accordion banjo bassoon cello clarinet cornet dulcimer flute guitar harp horn lute
lyre mandolin oboe organ oud piano recorder saxophone sitar trombone trumpet tuba viola violin
zither""".split()

# Each fact and its wordings. The birthplace comes first.
FACTS = {
    "birthplace": [
        "{name} was born in {value}.",
        "{name} is a native of {value}.",
        "{name}'s birthplace is {value}.",
        "The birthplace of {name} is {value}.",
        "By birth, {name} is from {value}.",
        "Born in {value}, {name} grew up there.",
        "{value} is the birthplace of {name}.",
        "{value} is where {name} was born.",
    ],
    "birth date": [
        "{name} was born on {value}.",
        "On {value}, {name} was born.",
        "The birthday of {name} is {value}.",
        "{value} is the birthday of {name}.",
    ],
    "occupation": [
        "{name} is {value} by trade.",
        "{name} works as {value}.",
        "By trade, {name} is {value}.",
        "As {value}, {name} is well known.",
    ],
    "university": [
        "{name} studied at {value}.",
        "{name} has a degree from {value}.",
        "At {value}, {name} took a degree.",
        "{value} is where {name} studied.",
    ],
    "residence": [
        "{name} lives in {value}.",
        "{name} has a house in {value}.",
        "The home of {name} is in {value}.",
        "{value} is home to {name}.",
    ],
    "instrument": [
        "{name} plays the {value}.",
        "{name} is good at the {value}.",
        "In the evening, {name} plays the {value}.",
        "The {value} is what {name} plays.",
    ],
}

# What is asked about each fact, in the order of FACTS.
QUESTIONS = [
    "Where was {name} born?",
    "When was {name} born?",
    "What is {name} by trade?",
    "Where did {name} study?",
    "Where does {name} live?",
    "Which instrument does {name} play?",
]


@dataclasses.dataclass(frozen=True)
class Biographies:
    """Documents about every person, and questions about three disjoint groups of people.

    All questions about a person are next to each other, in the order of QUESTIONS.

    Attributes:
      documents: one biography each, without a line break.
      train: (question, answer) pairs to train on.
      dev: held-out (question, answer) pairs.
      test: questions without answers.
    """

    documents: list[str]
    train: list[tuple[str, str]]
    dev: list[tuple[str, str]]
    test: list[str]


class Person(NamedTuple):
    """A made-up person."""

    name: str
    last: str
    pronoun: str
    facts: tuple[str, ...]  # in the order of FACTS


def generate(cfg: BiographiesConfig) -> Biographies:
    """Returns the corpus that `cfg` describes. Equal configs give equal corpora.

    The people and their facts depend only on the seed and the number of people, not on the other fields.

    Raises:
      UserError: a value is out of range, there are not enough names, or questions about all facts are asked
        for and the biographies do not state all facts.
    """
    _check(cfg)
    n = cfg.n_train + cfg.n_dev + cfg.n_test
    people = _people(n, np.random.default_rng((cfg.seed, 0)))
    asked = QUESTIONS[: questions_each(cfg)]
    pairs = [
        (question.format(name=person.name), fact)
        for person in people
        for question, fact in zip(asked, person.facts)
    ]
    n_train, n_known = len(asked) * cfg.n_train, len(asked) * (cfg.n_train + cfg.n_dev)
    return Biographies(
        documents=_documents(people, cfg, np.random.default_rng((cfg.seed, 1))),
        train=pairs[:n_train],
        dev=pairs[n_train:n_known],
        test=[question for question, _ in pairs[n_known:]],
    )


def questions_each(cfg: BiographiesConfig) -> int:
    """Returns the number of questions about each person."""
    return len(QUESTIONS) if cfg.questions == "all" else 1


def write(biographies: Biographies, folder) -> list[str]:
    """Writes the four files under the course's names and returns their paths.

    Raises:
      UserError: the folder cannot be written, or a file exists with another content: the course's own files
        have the same names, and are not overwritten.
    """
    lines = {
        "wiki.txt": biographies.documents,
        "birth_places_train.tsv": map("\t".join, biographies.train),
        "birth_dev.tsv": map("\t".join, biographies.dev),
        "birth_test_inputs.tsv": biographies.test,
    }
    texts = {Path(folder, name): "".join(f"{row}\n" for row in rows) for name, rows in lines.items()}
    try:
        for path, text in texts.items():
            if path.exists() and path.read_bytes() != text.encode("utf-8"):
                raise UserError(f"{path} exists with another content: give another folder")
        Path(folder).mkdir(parents=True, exist_ok=True)
        for path, text in texts.items():
            path.write_text(text, "utf-8", newline="\n")
    except OSError as error:
        reason = f"cannot write to {folder} ({error.strerror})"
        raise UserError(f"{reason}: give another folder") from None
    return list(map(str, texts))


def _check(cfg: BiographiesConfig):
    least = dict(n_train=1, n_dev=0, n_test=0, copies=1, n_facts=1)
    for field, low in least.items():
        value = getattr(cfg, field)
        if value < low:
            raise UserError(f"data.biographies.{field} is {value}: give {low} or more")
    if cfg.n_facts > len(FACTS):
        raise UserError(
            f"data.biographies.n_facts is {cfg.n_facts}: give {len(FACTS)}, which is all, or fewer"
        )
    copies = cfg.copies if cfg.permute else 1  # otherwise all copies state the same facts
    stated = 1 + min(copies * (cfg.n_facts - 1), len(FACTS) - 1)
    if stated < questions_each(cfg):
        raise UserError(
            f"data.biographies.questions is {cfg.questions}, and the biographies of a person state {stated} "
            f"of {len(FACTS)} facts: raise data.biographies.n_facts, which is {cfg.n_facts}"
        )


def _people(n: int, rng: np.random.Generator) -> list[Person]:
    """Returns `n` people with different names and independent facts. Nobody lives in their birthplace."""
    names = _names(n, rng)
    weights = 1 / (16 + np.arange(len(PLACES)))
    weights[0] = 0.1  # 5.4 % are born in London, so always answering London scores 5.4 %
    ends = np.cumsum(weights / weights.sum())[:-1]
    # One draw from each of n equal parts of [0, 1): the frequencies then hold for few people, too.
    birth_P = np.searchsorted(ends, (rng.permutation(n) + rng.random(n)) / n, side="right")
    home_P = (birth_P + rng.integers(1, len(PLACES), n)) % len(PLACES)  # any other place
    first_day, end = datetime.date(1930, 1, 1), datetime.date(2000, 1, 1)
    days_P = rng.integers(first_day.toordinal(), end.toordinal(), n)
    dates = map(datetime.date.fromordinal, days_P.tolist())
    occupations = [f"{'an' if word[0] in 'aeiou' else 'a'} {word}" for word in OCCUPATIONS]
    facts = zip(
        (PLACES[i] for i in birth_P),
        (f"{date.day} {MONTHS[date.month - 1]} {date.year}" for date in dates),
        rng.choice(occupations, n).tolist(),
        rng.choice(UNIVERSITIES, n).tolist(),
        (PLACES[i] for i in home_P),
        rng.choice(INSTRUMENTS, n).tolist(),
    )
    return [
        Person(" ".join(parts), parts[-1], FIRST[parts[0]], values) for parts, values in zip(names, facts)
    ]


def _names(n: int, rng: np.random.Generator) -> list[tuple[str, ...]]:
    """Returns `n` different names as tuples of words.

    Names have a first and a last name. If there are many people, they also have a middle name, and if there
    are very many, a double last name. At most half of the possible names are used, so that most words belong
    to several people.

    Raises:
      UserError: there are fewer than 2n names.
    """
    first, hyphenated = list(FIRST), [f"{a}-{b}" for a in LAST for b in LAST if a != b]
    levels = [[first, LAST], [first, MIDDLE, LAST], [first, MIDDLE, hyphenated]]
    counts = [math.prod(map(len, pools)) for pools in levels]
    if 2 * n > counts[-1]:
        raise UserError(
            f"{n} people in data.biographies: there are names for {counts[-1] // 2}, so give fewer"
        )
    level = next(i for i, count in enumerate(counts) if 2 * n <= count)
    pools = [rng.permutation(words) for words in levels[level]]
    shape = [len(words) for words in pools]
    indices = np.unravel_index(_distinct(n, math.prod(shape), rng), shape)
    return list(zip(*(words[index_P].tolist() for words, index_P in zip(pools, indices))))


def _distinct(n: int, end: int, rng: np.random.Generator) -> np.ndarray:
    """Returns `n` different integers below `end`, which is at least 2n, in random order."""
    drawn = np.empty(0, np.int64)
    while len(drawn) < n:
        drawn = np.unique(np.append(drawn, rng.integers(end, size=n)))
    return rng.permutation(drawn)[:n]


def _documents(people: list[Person], cfg: BiographiesConfig, rng: np.random.Generator) -> list[str]:
    """Returns `cfg.copies` biographies of every person, shuffled."""
    templates = list(FACTS.values())
    n, n_other, n_told = len(people), len(FACTS) - 1, cfg.n_facts - 1
    wordings = [_orders(n, len(wording), rng) for wording in templates]  # a (P, W) for each fact
    other_PO = 1 + (_orders(n, n_other, rng) if cfg.permute else np.tile(range(n_other), (n, 1)))
    documents = []
    for copy in range(cfg.copies):
        start = copy * n_told if cfg.permute else 0  # the next copy tells the next facts
        told = np.arange(start, start + n_told) % n_other
        fact_PI = np.insert(other_PO[:, told], 0, 0, axis=1)
        if cfg.permute:
            fact_PI = rng.permuted(fact_PI, axis=1)
        wording = [order_PW[:, copy % order_PW.shape[1]].tolist() for order_PW in wordings]
        for i, (person, facts) in enumerate(zip(people, fact_PI.tolist())):
            sentences = []
            for fact in facts:
                template = templates[fact][wording[fact][i]]
                full_name = cfg.repeat_name or not sentences
                sentences.append(_sentence(person, fact, template, full_name))
            documents.append(" ".join(sentences))
    rng.shuffle(documents)
    return documents


def _orders(n: int, k: int, rng: np.random.Generator) -> np.ndarray:
    """Returns an array (n, k) whose rows are random permutations of 0 .. k - 1."""
    return rng.permuted(np.tile(np.arange(k), (n, 1)), axis=1)


def _sentence(person: Person, fact: int, template: str, full_name: bool) -> str:
    """Returns the sentence that states a fact.

    Without `full_name`, the name becomes She or He at the start of a sentence, and the last name elsewhere.
    """
    name = person.pronoun if template.startswith("{name} ") else person.last
    return template.format(name=person.name if full_name else name, value=person.facts[fact])
