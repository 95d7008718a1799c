"""Why a command did not do what it was asked. `ops.ending` turns each into a sentence and an exit code.

    RuumError                   (shared/errors.py)
    `-- CommandError
        |-- Ended               one sentence and the exit code with it              (cli_common.py)
        |-- NoTarget            there is no stack, project or data folder to work on
        |-- NoBatch             there is no such batch
        |-- NoKey               Gemini was asked for, and there is no key
        |-- OurFault            our configuration stops the work
        |-- FolderInUse         another process is using the data folder
        |-- AlreadyUp           a stack is already running in this folder
        |-- Missing             something the local stack needs is not on this machine
        |-- NotFinished         a client that is to be erased has open batches      (erasing.py)
        `-- ReaderGone          the reader of our output went away

Names with an underscore never leave their module, and are not drawn.
"""

from __future__ import annotations

from shared.errors import RuumError


class CommandError(RuumError):
    """Base of what ends a command on purpose."""


class NoBatch(CommandError):
    """There is no such batch; the text lists those that exist."""


class Missing(CommandError):
    """Something the local stack needs is not on this machine; the text is one sentence with the command to get it."""


class FolderInUse(CommandError):
    """Another process is using the data folder."""


class OurFault(CommandError):
    """Our configuration stops the work; the text says what is wrong."""


class NoKey(CommandError):
    """Gemini was asked for, and there is no key."""


class ReaderGone(CommandError):
    """The reader of our output went away. Not an OSError: typer handles a broken pipe in its own way."""


class AlreadyUp(CommandError):
    """A stack is already running in this folder."""


class NoTarget(CommandError):
    """There is no stack, project or data folder to work on; the text says how to name one."""
