import errno
import pickle

import pytest

from bcnet_core.errors import ExitCode, data_error, usage_error
from tests.conftest import Bcnet


def test_an_error_keeps_hints_and_code_between_processes() -> None:
    error = pickle.loads(pickle.dumps(data_error("broken", "mend it")))
    assert (error.message, error.hints, error.exit_code) == ("broken", ("mend it",), ExitCode.BAD_DATA)
    assert usage_error("what?").exit_code == 2


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (OSError(errno.ENAMETOOLONG, "File name too long", "aaa"), 2, "error: `aaa`: File name too long"),
        (OSError(errno.EIO, "Input/output error"), 1, "error: Input/output error"),
        (MemoryError(), 1, "error: there is not enough memory"),
    ],
)
def test_an_error_of_the_system_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, bcnet: Bcnet, error: Exception, code: int, says: str
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr("bcnet_cli.app.app", fail)
    done = bcnet("doctor")
    assert done.returncode == code
    assert done.stderr.startswith(says) and "--debug" in done.stderr and "Traceback" not in done.stderr
