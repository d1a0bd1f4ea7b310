"""Where text comes from: each source gives three disjoint sets of prompts, a corpus for SFT, and labelled documents."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sparsepo.data import planted
from sparsepo.data.mbpp_humaneval import Problem, mbpp_of
from sparsepo.data.preference_formats import preference_source
from sparsepo.data.readers import documents, origin_of, origin_of_documents
from sparsepo.data.records import Labelled, Preference, Prompt, Text
from sparsepo.runtime.errors import UserError

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class TaskData:
    """Prompts by split, disjoint, the SFT corpus, and documents that a reward is fitted to.

    No labelled document is of a prompt or in the corpus; those of one further prompt stand together.
    """

    prompts: dict[str, list[Prompt]]
    corpus: list[Text]
    labelled: list[Labelled] = field(default_factory=list)


def make_data(data: dict[str, Any], preferences: dict[str, Any], model: dict[str, Any]) -> TaskData:
    """The data of a task, from the `data`, `preferences` and `model` sections of its config.

    Raises UserError when the source cannot fill the splits.
    """
    return SOURCES[data["source"]](data, preferences, model)


def split_prompts(prompts: Sequence[Prompt], sizes: dict[str, int | None], origin: str) -> dict[str, list[Prompt]]:
    """Distinct prompts in their order: test and validation are taken first, so that more for train never moves them."""
    first: dict[str, Prompt] = {}
    for prompt in prompts:
        first.setdefault(prompt.prompt, prompt)
    distinct = list(first.values())
    wanted = sizes["test"] + sizes["validation"] + (sizes["train"] or 1)
    if len(distinct) < wanted:
        least = "at least " if sizes["train"] is None else ""
        raise UserError(
            f"{origin} has {len(distinct)} distinct prompts, but data.prompts asks for {least}{wanted} "
            f"(train {sizes['train'] or 'the rest'}, validation {sizes['validation']}, test {sizes['test']})"
        )
    found, at = {}, 0
    for split in ("test", "validation", "train"):
        size = sizes[split] or len(distinct) - at
        found[split] = distinct[at : at + size]
        at += size
    return {split: found[split] for split in SPLITS}


def set_apart(items: list[Any], size: int, origin: str) -> tuple[list[Any], list[Any]]:
    """(the rest, the last `size` items): prompts come from the front. Raises UserError if the rest is empty."""
    if size and size >= len(items):
        raise UserError(f"{origin} has {len(items)}, but data.labelled asks for {size} of them and leaves none")
    return items[: len(items) - size], items[len(items) - size :]


def _planted(data: dict[str, Any], *_: Any) -> TaskData:
    sizes = data["prompts"]
    prompts = planted.prompts(sum(sizes.values()), data["seed"])
    reviews = planted.reviews(data["texts"], data["seed"] + 1)
    splits = split_prompts([Prompt(prompt) for prompt in prompts], sizes, "the planted grammar")
    return TaskData(splits, [Text(review) for review in reviews])


def _from_preferences(data: dict[str, Any], preferences: dict[str, Any], _: Any) -> TaskData:
    """A prompt's reference is the chosen response of its first pair."""
    origin = origin_of(preferences)
    pairs: dict[str, list[Preference]] = {}
    for pair in preference_source(preferences).pairs:
        pairs.setdefault(pair.prompt, []).append(pair)
    prompts = list(pairs)
    random.Random(data["seed"]).shuffle(prompts)
    prompts, apart = set_apart(prompts, data["labelled"], f"{origin} (distinct prompts)")
    origin += f", less the {data['labelled']} of data.labelled," if apart else ""
    splits = split_prompts([Prompt(text, reference=pairs[text][0].chosen) for text in prompts], data["prompts"], origin)
    train = {prompt.prompt for prompt in splits["train"]}
    corpus = [Text(pair.chosen, prompt) for prompt, own in pairs.items() if prompt in train for pair in own]
    return TaskData(splits, corpus, [each for prompt in apart for pair in pairs[prompt] for each in classes(pair)])


def classes(pair: Preference) -> tuple[Labelled, Labelled]:
    """Both dialogues of a pair with their class: 1 for the chosen one, 0 for the rejected one."""
    return Labelled(pair.prompt + pair.chosen, 1), Labelled(pair.prompt + pair.rejected, 0)


def _problems(data: dict[str, Any], *_: Any) -> TaskData:
    """In the data's own splits, of each a seeded choice; the corpus are the solutions of those that `corpus` names."""
    origin, sizes, official = origin_of(data), data["prompts"], mbpp_of(data)
    chosen: dict[str, list[Problem]] = {}
    for split in SPLITS:
        problems, wanted = official[split], sizes[split]
        if len(problems) < (wanted or 1):
            asked = "the rest" if wanted is None else wanted
            raise UserError(f"{origin} has {len(problems)} {split} problems, but data.prompts.{split} asks for {asked}")
        chosen[split] = random.Random(data["seed"]).sample(problems, len(problems))[:wanted]
    prompts = {split: [Prompt(each.prompt, each.id, each.solution) for each in chosen[split]] for split in SPLITS}
    return TaskData(prompts, [Text(each.solution, each.prompt) for split in data["corpus"] for each in chosen[split]])


def _texts(data: dict[str, Any], _: Any, model: dict[str, Any]) -> TaskData:
    """Documents give openings until there are prompts enough, or for `train: null` up to half of them."""
    labels, origin = documents(data), origin_of_documents(data)
    texts = list(labels)
    random.Random(data["seed"]).shuffle(texts)
    texts, apart = set_apart(texts, data["labelled"], f"{origin} (documents)")
    openings, used = _openings(texts, data, model)
    splits = split_prompts([Prompt(opening) for opening in openings], data["prompts"], origin)
    corpus = texts[used:][: data["texts"]]
    if not corpus:
        raise UserError(f"{origin} has {len(texts)} documents, all used up by the prompts; none is left for SFT")
    return TaskData(splits, [Text(text) for text in corpus], [Labelled(text, labels[text] or 0) for text in apart])


def _openings(texts: list[str], data: dict[str, Any], model: dict[str, Any]) -> tuple[list[str], int]:
    """(distinct openings, how many documents gave them)."""
    sizes = data["prompts"]
    held_out = sizes["validation"] + sizes["test"]
    most = len(texts) if sizes["train"] else min(len(texts), len(texts) // 2 + held_out)
    wanted = sizes["train"] + held_out if sizes["train"] else most
    cut, lengths = _opener(model), random.Random(data["seed"] + 1)
    openings: dict[str, None] = {}
    used = 0
    while used < most and len(openings) < wanted:
        opening = cut(texts[used], lengths.randint(*data["prompt_tokens"]))
        openings |= {opening: None} if opening else {}
        used += 1
    return list(openings), used


def _opener(model: dict[str, Any]) -> Any:
    """(text, n) -> its first n tokens as text; words for a model from scratch, whose tokenizer does not exist yet."""
    if model["source"] == "scratch":
        return lambda text, n: " ".join(text.split()[:n])
    from sparsepo.models.loading import fetch_tokenizer

    tokenizer = fetch_tokenizer(model)

    def cut(text: str, n: int) -> str:
        ids = tokenizer(text, add_special_tokens=False, truncation=True, max_length=n)["input_ids"]
        return tokenizer.decode(ids).strip()

    return cut


SOURCES: dict[str, Callable[..., TaskData]] = {
    "planted": _planted,
    "texts": _texts,
    "problems": _problems,
    "preferences": _from_preferences,
}
"""By the name a config gives them; a task depends on the code of its own row alone."""
