"""Files from the Hugging Face hub: from the local cache, or a download that gives up quickly."""

from collections.abc import Callable, Sequence
from pathlib import Path

from vilbert_jax.errors import InputError

_TIMEOUT_S = 10.0


def hub_folder(name: str, files: Sequence[str], *, complete: Callable[[Path], bool], what: str) -> Path:
    """The local folder of a hub repository.

    Args:
        name: as on the hub, such as ``bert-base-uncased``.
        files: names of the files to fetch if they are not in the cache; those the repository lacks are left out.
        complete: whether a cached folder holds what is needed.
        what: what is looked for, for the message.

    Raises:
        InputError: not in the cache and not to be had; the message says what to do.
    """
    import huggingface_hub  # only names need it
    from huggingface_hub.errors import HFValidationError

    try:
        cached = Path(huggingface_hub.snapshot_download(name, local_files_only=True))
        if complete(cached):
            return cached
    except (OSError, HFValidationError):
        pass  # not in the cache
    try:
        # One listing first, which fails within the time-out where single files would be retried for long.
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=[*files], etag_timeout=_TIMEOUT_S))
    except Exception as error:  # offline, unknown, private: what to do is the same
        raise InputError(
            f"no {what} {name!r}: it is no file or folder here, not in the Hugging Face cache, and could not be "
            f"downloaded ({type(error).__name__}). Give the path of a file or folder, or run once with network access"
        ) from error
