"""Where text comes from: each source gives three disjoint sets of prompts and a corpus for SFT."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sparsepo.data import planted
from sparsepo.data.pairing import preference_file
from sparsepo.data.records import Prompt, Text, read_records
from sparsepo.errors import UserError

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class TaskData:
    """Prompts by split, disjoint and without repeats, and the SFT corpus."""

    prompts: dict[str, list[Prompt]]
    corpus: list[Text]


def make_data(data: dict[str, Any], preferences: dict[str, Any], model: dict[str, Any]) -> TaskData:
    """The data of a task, from the `data`, `preferences` and `model` sections of its config.

    Raises UserError when the source cannot fill the splits.
    """
    if data["source"] == "planted":
        return _planted(data)
    if data["source"] == "texts":
        return _texts(data, model)
    return _from_preferences(data, preferences)


def split_prompts(prompts: Sequence[str], sizes: dict[str, int | None], origin: str) -> dict[str, list[Prompt]]:
    """Distinct prompts in their order: test and validation are taken first, so that more for train never moves them."""
    distinct = list(dict.fromkeys(prompts))
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
        found[split] = [Prompt(prompt) for prompt in distinct[at : at + size]]
        at += size
    return {split: found[split] for split in SPLITS}


def _planted(data: dict[str, Any]) -> TaskData:
    sizes = data["prompts"]
    prompts = planted.prompts(sum(sizes.values()), data["seed"])
    reviews = planted.reviews(data["texts"], data["seed"] + 1)
    splits = split_prompts(prompts, sizes, "the planted grammar")
    return TaskData(splits, [Text(review) for review in reviews])


def _from_preferences(data: dict[str, Any], preferences: dict[str, Any]) -> TaskData:
    source = preference_file(preferences["path"], preferences["source"])
    prompts = list(dict.fromkeys(row.prompt for row in source.pairs))
    random.Random(data["seed"]).shuffle(prompts)
    splits = split_prompts(prompts, data["prompts"], preferences["path"])
    train = {prompt.prompt for prompt in splits["train"]}
    corpus = [Text(row.chosen, row.prompt) for row in source.pairs if row.prompt in train]
    return TaskData(splits, corpus)


def _texts(data: dict[str, Any], model: dict[str, Any]) -> TaskData:
    """Documents give openings until there are prompts enough, or for `train: null` up to half of them."""
    documents = list(dict.fromkeys(_documents(data)))
    random.Random(data["seed"]).shuffle(documents)
    sizes, origin = data["prompts"], data["path"] or data["hub"]["id"]
    held_out = sizes["validation"] + sizes["test"]
    most = len(documents) if sizes["train"] else min(len(documents), len(documents) // 2 + held_out)
    wanted = sizes["train"] + held_out if sizes["train"] else most
    cut, lengths = _opener(model), random.Random(data["seed"] + 1)
    openings: dict[str, None] = {}
    used = 0
    while used < most and len(openings) < wanted:
        opening = cut(documents[used], lengths.randint(*data["opening"]))
        openings |= {opening: None} if opening else {}
        used += 1
    splits = split_prompts(list(openings), sizes, origin)
    corpus = documents[used:][: data["texts"]]
    if not corpus:
        raise UserError(f"{origin} has {len(documents)} documents, all used up by the prompts; none is left for SFT")
    return TaskData(splits, [Text(text) for text in corpus])


def _documents(data: dict[str, Any]) -> list[str]:
    if data["path"] is not None:
        return [record.text for record in read_records(data["path"], Text)]
    from datasets import load_dataset

    hub = data["hub"]
    try:
        return list(load_dataset(hub["id"], split=hub["split"])[hub["field"]])
    except (OSError, ValueError, KeyError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"data.hub '{hub['id']}' cannot be loaded ({first[:160]})") from None


def _opener(model: dict[str, Any]) -> Any:
    """(text, n) -> its first n tokens as text; words for a model from scratch, whose tokenizer does not exist yet."""
    if model["source"] == "scratch":
        return lambda text, n: " ".join(text.split()[:n])
    from sparsepo.models import fetch_tokenizer

    tokenizer = fetch_tokenizer(model)

    def cut(text: str, n: int) -> str:
        ids = tokenizer(text, add_special_tokens=False, truncation=True, max_length=n)["input_ids"]
        return tokenizer.decode(ids).strip()

    return cut
