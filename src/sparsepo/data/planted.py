"""The embedded task `planted`: notes on films from a grammar, so that the importance of each token is known.

Of a subject two kinds of words are said, each behind verbs of its own: polar words, which decide VADER's score, and
origins or styles, which mean nothing to it. Both are said by the same frames, in lists of equal size with the same
probabilities. So neither the entropy of a language model nor the surprisal of a token tells relevant positions from
irrelevant ones. Of the other words about as many are chosen from longer lists as are nearly certain.
"""

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from sparsepo.runtime.errors import UserError


class Verb(NamedTuple):
    """What may follow a verb: one of `phrases`, with every `step`-th word of the topic's lists.

    A PHRASE may begin with a negator; a WORD may not, as VADER would negate the next word, too.
    """

    step: int
    phrases: tuple[str, ...] = ("PHRASE",)


@dataclass(frozen=True)
class Topic:
    """What may be said of a subject: a word of one of two opposite lists, behind a verb of the topic.

    negators: before a word of one list they say the same as a word of the other.
    """

    first: tuple[str, ...]
    second: tuple[str, ...]
    negators: tuple[str, ...]
    verbs: Mapping[str, Verb]

    @property
    def words(self) -> frozenset[str]:
        return frozenset(self.first + self.second)


POSITIVE = tuple(
    """
    amazing beautiful brilliant charming clever delightful elegant excellent fascinating funny graceful inspiring
    lovely remarkable superb wonderful
    """.split()
)
NEGATIVE = tuple(
    """
    annoying awful boring careless confused depressing dreadful dull flawed horrible lazy mindless pathetic stupid
    terrible ugly
    """.split()
)
# In VADER these flip a word; "hardly" only dampens it.
NEGATORS = ("not", "never", "rarely", "seldom")
ORIGINS = tuple(
    """
    belgian brazilian bulgarian canadian chinese danish dutch egyptian finnish hungarian italian korean mexican
    norwegian polish turkish
    """.split()
)
STYLES = tuple(
    """
    alpine analog ancient annual coastal digital medieval modern nautical regional rural seasonal suburban tropical
    urban victorian
    """.split()
)
# Before them: what a film is, now or once.
TIMES = ("formerly", "originally", "previously", "earlier")

# Different steps spread the entropies of slots, so that no small bias of a model decides which of two is larger. Behind
# the verbs with "from" the words so far do not settle whether a word of the topic comes.
_TWO_WORDS = ("WORD and PHRASE",)
_OR_FROM = ("PHRASE", "PHRASE", "from PLACE")
_VERBS = (Verb(1), Verb(2, _TWO_WORDS), Verb(3), Verb(4, _OR_FROM), Verb(5, _TWO_WORDS), Verb(8))
RELEVANT_VERBS = ("felt", "looked", "proved", "seemed", "appeared", "sounded")
IRRELEVANT_VERBS = ("became", "remained", "grew", "were", "stayed", "turned")
RELEVANT = Topic(POSITIVE, NEGATIVE, NEGATORS, dict(zip(RELEVANT_VERBS, _VERBS, strict=True)))
IRRELEVANT = Topic(ORIGINS, STYLES, TIMES, dict(zip(IRRELEVANT_VERBS, _VERBS, strict=True)))
TOPICS = (RELEVANT, IRRELEVANT)
INTENSIFIERS = ("very", "really", "quite", "utterly", "extremely", "totally")

LISTS = {
    "SUBJECT": tuple(
        """
        actors albums backdrops ballads bands cameras cars characters choirs clips concerts cartoons costumes
        dances dialogues directors dramas editors endings episodes films hats interiors interviews
        jingles landscapes lyrics masks melodies movies musicals narrators novels operas paintings photographs
        plots poems portraits posters prints prologues puppets remakes roles scenes scripts sequels series sets shots
        singers songs speeches stages stories studios stunts subtitles theatres titles trailers tunes voices
        """.split()
    ),
    "NAME": tuple(
        """
        adam agnes albert alice anna anton arthur astrid bella boris bruno carl clara daniel david diana edgar elena
        elsa emil emma erik felix fiona frank greta hannah harold hugo ida irene ivan jonas julia karin laura leon
        linda lucas magda maria martin mona nils nora olga oscar otto paula peter robert rosa ruth samuel sara simon
        sofia stefan tessa thomas ulla vera victor walter
        """.split()
    ),
    "SURNAME": tuple(
        """
        abbott adler allen bailey baker barnes becker berg blake brandt brooks burke carlsen carter cohen cooper
        dalton dawson dixon ellis evans fischer fisher fletcher foster fuller gibson graham hansen harris hayes
        hoffman holm hughes jensen kaplan keller kelly kramer larsen lopez lund mason meyer miller morgan moreno
        nelson novak owens palmer parker perez porter quinn reyes rossi schmidt sharp silva turner vogel walsh weber
        """.split()
    ),
    "PLACE": tuple(
        """
        amsterdam athens atlanta baghdad barcelona beirut belfast berlin bogota boston brussels budapest cairo calgary
        chicago copenhagen dakar dallas damascus delhi detroit dublin edinburgh florence geneva glasgow hamburg hanoi
        havana helsinki houston istanbul jakarta karachi kyoto lagos leipzig lima lisbon london madrid manila
        melbourne milan montreal moscow mumbai munich nairobi naples osaka oslo ottawa paris prague quito rome
        santiago seoul stockholm sydney tokyo venice vienna
        """.split()
    ),
}

