"""The data of a task: each source gives three disjoint sets of prompts, a corpus for SFT, and labelled documents."""

import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sparsepo.data import planted
from sparsepo.data.chat import plain_texts, scored_prompt
from sparsepo.data.mbpp_humaneval import Problem, read_mbpp
from sparsepo.data.messages import as_chat
from sparsepo.data.preference_formats import read_preferences
from sparsepo.data.prompts import PromptBuilder
from sparsepo.data.readers import read_documents, section_name, section_rows
from sparsepo.data.records import Labelled, Preference, Prompt, String, Text, as_record
from sparsepo.runtime.errors import UserError
from sparsepo.runtime.user_code import ALL_COLUMNS

SPLITS = ("train", "validation", "test")
WITH_REFERENCE = ("preferences", "problems")
"""Sources whose prompts have a reference and no other column."""

Cutter = Callable[[str, int], str]
"""(text, n) -> the first n tokens of the text."""


@dataclass(frozen=True)
class TaskData:
    """Prompts by split, disjoint, the SFT corpus, and documents that a reward is fitted to.

    No labelled document is of a prompt or in the corpus; those of one prompt stand together. num_shared: prompts or
    documents that were left out, as validation or test data of their own have them too; None without such data.
    """

    prompts: dict[str, list[Prompt]]
    corpus: list[Text]
    labelled: list[Labelled] = field(default_factory=list)
    num_shared: int | None = None


def make_data(
    data: dict[str, Any], preferences: dict[str, Any], cut: Cutter, builder: PromptBuilder | None = None
) -> TaskData:
    """The data of a task, from the sections `data` and `preferences` of its config; `cut` makes prompts of documents.

    builder: renders chats and settles what becomes of long prompts; None keeps all texts as they are. Raises UserError
    when the source cannot fill the splits.
    """
    builder = builder or PromptBuilder()
    task_data = SOURCES[data["source"]](data, preferences, cut, builder)
    if data["source"] in WITH_REFERENCE and {"reference", ALL_COLUMNS} & builder.columns.keys():
        prompts = {
            split: [replace(prompt, columns={"reference": prompt.reference}) for prompt in own]
            for split, own in task_data.prompts.items()
        }
        return replace(task_data, prompts=prompts)
    return task_data


def first_words(text: str, count: int) -> str:
    """The first words of a text, for a model from scratch, whose tokenizer does not exist yet."""
    return " ".join(text.split()[:count])


def token_cutter(tokenizer: Any) -> Cutter:
    """What cuts a text by the tokens of a tokenizer."""

    def cut(text: str, count: int) -> str:
        ids = tokenizer(text, add_special_tokens=False, truncation=True, max_length=count)["input_ids"]
        return tokenizer.decode(ids).strip()

    return cut


def split_prompts(
    prompts: Sequence[Prompt],
    sizes: dict[str, int | None],
    origin: str,
    held_out: Mapping[str, list[Prompt]] | None = None,
) -> dict[str, list[Prompt]]:
    """Distinct prompts in their order; a larger `train` moves no prompt of the other splits, which are taken first.

    held_out: splits that have prompts of their own, none of which is among `prompts`.
    """
    held_out = held_out or {}
    distinct: dict[str, Prompt] = {}
    for prompt in prompts:
        distinct.setdefault(prompt.prompt, prompt)
    from_here = [split for split in SPLITS if split not in held_out]
    needed = sum(sizes[split] or 1 for split in from_here)
    if len(distinct) < needed:
        least = "at least " if sizes["train"] is None else ""
        numbers = ", ".join(f"{split} {sizes[split] or 'the rest'}" for split in from_here)
        raise UserError(
            f"{origin} has {len(distinct)} distinct prompts, but data.prompts asks for {least}{needed} ({numbers})"
        )
    splits, rest = dict(held_out), list(distinct.values())
    for split in reversed(from_here):
        size = sizes[split] or len(rest)
        splits[split], rest = rest[:size], rest[size:]
    return {split: splits[split] for split in SPLITS}


def held_out_prompts(
    section: dict[str, Any], data: dict[str, Any], read: Callable[[dict[str, Any]], Iterable[Prompt]]
) -> dict[str, list[Prompt]]:
    """A seeded choice of prompts for `test` and `validation`, where the section has data of their own for them.

    read: (the section with these data in place of its own) -> prompts. A prompt of both is one of `test`. Raises
    UserError where there are fewer than `data.prompts` asks for.
    """
    splits: dict[str, list[Prompt]] = {}
    for split in ("test", "validation"):
        if (own := section[split]) is not None:
            rows, size, taken = section | {"package": None} | own, data["prompts"][split], texts_of(splits)
            distinct: dict[str, Prompt] = {}
            for prompt in read(rows):
                distinct.setdefault(prompt.prompt, prompt)
            prompts = [prompt for text, prompt in distinct.items() if text not in taken]
            if len(prompts) < size:
                others = " that are not in test" if taken else ""
                counts = f"{len(prompts)} distinct prompts{others}, but data.prompts.{split} asks for {size}"
                raise UserError(f"{section_name(rows)} has {counts}")
            splits[split] = random.Random(data["seed"]).sample(prompts, size)
    return splits


