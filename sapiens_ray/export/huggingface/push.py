"""Upload of a dataset to the Hugging Face hub, which can be interrupted and repeated.

The hub keeps files by the hash of their content, whether or not they were committed. Files are committed in groups;
when the upload is repeated, what the hub holds is not sent again. huggingface_hub has a function for large folders
(`upload_large_folder`), but its version 2 has no longer; commits are in all versions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sapiens_ray.errors import ConfigError, JobError, first_line
from sapiens_ray.export.huggingface.card import CARD, is_edited, read_mark
from sapiens_ray.export.huggingface.shards import is_shard
from sapiens_ray.storage import Folder, local_path

COMMITTED_TOGETHER = 25  # files; the hub limits the commits of an hour, and one of many files may time out


@dataclass(frozen=True)
class Repository:
    """A dataset on the hub that this machine's token may write to. HF_TOKEN, HF_ENDPOINT and HF_HOME work as documented
    by huggingface_hub."""

    name: str

    @classmethod
    def made(cls, name: str, private: bool, card: bytes | None) -> Repository:
        """The repository, which is made if it does not exist. card: the local README.md, if there is one.

        Raises ConfigError if that is not possible, if it is public although it should be private, and if it holds
        what an upload would destroy: the dataset of someone else, or a card that was edited there.
        """
        from huggingface_hub import CommitOperationAdd, HfApi

        api = HfApi()
        with _errors_of(name, ConfigError):
            api.create_repo(name, repo_type="dataset", private=private or None, exist_ok=True)
            # Sends nothing, since a README is not a large file, but asks whether this token may write here.
            api.preupload_lfs_files(name, [CommitOperationAdd("README.md", b"#")], repo_type="dataset")
            is_private = api.repo_info(name, repo_type="dataset").private
            files = api.list_repo_files(name, repo_type="dataset")
            there = None
            if CARD in files:
                there = Path(api.hf_hub_download(name, CARD, repo_type="dataset")).read_bytes()
        if there is None and any(map(is_shard, files)):
            raise ConfigError(f"--push {name}: holds data files of a dataset without {CARD}; {_OTHER}")
        if there is not None and read_mark(there) is None:
            raise ConfigError(f"--push {name}: {CARD} there was not written by this export; {_OTHER}")
        if there is not None and is_edited(there) and there != card:
            raise ConfigError(f"--push {name}: {CARD} there was edited; keep your text, and {_OTHER}")
        if private and not is_private:
            raise ConfigError(f"--push {name}: is public; make it private in its settings, or leave out --private")
        return cls(name)

    def upload(self, folder: Folder, files: Sequence[str]) -> str:
        """Upload the files in this order, and remove data files of an earlier upload. Returns the URL of the dataset.
        Raises JobError if it fails; called again, it goes on."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

        api = HfApi()
        with _errors_of(self.name, JobError):
            there = api.list_repo_files(self.name, repo_type="dataset")
            stale = [CommitOperationDelete(name) for name in there if is_shard(name) and name not in files]
            for start in range(0, len(files), COMMITTED_TOGETHER):
                group = files[start : start + COMMITTED_TOGETHER]
                last = start + len(group) == len(files)
                added = [CommitOperationAdd(name, local_path(folder.join(name))) for name in group]
                api.create_commit(
                    self.name,
                    [*added, *(stale if last else [])],
                    commit_message=f"Labels of sapiens-ray: {start + len(group)} of {len(files)} files",
                    repo_type="dataset",
                )
        return f"{api.endpoint}/datasets/{self.name}"


@contextlib.contextmanager
def _errors_of(name: str, kind: type[ConfigError] | type[JobError]) -> Iterator[None]:
    """Errors of the hub inside the block as one line that says what to do."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        raise kind(f"--push {name}: {_REMEDIES.get(status, first_line(error))}") from None
    except Exception as error:  # of many kinds, from huggingface_hub and its dependencies
        again = "" if kind is ConfigError else "; run the same command again to go on"
        raise kind(f"--push {name}: {type(error).__name__}: {first_line(error)}{again}") from None


_OTHER = f"delete {CARD} and data/ there, or name another dataset"
_REMEDIES = {
    401: "there is no token, or the hub does not know it: run `hf auth login`, or set HF_TOKEN",
    403: "your token may not write there: it needs the permission to write for this user or organisation",
    404: "there is no such user or organisation, or your token may not see it",
}
