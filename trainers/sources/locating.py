"""Where the files of a source are: in somebody's folder, or on the Hub."""

from __future__ import annotations

import fnmatch
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from trainers.sources.images import ImageIndex, find_folders, walk_files
from trainers.sources.source import SourceForm, TrainingSource


logger = logging.getLogger(__name__)

HUB = "hub"
_ANNOTATION_SUFFIXES = frozenset({".json", ".p", ".parquet"})


class MissingFilesError(ValueError):
    """The files of a source are not there; the message says which ones are looked for, and where."""


class Locator:
    """
    Finds annotation files and images.

    Args:
        root (`str` or `Path`): Folder with a folder for each source, or `"hub"`.
        images (`str` or `Path`, *optional*): Folder with the images, if that is another one.

    Raises:
        ValueError: a folder is not there.
    """

    def __init__(self, root: str | os.PathLike, images: str | os.PathLike | None = None) -> None:
        self.hub = str(root) == HUB
        self.root = Path(root).expanduser().absolute()
        self.image_root = Path(images).expanduser().absolute() if images is not None else self.root
        for name, folder in (("source", None if self.hub else self.root), ("images", images and self.image_root)):
            if folder is not None and not Path(folder).is_dir():
                raise ValueError(f"`{name}` must be a folder, got {str(folder)!r}, which is none")
        self._listings: dict[Path, list[Path]] = {}
        self._indices: dict[tuple[Path, ...], ImageIndex] = {}

    def find_files(
        self, source: TrainingSource, form: SourceForm, patterns: Mapping[str, str]
    ) -> dict[str, list[Path]] | None:
        """
        The files of a form by role, all of them from one folder, or None where one of the roles has none.

        Args:
            source (`TrainingSource`): Whose folders are searched.
            form (`SourceForm`): Its Hub repository, where the Hub is searched.
            patterns (`Mapping[str, str]`): By role, patterns of the file's name, the preferred one first, with `|` in
                between.
        """
        if self.hub:
            folders = [] if form.hub is None else [_download(form.hub, patterns)]
        else:
            folders = find_folders(self.root, source.folders)
        for folder in folders:
            found = {role: _match(self._list(folder), pattern) for role, pattern in patterns.items()}
            if all(found.values()):
                return found
        return None

    def find_form(self, source: TrainingSource) -> tuple[SourceForm, dict[str, list[Path]]]:
        """
        The first form of a source whose training files are there.

        Raises:
            MissingFilesError: there is none.
        """
        for form in source.forms:
            files = self.find_files(source, form, form.files["train"])
            if files is not None:
                return form, files
        if self.hub:
            forms = [f"{form.name}: {form.note}" for form in source.forms]
            raise MissingFilesError(f"{source.name} cannot be read from the Hub, but from files ({'; '.join(forms)})")
        wanted = "; or ".join(" and ".join(dict.fromkeys(form.files["train"].values())) for form in source.forms)
        wanted = wanted.replace("|", " or ")
        folders = " or ".join(source.folders)
        raise MissingFilesError(f"{source.name}: no folder {folders} below {self.root} holds {wanted}")

    def images(self, source: TrainingSource) -> ImageIndex:
        """The images that a source's rows name; read once for all sources that share them."""
        names = (*source.image_folders, *source.folders)
        folders = find_folders(self.image_root, names)
        if not folders and not (self.hub and self.image_root == self.root):
            folders = [self.image_root]
        # A folder within another one of them is looked at with that.
        folders = [folder for folder in folders if not any(other in folder.parents for other in folders)]
        key = tuple(folders)
        if key not in self._indices:
            self._indices[key] = ImageIndex(folders)
            logger.info("%d images below %s", len(self._indices[key]), ", ".join(map(str, folders)) or "no folder")
        return self._indices[key]

    def _list(self, folder: Path) -> list[Path]:
        if folder not in self._listings:
            self._listings[folder] = [path for path in walk_files(folder) if path.suffix in _ANNOTATION_SUFFIXES]
        return self._listings[folder]


def _match(paths: list[Path], pattern: str) -> list[Path]:
    for alternative in pattern.split("|"):
        found: dict[str, Path] = {}
        for path in paths:
            if fnmatch.fnmatchcase(path.name, alternative):
                found.setdefault(path.name, path)  # a copy elsewhere in the folder
        if found:
            return [found[name] for name in sorted(found)]
    return []


def _download(repo: str, patterns: Mapping[str, str]) -> Path:
    from huggingface_hub import snapshot_download

    names = [name for pattern in patterns.values() for name in pattern.split("|")]
    allowed = [place + name for name in names for place in ("", "*/")]
    return Path(snapshot_download(repo, repo_type="dataset", allow_patterns=allowed))