def texts_of(splits: Mapping[str, list[Prompt]]) -> set[str]:
    """The prompts of all splits, as texts."""
    return {prompt.prompt for prompts in splits.values() for prompt in prompts}


def split_off(items: list[Any], size: int, origin: str) -> tuple[list[Any], list[Any]]:
    """(all others, the last `size` items), as prompts come from the front. Raises UserError if no other is left."""
    if size and size >= len(items):
        raise UserError(f"{origin} has {len(items)}, but data.labelled asks for {size} of them and leaves none")
    return items[: len(items) - size], items[len(items) - size :]


def _build_prompts(texts: Iterable[str], builder: PromptBuilder, origin: str) -> list[Prompt]:
    prompts = (builder.prompt(text, f"{origin}: prompt {number}") for number, text in enumerate(texts, start=1))
    return [prompt for prompt in prompts if prompt is not None]


def _planted(data: dict[str, Any], _: Any, cut: Any, builder: PromptBuilder) -> TaskData:
    sizes = data["prompts"]
    prompts = planted.prompts(sum(sizes.values()), data["seed"])
    reviews = planted.reviews(data["texts"], data["seed"] + 1)
    splits = split_prompts(_build_prompts(prompts, builder, "the planted grammar"), sizes, "the planted grammar")
    return TaskData(splits, [Text(review) for review in reviews])


def _from_preferences(data: dict[str, Any], preferences: dict[str, Any], _: Any, builder: PromptBuilder) -> TaskData:
    """The reference of a prompt is the chosen response of its first pair."""
    origin = section_name(preferences)
    pairs: dict[str, list[Preference]] = {}
    for pair in read_preferences(preferences, builder).pairs:
        pairs.setdefault(pair.prompt, []).append(pair)
    held_out = held_out_prompts(preferences, data, lambda rows: map(_prompt_of, read_preferences(rows, builder).pairs))
    shared = texts_of(held_out) & pairs.keys()
    prompts = [prompt for prompt in pairs if prompt not in shared]
    random.Random(data["seed"]).shuffle(prompts)
    prompts, labelled = split_off(prompts, data["labelled"], f"{origin} (distinct prompts)")
    origin += f", less the {data['labelled']} of data.labelled," if labelled else ""
    splits = split_prompts([_prompt_of(pairs[text][0]) for text in prompts], data["prompts"], origin, held_out)
    train = {prompt.prompt for prompt in splits["train"]}
    corpus = [
        Text(pair.chosen, prompt, pair.rendered) for prompt, own in pairs.items() if prompt in train for pair in own
    ]
    documents = [document for prompt in labelled for pair in pairs[prompt] for document in label_pair(pair)]
    return TaskData(splits, corpus, documents, len(shared) if held_out else None)


def _prompt_of(pair: Preference) -> Prompt:
    """The prompt of a pair, with the chosen response as reference."""
    return Prompt(pair.prompt, reference=pair.chosen, messages=pair.messages, rendered=pair.rendered)


def label_pair(pair: Preference) -> tuple[Labelled, Labelled]:
    """Both dialogues of a pair, as a scorer reads them, with their class: 1 for the chosen one, 0 for the other."""
    prompt = scored_prompt(pair)
    chosen, rejected = plain_texts([prompt, pair.rejected_prompt or prompt], [pair.chosen, pair.rejected])
    return Labelled(chosen, 1), Labelled(rejected, 0)


def _problems(data: dict[str, Any], _: Any, cut: Any, builder: PromptBuilder) -> TaskData:
    """A seeded choice of each of the data's own splits; the corpus are the solutions of the splits in `corpus`."""
    origin, sizes, own_splits = section_name(data), data["prompts"], read_mbpp(data)
    chosen: dict[str, list[Problem]] = {}
    for split in SPLITS:
        problems, size = own_splits[split], sizes[split]
        if len(problems) < (size or 1):
            asked = "the rest" if size is None else size
            raise UserError(f"{origin} has {len(problems)} {split} problems, but data.prompts.{split} asks for {asked}")
        chosen[split] = random.Random(data["seed"]).sample(problems, len(problems))[:size]
    prompts = {
        split: [Prompt(problem.prompt, problem.id, problem.solution) for problem in chosen[split]] for split in SPLITS
    }
    if builder.limit is not None:  # a benchmark without its long problems would be another one
        limit = replace(builder.limit, on_long_prompt="refuse")
        for prompt in (prompt for split in SPLITS for prompt in prompts[split]):
            limit.apply(prompt, f"{origin}: problem {prompt.id}")
    corpus = [Text(problem.solution, problem.prompt) for split in data["corpus"] for problem in chosen[split]]
    return TaskData(prompts, corpus)


