"""The errors a user may meet.

Each message is one sentence: what was given, what is accepted, what to do next.
"""


class TorchSaliencyError(Exception):
    """Base of every error raised on purpose by this library."""


class InputError(TorchSaliencyError, ValueError):
    """The image batch cannot be explained (shape, type, device or values)."""


class TargetError(TorchSaliencyError, ValueError):
    """The target does not fit the network's output or the batch."""


class LayerError(TorchSaliencyError, ValueError):
    """The layer does not exist, did not run, or has no spatial map."""


class OptionError(TorchSaliencyError, ValueError):
    """A method, a hyper-parameter or a name is unknown or out of range."""


class CheckpointError(TorchSaliencyError, ValueError):
    """A network or its weights cannot be loaded."""


class DataError(TorchSaliencyError, ValueError):
    """A photograph or a data set cannot be read."""
