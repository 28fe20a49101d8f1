"""PermittedModels: the models that a request to a running node may name. A model is code that the
node runs, and its files are read with the rights of the node, so arbitrary files are refused."""

from pathlib import Path

from node.config.schema import NodeConfig
from node.errors import ControlError


class PermittedModels:
    """Permits the names of the registry, files inside `control.models`, and the models of the
    configuration. config: the configuration that the node was started with."""

    def __init__(self, config: NodeConfig) -> None:
        self._folder = config.control.models
        named = [(config.model.name, config.model.weights)]
        named += [(step.model, step.weights) for step in config.degrade.steps if step.model]
        self._configured = {value for pair in named for value in pair if value is not None}

    def model(self, name: str) -> str:
        """The model to load for a name in a request: the name, or the path of a file. Raises
        ControlError."""
        from node.perception.models.model_file import SUFFIXES

        if name in self._configured or Path(name).suffix.lower() not in SUFFIXES:
            return name
        return str(self._inside("model", name))

    def weights(self, file: str) -> str:
        """The weights to load for a file in a request. Raises ControlError."""
        if Path(file) in self._configured:
            return file
        return str(self._inside("weights", file))

    def _inside(self, kind: str, file: str) -> Path:
        """A file in the folder, by its path or name; links are resolved first."""
        if self._folder is None:
            raise ControlError(
                f"{kind} {file!r:.80}: a request may name models of the catalogue",
                fix="name the folder of your own in control.models of the node's configuration",
            )
        try:
            folder = self._folder.resolve()
            path = (folder / file).resolve()
        except (OSError, RuntimeError, ValueError):  # a circle of links, a zero byte
            path = Path("/")
        if not path.is_relative_to(folder):
            raise ControlError(
                f"{kind} {file!r:.80}: is outside of control.models, {self._folder}",
                fix="put it there",
            )
        return path