FRAMES = ("PLACE SUBJECT VERB .", "SUBJECT by PERSON VERB .", "PERSON said PLACE SUBJECT VERB .")
OTHER_FRAMES = ("PERSON met PERSON .", "PERSON and PERSON met PERSON in PLACE .")

SENTENCES = (3, 5)  # a review, inclusive
REVIEW_WORDS = (18, 36)
OPENING_WORDS = (3, 7)
ABOUT_A_TOPIC, LEAN, NEGATED, INTENSIFIED = 0.9, 0.75, 0.25, 0.12  # probabilities
MAX_REPEATS = 200  # draws in a row without a new opening: the grammar is nearly used up

_CHANCE = {
    "PHRASE": NEGATED + (1 - NEGATED) * (1 - INTENSIFIED),
    "WORD": 1 - INTENSIFIED,
    "negated": 1 - INTENSIFIED,
    "intensified": 1.0,
}
"""What comes, or what stands before -> probability that the next word is a negator or a word of the topic's lists."""

Span = tuple[int, int]
"""Characters [start, end) of a text."""


class Slot(NamedTuple):
    """What the grammar says of a position from the words before it: the topic of which a word may stand there, and the
    probability that it is one, or one of the topic's negators."""

    topic: Topic
    chance: float


def reviews(count: int, seed: int) -> list[str]:
    """Reviews of 18-36 words; one seed gives one list.

    Half of them lean positive and half negative, but a sentence follows the lean only three times in four:
    continuations of one opening then differ in VADER's score, which is what a preference pair needs. Origins and styles
    have a lean of their own.
    """
    rng = random.Random(f"reviews {seed}")
    return [_review(rng) for _ in range(count)]


def prompts(count: int, seed: int) -> list[str]:
    """Distinct openings of 3-7 words, cut from reviews; some end right before a polar word.

    No word or negator of either topic is in them, so a prompt leaves the score to its continuations.
    Raises UserError when the grammar cannot give `count` different ones.
    """
    rng = random.Random(f"prompts {seed}")
    openings: dict[str, None] = {}
    repeats = 0
    while len(openings) < count:
        opening = _opening(rng)
        repeats = repeats + 1 if opening in openings else 0
        if repeats == MAX_REPEATS:
            raise UserError(
                f"task planted: {count} prompts were asked for, but the grammar gives only about "
                f"{len(openings)} different openings; ask for fewer"
            )
        openings[opening] = None
    return list(openings)


# --- which positions of a text matter


def planted_spans(text: str, truth: Literal["words", "slots"], prompt: str = "") -> list[Span]:
    """Character spans [start, end) of the relevant words of any text over this vocabulary, in order.

    words: the polar words, and a negator before one, directly or with one intensifier between ("not very good"): the
    words that decide the sign of VADER's score. An intensifier only scales it and is not relevant.
    slots: the positions at which such a word may stand, whatever stands there; the words before a position decide. They
    begin behind a verb of the relevant topic, and go on behind a negator, an intensifier, and an "and" behind a word.

    `prompt`: the text before, which may hold the beginning of a phrase; spans are those of `text`. Raises ValueError
    for another truth.
    """
    if truth not in ("words", "slots"):
        raise ValueError(f"truth must be 'words' or 'slots', not {truth!r}")
    if truth == "slots":
        return [span for span, slot in _slots(prompt, text) if slot is not None and slot.topic is RELEVANT]
    return _relevant_words(text)


def open_spans(text: str, prompt: str = "") -> list[Span]:
    """As `planted_spans` of the slots, of both topics: the relevant ones, and those that are filled in the same way."""
    return [span for span, slot in _slots(prompt, text) if slot is not None]


