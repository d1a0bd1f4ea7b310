"""Masks and methods of the user: registered by a plugin file, as rows of the same tables as the built-in ones."""

import ast
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import TypeAdapter, ValidationError

from sparsepo.methods.method import LEARNED_PARAMETERS, MASKS, Mask, Method
from sparsepo.methods.parameters import PARAMETERS, Parameter, number, whole_number
from sparsepo.methods.registry import METHODS, TOKEN_WEIGHTS
from sparsepo.runtime.errors import UserError, did_you_mean
from sparsepo.runtime.user_code import (
    definitions,
    find_function,
    find_source,
    import_source,
    load_object,
    names_of,
    relative_if_below,
    used_files,
)
from sparsepo.runtime.validation import error_message

VARIABLE = "SPARSEPO_PLUGINS"
"""The environment variable in which the workflow names the plugins of its config to its jobs."""
GROUP = "sparsepo.plugins"
"""The group of entry points by which an installed package has a plugin."""
BUILT_IN = {"mask": frozenset(MASKS), "method": frozenset(METHODS), "parameter": frozenset(PARAMETERS)}
READS = ("nothing", "hidden_states", "activations", "values", "logratio", "entropy")

Kind = Literal["mask", "method", "parameter"]
_sources: dict[tuple[Kind, str], tuple[Path, ...]] = {}
"""(kind, name) of what plugins have registered -> the file that did it, and those of its code."""


def load_plugins(sources: Iterable[str]) -> None:
    """Import plugins, each once in a process: those of installed packages, then these files or modules.

    Raises UserError for one that cannot be found, or with an error.
    """
    for point in entry_points(group=GROUP):
        import_source(point.value.partition(":")[0])
    for source in sources:
        import_source(source)


def load_plugins_of_job() -> None:
    """Import the plugins of the config that this job belongs to."""
    load_plugins(filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)))


def registered_files(kind: str, name: str) -> tuple[Path, ...]:
    """The files that a registered mask or method is made of; none for a built-in one."""
    own = _sources.get((kind, name), ())
    return tuple(dict.fromkeys(file for path in own for file in used_files(path)))


