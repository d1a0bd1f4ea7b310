"""The embedded task `planted`: reviews from a grammar, so that each word's importance is known."""

import random
import re
from typing import Literal

from sparsepo.runtime.errors import UserError

POSITIVE = frozenset(
    """
    amazing amusing awesome beautiful bold brave bright brilliant charming cheerful clever
    comforting convincing creative cute daring delightful divine dynamic earnest elegant
    energetic engaging enjoyable entertaining excellent exciting fantastic fascinating fresh
    funny gentle glorious good gorgeous graceful grand great happy heartfelt heartwarming heroic
    hilarious humorous impressive innovative inspiring intelligent interesting joyful likeable
    lively lovable lovely magnificent marvelous meaningful noble original outstanding passionate
    perfect playful pleasant powerful remarkable rewarding romantic satisfying smart splendid
    stunning superb sweet terrific thoughtful thrilling vibrant wonderful
""".split()
)
NEGATIVE = frozenset(
    """
    annoying appalling awful bad bizarre boring brutal careless chaotic charmless cheerless
    childish clueless confused crude cruel cynical depressing dire disappointing disjointed
    dismal dreadful dreary dull dumb embarrassing exhausting feeble flawed frustrating grim
    harsh heartless hopeless horrible horrid humorless idiotic inadequate incompetent inferior
    insincere insipid irritating joyless lame lazy lousy ludicrous meaningless messy mindless
    miserable nasty obnoxious offensive painful passionless pathetic poor ridiculous rotten rude
    sad sluggish spiritless stupid terrible tragic ugly unfocused unimpressive unpleasant weak
    worthless
""".split()
)
# In VADER these flip a word; "hardly" only dampens it.
NEGATORS = frozenset({"not", "never", "rarely", "seldom"})
INTENSIFIERS = frozenset({"very", "really", "quite", "utterly", "extremely", "totally"})

WORKS = tuple("film movie picture drama cartoon western sequel remake documentary series".split())
THINGS = WORKS + tuple(
    """
    plot story script dialogue ending opening cast director camera score soundtrack setting
    premise narrator chorus finale prologue scene chase montage title theme song voice accent
    monologue performance
""".split()
)
NOUNS = THINGS + tuple(
    """
    acting music editing pacing lighting scenery makeup photography animation choreography
""".split()
)  # the added ones take no "a"
SLOTS = {
    "WORK": WORKS,
    "THING": THINGS,
    "NOUN": NOUNS,
    "NAME": tuple(
        """
        anna boris clara david elena felix greta hugo irene jonas karin leon maria nils olga peter
        rosa simon tessa viktor
        """.split()
    ),
    "PLACE": tuple(
        """
        berlin canada chicago dublin finland france iceland japan kyoto lisbon london madrid mexico
        norway oslo paris peru prague rome vienna
        """.split()
    ),
    "DAY": tuple("monday tuesday wednesday thursday friday saturday sunday".split()),
    "ROLE": tuple(
        """
        teacher baker farmer sailor doctor painter lawyer pilot nurse carpenter student cook
        """.split()
    ),
    "RELATIVE": ("sister", "brother", "cousin", "uncle", "aunt", "neighbour"),
    "NUMBER": ("two", "three", "four", "five", "six"),
}

# POLAR may be negated; PLAIN may not: before a noun, or where VADER would negate the next word too.
POLAR_FRAMES = (
    "the NOUN was POLAR .",
    "the NOUN was PLAIN and POLAR .",
    "the NOUN in this WORK was POLAR .",
    "the NOUN by NAME seemed PLAIN and POLAR .",
    "to me the NOUN felt POLAR .",
    "NAME and i found the NOUN to be PLAIN .",
    "it was a PLAIN THING .",
    "NAME gave us a PLAIN and PLAIN THING .",
    "this is a PLAIN WORK , and the NOUN was POLAR .",
    "the NOUN sounded PLAIN and the NOUN looked POLAR .",
    "my RELATIVE called it PLAIN and PLAIN .",
    "by the end everything felt POLAR .",
)
FILLER_FRAMES = (
    "we saw the WORK in PLACE with NAME .",
    "i watched the WORK on DAY with my RELATIVE .",
    "NAME directed the WORK in PLACE .",
    "NAME and NAME wrote the WORK .",
    "NAME portrays a ROLE from PLACE .",
    "the story begins on DAY in PLACE .",
    "the camera follows a ROLE through PLACE at night .",
    "it runs for NUMBER hours .",
    "in the WORK , NAME meets a ROLE .",
    "a ROLE moves from PLACE to PLACE .",
    "it is a story about a ROLE from PLACE .",
    # It begins as a polar sentence does: the words before "made" do not settle what comes.
    "the WORK was made in PLACE .",
)

