"""NewFiles: makes the files of a node's recordings, each of which can be read on its own."""

import errno
from collections.abc import Callable, Iterable, Mapping

from node.recording.folder import RecordingFolder
from node.recording.mcap_writer import RecordingFile
from perception_client.recordings.names import number_of
from perception_client.recordings.records import Entry

MAX_NAMES_TRIED = 100
"""New names that are tried where other nodes of the same name write into the same folder."""


class NewFiles:
    """Makes files in a folder. Used by one thread.

    about: metadata of each file. head: the entries that each file begins with, for a time on the
    recording's clock in ns: the configuration and the label names.
    """

    def __init__(
        self,
        folder: RecordingFolder,
        about: Mapping[str, str],
        head: Callable[[int], Iterable[Entry]],
    ) -> None:
        self._folder = folder
        self._about = about
        self._head = head

    def make(self, log_ns: int, kind: str = "", **about: str) -> RecordingFile:
        """A new file with its head. kind: part of the name. The head is written at once, so that a
        full disk fails here. Raises OSError with the name of the file."""
        file = self._create(kind, {**self._about, **about})
        try:
            file.write(self._head(log_ns))
            file.flush()
        except OSError as error:
            file.abandon()
            raise OSError(error.errno, error.strerror, str(file.path)) from error
        return file

    def _create(self, kind: str, about: Mapping[str, str]) -> RecordingFile:
        """Another node of the same name may take a new name first."""
        for _ in range(MAX_NAMES_TRIED):
            path = self._folder.new_path(kind)
            number = str(number_of(path) or "")  # remains where the file is renamed
            try:
                return RecordingFile(path, {**about, "number": number})
            except FileExistsError:
                continue
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(path)) from error
        raise FileExistsError(errno.EEXIST, "others take every new name", str(self._folder.path))
