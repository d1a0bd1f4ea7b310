"""From scored responses, or a file of pairs, to preferences; what cannot be a pair is counted with its place."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from sparsepo.data.records import Preference, Scored, read_numbered
from sparsepo.errors import UserError


@dataclass
class Pairing:
    """Pairs that can be used, how many rows were dropped for which reason, and where the first of each stood."""

    pairs: list[Preference] = field(default_factory=list)
    dropped: Counter = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def drop(self, reason: str, place: str) -> None:
        self.dropped[reason] += 1
        self.first.setdefault(reason, place)

    def add(self, pair: Preference, place: str) -> None:
        """Keep a pair, or drop it for an empty part or equal responses."""
        empty = [name for name in ("prompt", "chosen", "rejected") if not getattr(pair, name).strip()]
        if empty:
            self.drop(f"field '{empty[0]}' is empty", place)
        elif pair.chosen == pair.rejected:
            self.drop("chosen and rejected are equal", place)
        else:
            self.pairs.append(pair)

    @property
    def summary(self) -> dict:
        rows = [{"reason": reason, "count": n, "first": self.first[reason]} for reason, n in self.dropped.items()]
        return {"pairs": len(self.pairs), "dropped": rows}

    def __str__(self) -> str:
        lost = [f"{n} dropped: {reason} (first: {self.first[reason]})" for reason, n in self.dropped.items()]
        return "; ".join([f"{len(self.pairs)} pairs", *lost])


def preference_file(path: str, kind: str) -> Pairing:
    """Read a user's file: `pairs` (prompt, chosen, rejected) or `scored` (prompt, text, reward; best against worst)."""
    made = Pairing()
    if kind == "pairs":
        for number, pair in read_numbered(path, Preference):
            made.add(pair, f"{path}:{number}")
    else:
        rows = [(f"{path}:{number}", row) for number, row in read_numbered(path, Scored)]
        made = best_and_worst([place_and_spaced(place, row) for place, row in rows])
    if not made.pairs:
        raise UserError(f"{path}: no usable pair ({made})")
    return made


def place_and_spaced(place: str, row: Scored) -> tuple[str, Scored]:
    """A response of an ODPO file follows its prompt after a space, which the file leaves out before a word."""
    spaced = f" {row.text}" if row.text[:1].isalnum() or row.text[:1] in "\"'(" else row.text
    return place, Scored(row.prompt, spaced, row.reward, row.ended)


def best_and_worst(rows: Iterable[tuple[str, Scored]]) -> Pairing:
    """One pair a prompt: the response of highest reward against that of lowest; the first wins among equals.

    rows: (place, record). A prompt with one response, or with equal rewards only, gives no pair; empty responses are
    dropped before anything is compared.
    """
    made = Pairing()
    groups: dict[str, list[tuple[str, Scored]]] = {}
    for place, row in rows:
        if not row.text.strip():
            made.drop("field 'text' is empty", place)
        else:
            groups.setdefault(row.prompt, []).append((place, row))
    for responses in groups.values():
        place, best = max(responses, key=lambda pair: pair[1].reward)
        _, worst = min(responses, key=lambda pair: pair[1].reward)
        if len(responses) < 2:
            made.drop("the only response of its prompt", place)
        elif best.reward == worst.reward:
            made.drop("all responses of the prompt have the same reward", place)
        else:
            made.add(_pair(best, worst), place)
    return made


def _pair(best: Scored, worst: Scored) -> Preference:
    return Preference(
        prompt=best.prompt,
        chosen=best.text,
        rejected=worst.text,
        chosen_score=best.reward,
        rejected_score=worst.reward,
        chosen_ended=best.ended,
        rejected_ended=worst.ended,
    )