def _texts(data: dict[str, Any], _: Any, cut: Cutter, builder: PromptBuilder) -> TaskData:
    """Openings of documents are prompts, until there are enough, or for `train: null` of half of the documents."""
    labels, origin = read_documents(data), section_name(data)
    own_texts, own_openings = set(), set()

    def read(rows: dict[str, Any]) -> list[Prompt]:
        lengths, documents = random.Random(data["seed"] + 1), read_documents(rows | {"labelled": 0})
        openings = [cut(text, lengths.randint(*data["prompt_tokens"])) for text in documents]
        own_texts.update(documents)
        own_openings.update(openings)
        return _build_prompts(filter(None, openings), builder, section_name(rows))

    held_out = held_out_prompts(data, data, read)
    texts = [text for text in labels if text not in own_texts]
    random.Random(data["seed"]).shuffle(texts)
    texts, labelled = split_off(texts, data["labelled"], f"{origin} (documents)")
    num_held_out = sum(data["prompts"][split] for split in ("validation", "test") if split not in held_out)
    openings, used = _openings(texts, data, cut, num_held_out, own_openings)
    splits = split_prompts(_build_prompts(openings, builder, origin), data["prompts"], origin, held_out)
    corpus = texts[used:][: data["texts"]]
    if not corpus:
        raise UserError(f"{origin} has {len(texts)} documents, all used up by the prompts; none is left for SFT")
    documents = [Labelled(text, labels[text] or 0) for text in labelled]
    num_shared = len(own_texts & labels.keys()) if held_out else None
    return TaskData(splits, [Text(text) for text in corpus], documents, num_shared)


def _openings(
    texts: list[str], data: dict[str, Any], cut: Cutter, num_held_out: int, excluded: Collection[str]
) -> tuple[list[str], int]:
    """(distinct openings that are not excluded, the number of documents they come from)."""
    train = data["prompts"]["train"]
    limit = len(texts) if train else min(len(texts), len(texts) // 2 + num_held_out)
    wanted = train + num_held_out if train else limit
    lengths = random.Random(data["seed"] + 1)
    openings: dict[str, None] = {}
    used = 0
    while used < limit and len(openings) < wanted:
        opening = cut(texts[used], lengths.randint(*data["prompt_tokens"]))
        openings |= {opening: None} if opening and opening not in excluded else {}
        used += 1
    return list(openings), used


@dataclass(frozen=True)
class PromptRow:
    """A row of a source of prompts."""

    prompt: Any
    reference: String | None = None


def _prompts(data: dict[str, Any], _: Any, cut: Any, builder: PromptBuilder) -> TaskData:
    """Prompts alone, in the order of the seed; there is no corpus."""

    def read(rows: dict[str, Any]) -> list[Prompt]:
        return read_prompts(rows, builder)

    prompts, held_out = read(data), held_out_prompts(data, data, read)
    shared = texts_of(held_out) & {prompt.prompt for prompt in prompts}
    prompts = [prompt for prompt in prompts if prompt.prompt not in shared]
    random.Random(data["seed"]).shuffle(prompts)
    splits = split_prompts(prompts, data["prompts"], section_name(data), held_out)
    return TaskData(splits, [], num_shared=len(shared) if held_out else None)


def read_prompts(section: dict[str, Any], builder: PromptBuilder) -> list[Prompt]:
    """The prompts of rows {"prompt", "reference"}; the reference may be missing.

    Raises UserError, naming the place, for an empty prompt and for one that is no text or chat.
    """
    prompts = []
    for place, row in section_rows(section):
        record = as_record(row, PromptRow, place)
        chat = as_chat(record.prompt, f"{place}: field 'prompt'")
        if isinstance(chat, str) and not chat.strip():
            raise UserError(f"{place}: field 'prompt' is empty")
        columns = builder.columns_of(row, place)
        prompts.append(builder.prompt(chat, place, reference=record.reference or "", columns=columns))
    return [prompt for prompt in prompts if prompt is not None]


SOURCES: dict[str, Callable[..., TaskData]] = {
    "planted": _planted,
    "texts": _texts,
    "prompts": _prompts,
    "problems": _problems,
    "preferences": _from_preferences,
}
"""By the name that a config gives them."""