def relevance_chances(text: str, prompt: str = "") -> list[tuple[Span, float]]:
    """Each word of a text with the probability, by the grammar, that it is relevant given all words before it.

    No function of the words before a token ranks relevant words of the grammar's own texts better.
    """
    return [
        (span, slot.chance if slot is not None and slot.topic is RELEVANT else 0.0)
        for span, slot in _slots(prompt, text)
    ]


def _pieces(text: str) -> list[re.Match]:
    return list(re.finditer(r"[a-z]+|[^\sa-z]", text))  # "dull ." and "dull." are both two pieces


def _relevant_words(text: str) -> list[Span]:
    pieces = _pieces(text)
    words = [piece.group() for piece in pieces]
    relevant = set()
    for index, word in enumerate(words):
        if word in RELEVANT.words:
            relevant.add(index)
            before = index - 1
            if before >= 0 and words[before] in INTENSIFIERS:
                before -= 1
            if before >= 0 and words[before] in NEGATORS:
                relevant.add(before)
    return [pieces[index].span() for index in sorted(relevant)]


def _slots(prompt: str, text: str) -> Iterator[tuple[Span, Slot | None]]:
    """The span of each word of `text` with its slot, None where no word of a topic may stand."""
    before, pieces = _pieces(prompt), _pieces(text)
    topic, state, share = None, "", 1.0
    for index, piece in enumerate(before + pieces):
        if index >= len(before):
            yield piece.span(), Slot(topic, share * _CHANCE[state]) if state in _CHANCE else None
        word = piece.group()
        started = next((one for one in TOPICS if word in one.verbs), None)
        if started is not None:
            topic, phrases = started, started.verbs[word].phrases
            state, share = phrases[0].split()[0], sum("from" not in phrase for phrase in phrases) / len(phrases)
        else:
            state, share = _next_state(topic, state, word), 1.0


def _next_state(topic: Topic | None, state: str, word: str) -> str:
    """What comes behind `word`, as a key of `_CHANCE`: "said" and "" are none. `state`: what came where it stands."""
    if state == "said":
        return "PHRASE" if word == "and" else ""
    if state not in _CHANCE:
        return ""
    if word in topic.words:
        return "said"
    if word in topic.negators:
        return "negated"
    return "intensified" if word in INTENSIFIERS else ""


# --- texts of the grammar


def _review(rng: random.Random) -> str:
    while True:
        leans = [rng.random() < 0.5 for _ in TOPICS]
        words: list[str] = []
        for _ in range(rng.randint(*SENTENCES)):
            if rng.random() < ABOUT_A_TOPIC:
                number = rng.randrange(len(TOPICS))
                words += _sentence(rng, TOPICS[number], is_first=leans[number] == (rng.random() < LEAN))
            else:
                words += _fill(rng, rng.choice(OTHER_FRAMES))
        if REVIEW_WORDS[0] <= len(words) <= REVIEW_WORDS[1]:
            return " ".join(words)


def _opening(rng: random.Random) -> str:
    words_of_topics = {word for topic in TOPICS for word in (*topic.words, *topic.negators)}
    while True:
        words = _review(rng).split(" ")[: rng.randint(*OPENING_WORDS)]
        if words_of_topics.isdisjoint(words):
            return " ".join(words)


def _sentence(rng: random.Random, topic: Topic, is_first: bool) -> list[str]:
    """A sentence that says a word of the topic's first list, or of its second."""
    name, verb = rng.choice(tuple(topic.verbs.items()))
    frame = rng.choice(FRAMES).replace("VERB", f"{name} {rng.choice(verb.phrases)}")
    own, opposite = (words[verb.step - 1 :: verb.step] for words in (topic.first, topic.second))
    return _fill(rng, frame, topic.negators, *((own, opposite) if is_first else (opposite, own)))


def _fill(
    rng: random.Random,
    frame: str,
    negators: Sequence[str] = (),
    words_to_say: Sequence[str] = (),
    words_to_negate: Sequence[str] = (),
) -> list[str]:
    """The words of a frame; none of a list is chosen twice."""
    words: list[str] = []
    for item in frame.replace("PERSON", "NAME SURNAME").split():
        if item in ("PHRASE", "WORD"):
            negated = item == "PHRASE" and rng.random() < NEGATED
            words += [rng.choice(negators)] if negated else []
            words += [rng.choice(INTENSIFIERS)] if rng.random() < INTENSIFIED else []
            words.append(_choice(rng, words_to_negate if negated else words_to_say, words))
        elif item in LISTS:
            words.append(_choice(rng, LISTS[item], words))
        else:
            words.append(item)
    return words


def _choice(rng: random.Random, words: Sequence[str], used: Sequence[str]) -> str:
    return rng.choice([word for word in words if word not in used])
