"""The Hugging Face Hub: fetches checkpoints and adapters, checks what came, and pushes folders.

Only the named files of a repository are fetched, never a pickle, and all of them at one commit. The client retries and
resumes an interrupted transfer; the sha256 that the Hub states for a large file is compared with what arrived.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
CARD_NAME = "README.md"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_GIT_SHA1 = re.compile(r"[0-9a-f]{40}")


def is_repo_id(name: str | Path) -> bool:
    """Whether a name has the form of a Hub id, ``owner/name``.

    Example:
        >>> is_repo_id("owner/promptseg-liver"), is_repo_id("promptseg-tiny"), is_repo_id("../weights/mine")
        (True, False, False)
    """
    return isinstance(name, str) and REPO_ID.fullmatch(name) is not None and ".." not in name


def locate(name: str | Path, folder: Path, files: Sequence[str], kind: str, maker: str, **hub: Any) -> Path | None:
    """Folder that holds files: one on this machine, which is preferred, or that of a Hub id, which is fetched.

    Args:
        name: as it was given.
        folder: what it stands for on this machine, if that is there.
        files: that must be there.
        kind: ``checkpoint`` or ``adapter``, for messages.
        maker: what writes such folders, with its verb.
        hub: of :func:`fetch`.

    Returns:
        The folder; None where the name is neither a folder nor a Hub id.

    Raises:
        ValueError: for an incomplete folder, a revision of a folder, or a Hub id that cannot be had.
    """
    if not folder.is_dir():
        return fetch(str(name), files, **hub) if is_repo_id(name) else None
    if hub.get("revision") is not None:
        raise ValueError(
            f"revision={hub['revision']!r}: {str(name)!r} is a folder on this machine ({folder}), which has no "
            "revisions; leave it out, or give a Hub id owner/name"
        )
    missing = [n for n in files if not (folder / n).is_file()]
    if missing:
        raise ValueError(
            f"{kind} folder {str(name)!r} has no {' and no '.join(missing)}; expected both, as {maker} them"
        )
    return folder


def fetch(
    repo_id: str,
    names: Sequence[str],
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Path:
    """Fetches files of a repository into the Hub's cache, or finds them there.

    Args:
        repo_id: ``owner/name``.
        names: files, the first of which settles the commit for the others.
        revision: branch, tag or commit; None for the main branch.
        cache_dir: the Hub's cache; None for the client's own choice (``HF_HOME``).
        token: of the Hub; None for the one that ``hf auth login`` stored.
        local_files_only: use only what is there already.

    Returns:
        Folder that holds them.

    Raises:
        ValueError: if one cannot be had, or is not what the Hub says it is; the message has the cure.
    """
    from huggingface_hub import hf_hub_download

    command = f"hf download {repo_id} {' '.join(names)}" + (f" --revision {revision}" if revision else "")
    options: dict[str, Any] = {"token": token, "local_files_only": local_files_only, "endpoint": endpoint()}
    options |= {"cache_dir": None if cache_dir is None else str(cache_dir), "library_name": "promptseg"}
    commit, path = revision, Path()
    for name in names:
        try:
            path = Path(hf_hub_download(repo_id, name, revision=commit, **options))
        except Exception as error:  # the client's, httpx's and the file system's: each becomes one line
            raise ValueError(_explain(error, repo_id, name, revision, command, local_files_only)) from error
        if (reason := damage(path)) is not None:
            remove(path)
            raise ValueError(
                f"{name} of {repo_id!r}: {reason}. It was removed from {path.parent}; fetch it again with `{command}`, "
                "and if this repeats, tell the owner of the repository"
            )
        commit = path.parent.name  # snapshots/COMMIT/NAME: the other files come from the same commit
    return path.parent


def endpoint() -> str | None:
    """Address of the Hub that ``HF_ENDPOINT`` names now; None for the client's own."""
    return os.environ.get("HF_ENDPOINT") or None


