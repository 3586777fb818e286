"""What can go wrong with data from outside; every message is one line for the user."""


class CodecError(ValueError):
    """Say in one line what is wrong with a file, a signal or a setting, and what to do."""


class AudioError(CodecError):
    """An audio file cannot be read, used or written."""


class BitstreamError(CodecError):
    """A coded file or stream is not one, is damaged, or needs other weights."""


class WeightsError(CodecError):
    """A weights file is missing, damaged or of another format."""