def register_mask(
    name: str,
    head: type | str,
    *,
    parameters: Mapping[str, Any] | None = None,
    reads: str | None = None,
    needs_values: bool = False,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Add a mask, which every method may have whose loss is a sum or a mean over tokens.

    head: a subclass of `MaskHead` or `LearnedHead`, or `file.py:Class`, where the plugin itself is to do without torch.
    parameters: keyword of the class -> its default, or a `Parameter` for a name that no built-in method has.
    reads: as of the class, needed where that is named by text. needs_values: whether it reads the number of each token
    that an oracle or the pairs give (`MaskInputs.values`); true for one that reads nothing else. options: keywords of
    the class that no config changes. Raises UserError for a name that is taken, and for a row that does not fit.
    """
    file = _calling_file()
    _check_name("mask", name, file, taken=("none",))
    reference, code = _reference(head, file, f"mask '{name}'")
    reads = reads or getattr(head, "reads", None)
    if not isinstance(head, str) and reads is None:
        raise UserError(f"mask '{name}': {reference} must be a subclass of sparsepo.MaskHead or LearnedHead")
    if reads not in READS:
        raise UserError(f"mask '{name}': reads is one of {', '.join(READS)}, not {reads!r}")
    own, options = _defaults("mask", name, parameters or {}, file), dict(options or {})
    _check_head(name, reference, {*own, *options}, reads)
    shared = LEARNED_PARAMETERS if reads == "hidden_states" else ("normalise",)
    with_oracle = ("oracle",) if needs_values or reads == "values" else ()
    MASKS[name] = Mask(reference, (*shared, *own, *with_oracle), options, reads)
    try:
        METHODS.update({method: _with_mask(row, name, own) for method, row in METHODS.items()})
    except UserError:
        del MASKS[name]
        raise
    _sources["mask", name], _mask_defaults[name] = (file, code), own


_mask_defaults: dict[str, dict[str, Any]] = {}
"""Mask of a plugin -> defaults of its own parameters."""


def _with_mask(row: Method, mask: str, defaults: Mapping[str, Any]) -> Method:
    """The row with a mask of a plugin among its choices, if it may have any.

    Raises UserError for a parameter of the mask that means something else in the row, or has another default there.
    """
    if not row.plugin_masks or (row.needs_values and MASKS[mask].reads_values):
        return row
    for name, default in defaults.items():
        if name in (*row.hyper, *row.adaptive, *row.rounds, *row.training) or row.masks.get(name, default) != default:
            where = f"method '{row.label}' has a parameter '{name}'"
            raise UserError(f"mask '{mask}': {where} of another meaning or default: give it another name")
    choices = tuple(dict.fromkeys((*row.mask_choices, mask)))
    return replace(row, mask_choices=choices, masks={**row.masks, **defaults})


def register_method(
    name: str,
    loss: Callable[..., Any] | str,
    *,
    hyper: Mapping[str, Any],
    token_weights: Literal["reward", "mean", "both"] | None = "reward",
    label: str = "",
    equation: str = "",
    source: str = "",
    needs_reference: bool = True,
    needs_scores: bool = False,
    needs_values: bool = False,
    kl: str | None = None,
    statistic: type | str = "",
    adaptive: Mapping[str, Any] | None = None,
) -> None:
    """Add a method that trains on pairs with a loss of your own.

    loss: loss(chosen, rejected, *, ...) -> PairLoss of two `Side`s, or `file.py:function`. hyper: its keywords with
    their defaults, or a `Parameter` for a name that no built-in method has. token_weights: what masks may weigh, the
    tokens of its sums (`reward_sum`), of its means (`reward_mean`), or of sums and of the KL (`kl_sum`); None: nothing.
    kl: the direction that it reads, `reverse` or `forward`. statistic: a class as those of `training.step_statistics`,
    with its parameters in `adaptive`. The other arguments are those of `Method`. Raises UserError for a name that is
    taken, for a row that does not fit the loss, and for a loss that does not do what `check_loss` says.
    """
    file = _calling_file()
    _check_name("method", name, file, taken=("sft", "chosen"))
    if token_weights not in (None, *TOKEN_WEIGHTS):
        raise UserError(f"method '{name}': token_weights is one of {', '.join(TOKEN_WEIGHTS)} or None")
    if kl not in (None, "reverse", "forward"):
        raise UserError(f"method '{name}': kl is 'reverse', 'forward' or None, not {kl!r}")
    loss_reference, code = _reference(loss, file, f"method '{name}'")
    files = [file, code]
    if statistic:
        statistic, code = _reference(statistic, file, f"method '{name}'")
        files.append(code)
    own, adaptive = (_defaults("method", name, values or {}, file) for values in (hyper, adaptive))
    _check_keywords(name, loss_reference, own, bool(statistic))
    needs = {"needs_reference": needs_reference, "needs_scores": needs_scores, "needs_values": needs_values, "kl": kl}
    if callable(loss) and not statistic:
        load_object("sparsepo.objective.own_loss.check_loss")(
            name, loss, own, has_weights=token_weights is not None, **needs
        )
    row = Method(
        label=label or name,
        loss=loss_reference,
        hyper=own,
        equation=equation or "see the plugin",
        source=source or file.name,
        **needs,
        statistic=statistic,
        adaptive=adaptive,
        **(TOKEN_WEIGHTS["without_values" if needs_values else token_weights] if token_weights else {}),
    )
    for mask, defaults in _mask_defaults.items():
        row = _with_mask(row, mask, defaults)
    METHODS[name] = row
    _sources["method", name] = tuple(dict.fromkeys(files))


# --- checks of a row


def _calling_file() -> Path:
    """The file that calls `register_mask` or `register_method`."""
    return Path(sys._getframe(2).f_code.co_filename).resolve()


def _check_name(kind: Kind, name: str, file: Path, taken: Iterable[str] = ()) -> None:
    """Raises UserError for a name that cannot stand in paths, or that another file or the package has given."""
    if re.fullmatch(r"[a-z][a-z0-9_]{0,39}", name) is None:
        raise UserError(f"{file}: a {kind} is named by small letters, digits and '_', not '{name}'")
    if name in BUILT_IN[kind] or name in taken:
        raise UserError(f"{file}: the {kind} '{name}' is built in and cannot be replaced: give yours another name")
    other = _sources.get((kind, name), (file,))[0]
    if other != file:
        raise UserError(f"{file}: the {kind} '{name}' is also registered by {other}: rename one of them")


def _reference(target: Any, file: Path, what: str) -> tuple[str, Path]:
    """`file.py:name` of code that is given as an object, or by text relative to the plugin; and its file."""
    if isinstance(target, str):
        path, colon, name = target.rpartition(":")
        if path.endswith(".py"):
            target = f"{relative_if_below(file.parent / path)}:{name}"
        find_function(target)
        return target, find_source(target.rpartition(":")[0]).resolve()
    name = getattr(target, "__qualname__", "")
    module = sys.modules.get(getattr(target, "__module__", ""))
    if not name.isidentifier() or getattr(module, "__file__", None) is None:
        raise UserError(f"{file}: {what} needs a class or a function that a file defines at its top level")
    own = Path(module.__file__).resolve()
    return f"{relative_if_below(own)}:{name}", own


def _defaults(kind: Kind, row: str, given: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Parameter -> default. A `Parameter` is added to the table of them."""
    for name, value in given.items():
        if not isinstance(value, Parameter):
            if name not in PARAMETERS:
                raise UserError(
                    f"{file}: parameter '{name}' of {kind} '{row}' is new: give Parameter(type, description, default); "
                    f"of those that are there, {did_you_mean(name, PARAMETERS)}"
                )
            continue
        if name not in PARAMETERS or name not in BUILT_IN["parameter"]:
            _check_name("parameter", name, file)
        elif PARAMETERS[name] != _with_checked_type(value, file, name):
            raise UserError(f"{file}: parameter '{name}' is built in with another meaning: give yours another name")
        PARAMETERS[name] = _with_checked_type(value, file, name)
        _sources["parameter", name] = (file,)
    defaults = {name: value.default if isinstance(value, Parameter) else value for name, value in given.items()}
    for name, default in defaults.items():
        try:
            TypeAdapter(PARAMETERS[name].type).validate_python(default)
        except ValidationError as error:
            message = error_message(error.errors()[0])
            raise UserError(f"{file}: the default of parameter '{name}' of {kind} '{row}' {message}") from None
    return defaults


def _with_checked_type(parameter: Parameter, file: Path, name: str) -> Parameter:
    """The parameter with a type that a grid can hold as text: a number, or one of some words."""
    kind = {float: number(), int: whole_number()}.get(parameter.type, parameter.type)
    words = get_origin(kind) is Literal and all(isinstance(word, str) for word in get_args(kind))
    if not words and get_args(kind)[:1] not in ((int,), (float,)):
        raise UserError(f"{file}: parameter '{name}' is a number(...), a whole_number(...) or a Literal of texts")
    if parameter.default is None:
        raise UserError(f"{file}: parameter '{name}' needs a default, as the third value of Parameter")
    return parameter._replace(type=kind)


def _check_keywords(name: str, reference: str, hyper: Mapping[str, Any], has_statistic: bool) -> None:
    """Raises UserError unless the keywords of a loss are those of its row; a statistic may give more of them."""
    node = find_function(reference)
    if not isinstance(node, ast.FunctionDef) or node.args.kwarg:
        return
    keywords = {argument.arg for argument in node.args.kwonlyargs}
    given = [*node.args.posonlyargs, *node.args.args]
    if len(given) != 2:
        raise UserError(f"method '{name}': {reference} must be loss(chosen, rejected, *, {', '.join(hyper)})")
    if keywords != set(hyper) and not (has_statistic and keywords > set(hyper)):
        names = ", ".join(sorted(keywords)) or "none"
        raise UserError(
            f"method '{name}': hyper has {', '.join(hyper) or 'none'}, and {reference} the keywords {names}"
        )


def _check_head(name: str, reference: str, given: set[str], reads: str) -> None:
    """Raises UserError unless the class of a mask takes the keywords of its row and no other is needed."""
    node = find_function(reference)
    own = definitions(getattr(node, "body", []))
    if "__init__" not in own:
        if given and any(
            getattr(base, "id", getattr(base, "attr", "")) == "MaskHead" for base in getattr(node, "bases", [])
        ):
            raise UserError(f"mask '{name}': {reference} needs an __init__ that takes '{min(given)}'")
        return
    arguments = own["__init__"].args
    (_, *places), keywords, optional = names_of(arguments)
    takes = {*places, *keywords}
    by_trainer = {"num_layers", "width"} if reads == "hidden_states" else set()
    unknown, missing = given - takes, takes - optional - given - by_trainer
    if unknown and not arguments.kwarg:
        raise UserError(f"mask '{name}': {reference} has no keyword '{min(unknown)}'")
    if missing:
        raise UserError(f"mask '{name}': {reference} needs '{min(missing)}', which is not among its parameters")
