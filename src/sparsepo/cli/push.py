"""`sparsepo push`: the policy of a finished run, with its tokenizer, masks and card, to a repository of the hub."""

from pathlib import Path
from tempfile import TemporaryDirectory

from sparsepo.cli.card import CARD, FinishedRun, model_card, read_run
from sparsepo.runtime.atomic_folder import OF_ONE_KIND
from sparsepo.runtime.errors import UserError, one_line

UPLOADED = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "*.py")
"""Of the files of a run: config, weights, tokenizer, masks, and code that a model brings along."""
KEPT_HERE = ("run.json", CARD)


def push(folder: Path, repository: str, *, merge: bool, public: bool) -> str:
    """Upload the policy of a run; returns the address of the repository, which is made if there is none.

    merge: plain weights in place of an adapter. public: whether others may read a new repository. An old repository
    that is public is refused unless `public`. Raises UserError for a run or a repository that cannot be used, without
    a login, and when the hub refuses or cannot be reached.
    """
    check_repository(repository)
    run = read_run(folder)
    if merge and not run.is_adapter:
        raise UserError(f"{folder}: --merge is for adapters, and this run has plain weights: leave it out")
    if run.is_adapter and run.base is None and not merge:
        raise UserError(
            f"{folder}: the base of this adapter is a local folder, which no one else can load: add --merge"
        )
    check_login()
    with TemporaryDirectory() as temporary:
        stage_files(run, repository, merge, Path(temporary))
        return upload(Path(temporary), repository, public)


def check_repository(repository: str) -> None:
    """Raises UserError unless it is `org/name` as the hub allows it."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise UserError(f"--to {repository}: no name of a repository ({one_line(str(error), 200)})") from None
    if repository.count("/") != 1:
        raise UserError(f"--to {repository}: write the organisation or user too, as in org/{repository}")


def check_login() -> None:
    from huggingface_hub import get_token

    if get_token() is None:
        raise UserError("no login to the hub: run hf auth login, or set HF_TOKEN")


def stage_files(run: FinishedRun, repository: str, merge: bool, target: Path) -> None:
    """Fill a folder with what is uploaded: links to the files of the run, or merged weights, and the card."""
    dtype = None
    if merge:
        from sparsepo.models.loading import load_merged, load_tokenizer, save_model

        model = load_merged(run.folder)
        dtype = str(model.dtype).removeprefix("torch.")
        save_model(model, load_tokenizer(run.folder), target)
    left_out = {*KEPT_HERE, *(OF_ONE_KIND if merge else ())}
    for path in sorted(path for pattern in UPLOADED for path in run.folder.glob(pattern)):
        if path.name not in left_out and not (target / path.name).exists():
            (target / path.name).symlink_to(path.resolve())
    (target / CARD).write_text(model_card(run, repository, dtype), encoding="utf-8")


def upload(folder: Path, repository: str, public: bool) -> str:
    """Upload a folder as one commit. Files of the other kind, of an adapter or a model, go from the repository."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    api = HfApi()
    try:
        address = api.create_repo(repository, private=not public, exist_ok=True)
        if not public and not api.repo_info(repository).private:
            raise UserError(f"--to {repository}: this repository is public: add --public, or make it private first")
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message="Upload a policy of sparsepo",
            delete_patterns=sorted(OF_ONE_KIND),
        )
    except HfHubHTTPError as error:
        reason = one_line(error.server_message or str(error), 200)
        code = getattr(error.response, "status_code", "no status")
        raise UserError(f"--to {repository}: the hub refuses it ({code}: {reason})") from None
    except (HTTPError, OSError) as error:
        reason = one_line(str(error) or type(error).__name__, 200)
        raise UserError(f"the hub at {api.endpoint} cannot be reached ({reason})") from None
    return str(address)