def damage(path: Path) -> str | None:
    """How a cached file differs from what the Hub states for it; None where it does not, or nothing is stated.

    The cache names a file's content by the digest that the Hub gave for it: sha256 for large files, git's for others.
    Cost: one pass over the file.
    """
    blob = path.resolve()
    if _SHA256.fullmatch(blob.name):
        digest = hashlib.sha256()
    elif _GIT_SHA1.fullmatch(blob.name):
        digest = hashlib.sha1(f"blob {blob.stat().st_size}\0".encode(), usedforsecurity=False)
    else:
        return None
    with blob.open("rb") as stream:
        while piece := stream.read(1 << 22):
            digest.update(piece)
    if digest.hexdigest() == blob.name:
        return None
    return f"its checksum is {digest.hexdigest()[:12]}..., the Hub states {blob.name[:12]}..."


def remove(path: Path) -> None:
    """Removes a cached file and what it points to."""
    blob = path.resolve()
    path.unlink(missing_ok=True)
    blob.unlink(missing_ok=True)


def _explain(
    error: Exception, repo_id: str, name: str, revision: str | None, command: str, local_files_only: bool
) -> str:
    """One line on why a file could not be had, and what to do."""
    from huggingface_hub import errors

    where = f"{repo_id!r}" + (f" at revision {revision!r}" if revision else "")
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{where}: the repository has no such revision; see its tags and commits, or leave revision out"
    if isinstance(error, errors.GatedRepoError):
        return f"{where}: access is granted by its owner; ask on its page, then `hf auth login` or pass token="
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"{where}: the Hub has no such repository, or a private one; check the name, "
            f"or `hf auth login` (or token=) and then `{command}`; no folder of that name is here either"
        )
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return f"{where}: the repository has no {name}: promptseg did not write it; only safetensors are read"
    if isinstance(error, (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)):
        cause = (
            "local_files_only is set" if local_files_only else "the Hub cannot be reached (or HF_HUB_OFFLINE is set)"
        )
        return f"{where}: {name} is not on this machine and {cause}; fetch it once, with a connection: `{command}`"
    if isinstance(error, errors.HFValidationError):
        return f"{where}: not a valid name on the Hub; expected owner/name"
    reason = " ".join((str(error) or type(error).__name__).split())
    return f"{where}: {name} could not be fetched ({reason}); try again: `{command}`"


def push(
    folder: str | Path,
    repo_id: str,
    names: Sequence[str],
    *,
    private: bool = False,
    token: str | bool | None = None,
    message: str = "Upload by promptseg",
    revision: str | None = None,
) -> str:
    """Uploads files of a folder as one commit, and makes the repository if it is not there.

    Args:
        folder: where they are.
        repo_id: ``owner/name``.
        names: files to upload.
        private: whether a repository that is made is private.
        token: of the Hub; None for the one that ``hf auth login`` stored.
        message: of the commit.
        revision: branch; None for the main one.

    Returns:
        The commit, to be given as ``revision=``.

    Raises:
        ValueError: for a name that is not ``owner/name``, a missing file, or an upload that is refused.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    folder = Path(folder)
    if not is_repo_id(repo_id):
        raise ValueError(f"repo_id={repo_id!r}: expected owner/name")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} has no {', '.join(missing)}; save into it first")
    try:
        api = HfApi(endpoint=endpoint(), token=token, library_name="promptseg")
        api.create_repo(repo_id, private=private, exist_ok=True)
        operations = [CommitOperationAdd(name, str(folder / name)) for name in names]
        info = api.create_commit(repo_id, operations, commit_message=message, revision=revision)
    except Exception as error:  # as in fetch
        reason = " ".join((str(error) or type(error).__name__).split())
        raise ValueError(
            f"{repo_id!r}: the upload failed ({reason}); `hf auth login` with a token that may write, then try again"
        ) from error
    return str(info.oid)
