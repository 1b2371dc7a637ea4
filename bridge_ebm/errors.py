"""The one exception that means: the input is at fault, and here is how to mend it."""


class InputError(ValueError):
    """Bad input from outside (a folder, a picture, a flag, a checkpoint).

    The message is a single line that names the file or the flag and the remedy. The commands in `experiments/`
    print it without a traceback and exit with status 1.
    """

    def __init__(self, message: str):
        # A file name may hold line breaks.
        super().__init__(message.replace("\n", "\\n").replace("\r", "\\r"))