SENTENCES = (2, 4)  # a review, inclusive
REVIEW_WORDS = (18, 34)
OPENING_WORDS = (5, 8)
POLAR_SENTENCE, LEAN, NEGATED, INTENSIFIED = 0.62, 0.75, 0.25, 0.12  # probabilities
MAX_REPEATS = 200  # draws in a row without a new opening: the grammar is nearly used up

_CHOICES = {True: tuple(sorted(POSITIVE)), False: tuple(sorted(NEGATIVE))}
_NEGATORS, _INTENSIFIERS = tuple(sorted(NEGATORS)), tuple(sorted(INTENSIFIERS))


def reviews(count: int, seed: int) -> list[str]:
    """Reviews of 18-34 words, each with something planted; one seed gives one list.

    Half of them lean positive and half negative, but a polar sentence follows the lean only three
    times in four: continuations of one opening then differ in VADER's score, which is what a
    preference pair needs.
    """
    rng = random.Random(f"reviews {seed}")
    return [_review(rng) for _ in range(count)]


def prompts(count: int, seed: int) -> list[str]:
    """Distinct openings of 5-8 words, cut from reviews; some end right before a polar word.

    No polar word or negator is in them, so a prompt leaves the score to its continuations. Raises
    UserError when the grammar cannot give `count` different ones (it gives about 80,000).
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


def polar_spans(text: str) -> list[tuple[int, int]]:
    """Character spans [start, end) of the planted words of any text over this vocabulary, in order.

    Planted are the polar words and a negator before one, directly or with one intensifier between
    ("not very good"): the words that decide the sign of VADER's score. An intensifier only scales
    it and is not planted.
    """
    pieces = list(re.finditer(r"[a-z]+|[^\sa-z]", text))  # "dull ." and "dull." are both two pieces
    words = [piece.group() for piece in pieces]
    planted = set()
    for index, word in enumerate(words):
        if word in POSITIVE or word in NEGATIVE:
            planted.add(index)
            before = index - 1
            if before >= 0 and words[before] in INTENSIFIERS:
                before -= 1
            if before >= 0 and words[before] in NEGATORS:
                planted.add(before)
    return [pieces[index].span() for index in sorted(planted)]


def planted_spans(text: str, truth: Literal["words", "slots"]) -> list[tuple[int, int]]:
    """Character spans [start, end) of what is planted in a text: `words`, see `polar_spans`.

    Raises UserError for `slots`.
    """
    if truth == "slots":
        raise UserError("planted truth 'slots' is not available; write words")
    return polar_spans(text)


def _review(rng: random.Random) -> str:
    while True:
        lean = rng.random() < 0.5
        unused = {True: list(POLAR_FRAMES), False: list(FILLER_FRAMES)}
        words: list[str] = []
        for _ in range(rng.randint(*SENTENCES)):
            frames = unused[rng.random() < POLAR_SENTENCE]
            frame = frames.pop(rng.randrange(len(frames)))
            words += _sentence(rng, frame, positive=lean if rng.random() < LEAN else not lean)
        if REVIEW_WORDS[0] <= len(words) <= REVIEW_WORDS[1] and polar_spans(" ".join(words)):
            return " ".join(words)


def _opening(rng: random.Random) -> str:
    while True:
        words = _review(rng).split(" ")[: rng.randint(*OPENING_WORDS)]
        if (POSITIVE | NEGATIVE | NEGATORS).isdisjoint(words):
            return " ".join(words)


def _sentence(rng: random.Random, frame: str, positive: bool) -> list[str]:
    words: list[str] = []
    for item in frame.split():
        if item in ("POLAR", "PLAIN"):
            words += _phrase(rng, positive, may_negate=item == "POLAR")
        elif item in SLOTS:
            words.append(rng.choice([word for word in SLOTS[item] if word not in words]))
        else:
            words.append(item)
    following = words[1:] + ["."]
    return ["an" if word == "a" and after[0] in "aeiou" else word for word, after in zip(words, following, strict=True)]


def _phrase(rng: random.Random, positive: bool, may_negate: bool) -> list[str]:
    """A polar word saying `positive`, or its opposite negated; sometimes intensified."""
    negated = may_negate and rng.random() < NEGATED
    negator = [rng.choice(_NEGATORS)] if negated else []
    intensifier = [rng.choice(_INTENSIFIERS)] if rng.random() < INTENSIFIED else []
    return [*negator, *intensifier, rng.choice(_CHOICES[positive != negated])]
