"""Sections that name a scorer of responses, or a judge that compares two of them."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from sparsepo.config.base import Bool, Count, FunctionName, LocatedError, Positive, Section, Text, passes
from sparsepo.runtime.errors import UserError
from sparsepo.runtime.secrets import split_url
from sparsepo.runtime.user_code import FunctionParameters, parameters_of


class VaderScorer(Section):
    """VADER's compound sentiment of prompt + response, mapped to [0, 1]."""

    kind: Literal["vader"]
    """`vader`: a lexicon of sentiment; needs no model."""


class TfidfScorer(Section):
    """Probability of class 1 by logistic regression on TF-IDF of words and pairs of words.

    The pipeline fits it to the `data.labelled` documents, and reports its accuracy on a fifth of them, held out.
    """

    kind: Literal["tfidf"]
    """`tfidf`: a classifier fitted to the `data.labelled` documents."""


class TextClassifier(Section):
    """A sequence classifier of transformers."""

    model: Text
    """Hub id or folder of the classifier."""
    batch_size: Count = 32
    """Texts classified together: more are faster and take more memory."""
    pickled_weights: Bool = False
    """true also loads weights that are not safetensors; nothing but tensors is read from them."""


class ClassifierScorer(TextClassifier):
    """Probability that a text classifier gives to a label."""

    kind: Literal["classifier"]
    """`classifier`: the probability of one label."""
    label: Text = "POSITIVE"
    """The label whose probability is the score, as the model's config spells it."""


class RewardModelScorer(TextClassifier):
    """The number that a reward model gives to a response."""

    kind: Literal["reward_model"]
    """`reward_model`: the output of a classifier that has one output. It reads chats in its own chat template."""


class PythonScorer(Section):
    """A function of your own: score(prompts, responses) -> a number of each response; see docs/extending.md.

    Further parameters of the function are columns of the data, each a list with one value for each response.
    """

    kind: Literal["python"]
    """`python`: a function of your own."""
    function: FunctionName
    """The function: my_reward.py:score, of a file beside this config, or package.module:score."""
    higher_is_better: Bool = True
    """false for a metric of `extra_scorers` whose low values are good. A reward is always better when higher."""

    @property
    def parameters(self) -> FunctionParameters:
        """The columns of the data that the function asks for."""
        return parameters_of(self.function, ("prompts", "responses"))

    def _errors(self) -> Iterator[LocatedError]:
        try:
            parameters_of(self.function, ("prompts", "responses"))
        except UserError as error:
            yield str(error), ("function",)


ScorerConfig = Annotated[
    VaderScorer | TfidfScorer | ClassifierScorer | RewardModelScorer | PythonScorer, Field(discriminator="kind")
]


class ScorerJudge(Section):
    """Prefers the response with the higher score; with a reward model, by the probability of Bradley and Terry."""

    kind: Literal["scorer"]
    """`scorer`: compares scores."""
    scorer: ScorerConfig
    """What scores both responses."""


class NliJudge(TextClassifier):
    """Prefers the response that the prompt entails more, by an NLI classifier."""

    kind: Literal["nli"]
    """`nli`: compares entailment."""


class EndpointJudge(Section):
    """Asks a chat model behind an OpenAI-compatible address, in both orders of the responses."""

    kind: Literal["endpoint"]
    """`endpoint`: a chat model behind an address."""
    url: Annotated[
        Text,
        passes(split_url),
    ]
    """The address up to the version, for example https://api.openai.com/v1."""
    model: Text
    """The name of the model, as the endpoint knows it."""
    asks: Literal["dialogue", "summary"]
    """What is compared: answers of a dialogue (helpful and harmless), or summaries of a post."""
    api_key_env: Text | None = "OPENAI_API_KEY"
    """The environment variable that holds the key, which is written nowhere; null sends no key."""
    max_tokens: Count = 512
    """Tokens of the judge's answer at most."""
    retries: Count = 5
    """How often a failed question is asked again."""
    timeout: Positive = 60.0
    """Seconds that a request may take, with its whole answer."""
    max_concurrency: Count = 4
    """Questions asked at the same time."""


JudgeConfig = Annotated[ScorerJudge | NliJudge | EndpointJudge, Field(discriminator="kind")]
